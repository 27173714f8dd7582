#include "client/wire.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/utf8.h"

namespace mnemosyne::client {
namespace {

absl::Time FromWire(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Duration FromWire(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

// The longest that the message may have is for ever.
constexpr int64_t kForeverSeconds = 315'576'000'000;

void ToWire(absl::Duration duration, google::protobuf::Duration* out) {
  absl::Duration rest;
  const int64_t seconds = absl::IDivDuration(duration, absl::Seconds(1), &rest);
  out->set_seconds(std::min(seconds, kForeverSeconds));
  if (seconds < kForeverSeconds) out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

absl::Duration LifetimeFromWire(bool is_set, const google::protobuf::Duration& duration) {
  return is_set ? FromWire(duration) : absl::InfiniteDuration();
}

Retention FromWire(v1::Retention retention) {
  switch (retention) {
    case v1::RETENTION_KEEP:
      return Retention::kKeep;
    case v1::RETENTION_TRIM:
      return Retention::kTrim;
    default:
      return Retention::kUnspecified;
  }
}

TokenizerKind FromWire(v1::TokenizerKind kind) {
  switch (kind) {
    case v1::TOKENIZER_KIND_BYTES:
      return TokenizerKind::kBytes;
    case v1::TOKENIZER_KIND_SENTENCEPIECE:
      return TokenizerKind::kSentencePiece;
    case v1::TOKENIZER_KIND_NONE:
      return TokenizerKind::kNone;
    default:
      return TokenizerKind::kUnspecified;
  }
}

StopReason FromWire(v1::StopReason reason) {
  switch (reason) {
    case v1::STOP_REASON_END_OF_ANSWER:
      return StopReason::kEndOfAnswer;
    case v1::STOP_REASON_STOP_STRING:
      return StopReason::kStopString;
    case v1::STOP_REASON_MAX_TOKENS:
      return StopReason::kMaxTokens;
    default:
      return StopReason::kUnspecified;
  }
}

}  // namespace

absl::Duration RetryAfter(const grpc::ClientContext& context) {
  const auto found = context.GetServerTrailingMetadata().find("retry-after-ms");
  int64_t milliseconds = 0;
  if (found == context.GetServerTrailingMetadata().end() ||
      !absl::SimpleAtoi(absl::string_view(found->second.data(), found->second.size()), &milliseconds)) {
    return absl::ZeroDuration();
  }
  return absl::Milliseconds(std::clamp<int64_t>(milliseconds, 0, 60'000));
}

absl::Status FromWire(const grpc::Status& status) {
  // The numbers are the same on both sides.
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

Watermarks FromWire(const v1::Watermarks& watermarks) {
  return {.accepted = watermarks.accepted(),
          .durable = watermarks.durable(),
          .memorized = watermarks.memorized(),
          .accepted_bytes = watermarks.accepted_bytes()};
}

SessionInfo FromWire(const v1::Session& session) {
  SessionInfo info;
  info.session_id = session.session_id();
  info.model = session.model();
  info.fingerprint = session.fingerprint();
  info.watermarks = FromWire(session.watermarks());
  info.epoch = session.epoch();
  info.next_sequence = session.next_sequence();
  info.pending_tokens = session.pending_tokens();
  info.state_bytes = session.state_bytes();
  info.log_bytes = session.log_bytes();
  info.resident = session.resident();
  info.labels = {session.labels().begin(), session.labels().end()};
  info.create_time = FromWire(session.create_time());
  info.update_time = FromWire(session.update_time());
  if (session.has_failure()) info.failure = session.failure();
  const v1::SessionSettings& settings = session.settings();
  info.settings.retention = FromWire(settings.retention());
  info.settings.ttl = LifetimeFromWire(settings.has_ttl(), settings.ttl());
  info.settings.idle_ttl = LifetimeFromWire(settings.has_idle_ttl(), settings.idle_ttl());
  info.settings.max_backlog_tokens = settings.max_backlog_tokens();
  info.settings.max_log_bytes = settings.max_log_bytes();
  info.earliest_offset = session.earliest_offset();
  if (session.has_expire_time()) info.expire_time = FromWire(session.expire_time());
  if (session.has_last_append_crc32()) info.last_append_crc32 = session.last_append_crc32();
  return info;
}

ModelInfo FromWire(const v1::Model& model) {
  return {.name = model.name(),
          .fingerprint = model.fingerprint(),
          .parameter_count = model.parameter_count(),
          .vocab_size = model.vocab_size(),
          .block_tokens = model.block_tokens(),
          .state_bytes = model.state_bytes(),
          .tokenizer = FromWire(model.tokenizer())};
}

QuerySummary FromWire(const v1::Summary& summary) {
  QuerySummary out;
  out.stop_reason = FromWire(summary.stop_reason());
  out.prompt_tokens = summary.prompt_tokens();
  out.pending_tokens = summary.pending_tokens();
  out.answer_tokens = summary.answer_tokens();
  out.queue_time = FromWire(summary.queue_time());
  out.time_to_first_token = FromWire(summary.time_to_first_token());
  out.total_time = FromWire(summary.total_time());
  out.as_of_offset = summary.as_of_offset();
  if (summary.has_remembered_offset()) out.remembered_offset = summary.remembered_offset();
  return out;
}

BackupInfo FromWire(const v1::CreateBackupResponse& backup) {
  return {.backup_id = backup.backup_id(), .bytes = backup.bytes(), .create_time = FromWire(backup.create_time())};
}

void ToWire(const SessionSettings& settings, v1::SessionSettings* out) {
  if (settings.retention == Retention::kKeep) out->set_retention(v1::RETENTION_KEEP);
  if (settings.retention == Retention::kTrim) out->set_retention(v1::RETENTION_TRIM);
  if (settings.ttl) ToWire(*settings.ttl, out->mutable_ttl());
  if (settings.idle_ttl) ToWire(*settings.idle_ttl, out->mutable_idle_ttl());
  if (settings.max_backlog_tokens) out->set_max_backlog_tokens(*settings.max_backlog_tokens);
  if (settings.max_log_bytes) out->set_max_log_bytes(*settings.max_log_bytes);
}

absl::Status CheckLabels(const Labels& labels) {
  for (const auto& [key, value] : labels) RETURN_IF_ERROR(CheckUtf8("label", absl::StrCat(key, "=", value)));
  return absl::OkStatus();
}

absl::Status SetLabels(const Labels& labels, google::protobuf::Map<std::string, std::string>* out) {
  RETURN_IF_ERROR(CheckLabels(labels));
  out->insert(labels.begin(), labels.end());
  return absl::OkStatus();
}

absl::Status CheckUtf8(absl::string_view what, absl::string_view text) {
  if (ToValidUtf8(text) == text) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the ", what, " is not valid UTF-8"));
}

}  // namespace mnemosyne::client
