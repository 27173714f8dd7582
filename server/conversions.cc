#include "server/conversions.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/base/tenant.h"
#include "core/base/utf8.h"

namespace mnemosyne {
namespace {

constexpr size_t kMaxMessageBytes = 1024;
constexpr int32_t kMaxAnswerTokens = 65536;
constexpr float kMinTemperature = 0.01f, kMaxTemperature = 100.0f;
constexpr int kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 256;

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  out->set_seconds(seconds);
  out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

void SetDuration(absl::Duration duration, google::protobuf::Duration* out) {
  absl::Duration rest;
  out->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

absl::StatusOr<absl::Duration> DurationOf(absl::string_view name, const google::protobuf::Duration& duration) {
  constexpr int64_t kMostSeconds = 315'576'000'000;  // as duration.proto says
  constexpr int32_t kNanosPerSecond = 1'000'000'000;
  const bool fits = duration.seconds() >= 0 && duration.seconds() <= kMostSeconds && duration.nanos() >= 0 &&
                    duration.nanos() < kNanosPerSecond;
  if (!fits) return absl::InvalidArgumentError(absl::StrCat(name, " is to be a duration above 0"));
  // Longer than the 292 years that a 64-bit count of nanoseconds holds is for ever.
  if (duration.seconds() > 9'000'000'000) return absl::InfiniteDuration();
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

v1::TokenizerKind ToProto(TokenizerKind kind) {
  switch (kind) {
    case TokenizerKind::kBytes:
      return v1::TOKENIZER_KIND_BYTES;
    case TokenizerKind::kSentencePiece:
      return v1::TOKENIZER_KIND_SENTENCEPIECE;
    case TokenizerKind::kNone:
      break;
  }
  return v1::TOKENIZER_KIND_NONE;
}

v1::StopReason ToProto(StopReasonKind kind) {
  switch (kind) {
    case StopReasonKind::kEndOfAnswer:
      return v1::STOP_REASON_END_OF_ANSWER;
    case StopReasonKind::kStopString:
      return v1::STOP_REASON_STOP_STRING;
    case StopReasonKind::kMaxTokens:
      break;
  }
  return v1::STOP_REASON_MAX_TOKENS;
}

Content TokenContent(const v1::TokenIds& ids) {
  return {.kind = ContentKind::kTokenIds, .bytes = {}, .tokens = {ids.ids().begin(), ids.ids().end()}};
}

uint64_t DrawSeed() {
  std::random_device random;
  return (uint64_t{random()} << 32) | random();
}

absl::Status CheckSampling(const v1::QueryRequest& request) {
  if (request.has_max_tokens() && (request.max_tokens() < 1 || request.max_tokens() > kMaxAnswerTokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens(), "; it is to be 1 to ", kMaxAnswerTokens));
  }
  const float temperature = request.temperature();
  if (!std::isfinite(temperature) ||
      (temperature != 0.0f && (temperature < kMinTemperature || temperature > kMaxTemperature))) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", temperature, "; it is to be 0 or ", kMinTemperature, " to ", kMaxTemperature));
  }
  if (request.has_top_k() && request.top_k() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("top_k is ", request.top_k(), "; it is to be at least 1"));
  }
  if (request.has_top_p() && !(request.top_p() > 0.0f && request.top_p() <= 1.0f)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", request.top_p(), "; it is to be above 0, up to 1"));
  }
  if (request.stop_size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop has ", request.stop_size(), " strings; the maximum is ", kMaxStopStrings));
  }
  for (int i = 0; i < request.stop_size(); ++i) {
    const size_t bytes = request.stop(i).size();
    if (bytes < 1 || bytes > kMaxStopBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop[", i, "] has ", bytes, " bytes; it is to have 1 to ", kMaxStopBytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message = ToValidUtf8(status.message());
  if (message.size() > kMaxMessageBytes) {
    message.resize(kMaxMessageBytes);
    message.resize(message.size() - UnfinishedUtf8Bytes(message));
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message);
}

void ToProto(const Watermarks& watermarks, v1::Watermarks* out) {
  out->set_accepted(watermarks.accepted);
  out->set_durable(watermarks.durable);
  out->set_memorized(watermarks.memorized);
  out->set_accepted_bytes(watermarks.accepted_bytes);
}

void ToProto(const SessionInfo& session, v1::Session* out) {
  out->set_session_id(std::string(SessionNameOf(session.id)));
  out->set_model(session.model);
  out->set_fingerprint(session.fingerprint);
  ToProto(session.watermarks, out->mutable_watermarks());
  out->set_epoch(session.epoch);
  out->set_next_sequence(session.next_sequence);
  out->set_pending_tokens(session.pending_tokens);
  out->set_state_bytes(session.state_bytes);
  out->set_log_bytes(session.log_bytes);
  out->set_resident(session.resident);
  for (const auto& [key, value] : session.labels) (*out->mutable_labels())[key] = value;
  SetTime(session.create_time, out->mutable_create_time());
  SetTime(session.update_time, out->mutable_update_time());
  if (!session.failure.empty()) out->set_failure(WithoutTenant(session.failure, TenantOf(session.id)));
  ToProto(session.settings, out->mutable_settings());
  out->set_earliest_offset(session.earliest_offset);
  if (session.last_append_crc) out->set_last_append_crc32(*session.last_append_crc);
  if (session.expire_time != absl::InfiniteFuture()) SetTime(session.expire_time, out->mutable_expire_time());
}

void ToProto(const SessionSettings& settings, v1::SessionSettings* out) {
  out->set_retention(settings.retention == Retention::kTrim ? v1::RETENTION_TRIM : v1::RETENTION_KEEP);
  if (settings.ttl != absl::InfiniteDuration()) SetDuration(settings.ttl, out->mutable_ttl());
  if (settings.idle_ttl != absl::InfiniteDuration()) SetDuration(settings.idle_ttl, out->mutable_idle_ttl());
  out->set_max_backlog_tokens(settings.max_backlog_tokens);
  out->set_max_log_bytes(settings.max_log_bytes);
}

void ToProto(const BackupInfo& backup, v1::CreateBackupResponse* out) {
  out->set_backup_id(backup.id);
  out->set_bytes(backup.bytes);
  SetTime(backup.create_time, out->mutable_create_time());
}

std::map<std::string, std::string> LabelsOf(const google::protobuf::Map<std::string, std::string>& labels) {
  return {labels.begin(), labels.end()};
}

absl::StatusOr<SessionSettings> SettingsOf(const v1::SessionSettings& settings, const SessionSettings& defaults) {
  SessionSettings out = defaults;
  switch (settings.retention()) {
    case v1::RETENTION_UNSPECIFIED:
      break;
    case v1::RETENTION_KEEP:
      out.retention = Retention::kKeep;
      break;
    case v1::RETENTION_TRIM:
      out.retention = Retention::kTrim;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("settings.retention is ", settings.retention(), ", which is no retention"));
  }
  if (settings.has_ttl()) {
    ASSIGN_OR_RETURN(out.ttl, DurationOf("settings.ttl", settings.ttl()));
  }
  if (settings.has_idle_ttl()) {
    ASSIGN_OR_RETURN(out.idle_ttl, DurationOf("settings.idle_ttl", settings.idle_ttl()));
  }
  if (settings.max_backlog_tokens() != 0) out.max_backlog_tokens = settings.max_backlog_tokens();
  if (settings.max_log_bytes() != 0) out.max_log_bytes = settings.max_log_bytes();
  return out;
}

absl::StatusOr<SessionUpdate> UpdateOf(const v1::UpdateSessionRequest& request, const SessionSettings& now,
                                       const SessionSettings& defaults) {
  ASSIGN_OR_RETURN(const SessionSettings given, SettingsOf(request.settings(), defaults));
  SessionUpdate update;
  SessionSettings settings = now;
  for (const std::string& path : request.update_mask().paths()) {
    if (path == "labels") {
      update.labels = LabelsOf(request.labels());
      continue;
    }
    if (path == "settings") {
      settings = given;
    } else if (path == "settings.retention") {
      settings.retention = given.retention;
    } else if (path == "settings.ttl") {
      settings.ttl = given.ttl;
    } else if (path == "settings.idle_ttl") {
      settings.idle_ttl = given.idle_ttl;
    } else if (path == "settings.max_backlog_tokens") {
      settings.max_backlog_tokens = given.max_backlog_tokens;
    } else if (path == "settings.max_log_bytes") {
      settings.max_log_bytes = given.max_log_bytes;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("update_mask has the path '", path, "'; it may have labels, settings and fields of settings"));
    }
    update.settings = settings;
  }
  if (!update.labels && !update.settings) return absl::InvalidArgumentError("update_mask is empty");
  return update;
}

void ToProto(const ModelInfo& model, v1::Model* out) {
  out->set_name(model.name);
  out->set_fingerprint(model.fingerprint);
  out->set_parameter_count(model.parameter_count);
  out->set_vocab_size(static_cast<int32_t>(model.config.vocab_size));
  out->set_block_tokens(model.config.block_tokens());
  out->set_state_bytes(model.state_bytes);
  out->set_tokenizer(ToProto(model.config.tokenizer.kind));
}

void ToProto(const QuerySummary& summary, v1::Summary* out) {
  out->set_stop_reason(ToProto(summary.stop_reason));
  out->set_prompt_tokens(summary.prompt_tokens);
  out->set_pending_tokens(summary.pending_tokens);
  out->set_answer_tokens(summary.answer_tokens);
  SetDuration(summary.queue_time, out->mutable_queue_time());
  SetDuration(summary.time_to_first_token, out->mutable_time_to_first_token());
  SetDuration(summary.total_time, out->mutable_total_time());
  out->set_as_of_offset(summary.as_of_offset);
  if (summary.remembered_offset.has_value()) out->set_remembered_offset(*summary.remembered_offset);
}

absl::StatusOr<Content> ContentOf(const v1::Append& append) {
  if (append.sequence() == 0) return absl::InvalidArgumentError("append.sequence is 0; sequence numbers begin at 1");
  switch (append.content_case()) {
    case v1::Append::kText:
      if (append.text().empty()) return absl::InvalidArgumentError("append.text is empty");
      return Content{.kind = ContentKind::kText, .bytes = append.text(), .tokens = {}};
    case v1::Append::kTokenIds:
      if (append.token_ids().ids().empty()) return absl::InvalidArgumentError("append.token_ids is empty");
      return TokenContent(append.token_ids());
    case v1::Append::CONTENT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("append.content: neither text nor token_ids is set");
}

absl::StatusOr<QueryOptions> QueryOptionsOf(const v1::QueryRequest& request) {
  if (request.session_id().empty()) return absl::InvalidArgumentError("session_id is empty");
  RETURN_IF_ERROR(CheckSampling(request));
  QueryOptions out;
  out.session_id = request.session_id();
  switch (request.prompt_case()) {
    case v1::QueryRequest::kText:
      if (request.text().empty()) return absl::InvalidArgumentError("prompt: text is empty");
      out.prompt = {.kind = ContentKind::kText, .bytes = request.text(), .tokens = {}};
      break;
    case v1::QueryRequest::kTokenIds:
      if (request.token_ids().ids().empty()) return absl::InvalidArgumentError("prompt: token_ids is empty");
      out.prompt = TokenContent(request.token_ids());
      break;
    case v1::QueryRequest::PROMPT_NOT_SET:
      return absl::InvalidArgumentError("prompt: neither text nor token_ids is set");
  }
  out.raw_prompt = request.raw_prompt();
  if (request.has_max_tokens()) out.max_tokens = request.max_tokens();
  if (request.has_temperature()) out.temperature = request.temperature();
  if (request.has_top_k()) out.top_k = request.top_k();
  if (request.has_top_p()) out.top_p = request.top_p();
  out.seed = request.has_seed() ? request.seed() : DrawSeed();
  out.stop.assign(request.stop().begin(), request.stop().end());
  out.remember = request.remember();
  if (request.has_as_of_offset()) {
    if (request.remember())
      return absl::InvalidArgumentError("remember and as_of_offset: the past cannot be appended to");
    out.as_of_offset = request.as_of_offset();
  }
  return out;
}

absl::StatusOr<int> PageSizeOf(int32_t page_size) {
  if (page_size < 0) {
    return absl::InvalidArgumentError(absl::StrCat("page_size is ", page_size, "; it is to be at least 0"));
  }
  return page_size == 0 ? 100 : std::min(page_size, 1000);
}

}  // namespace mnemosyne
