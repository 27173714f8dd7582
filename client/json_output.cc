#include "client/json_output.h"

#include <nlohmann/json.hpp>

namespace mnemosyne::client {
namespace {

using Json = nlohmann::ordered_json;

// Bytes that are no UTF-8 become U+FFFD rather than an exception.
std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json ToJson(const Watermarks& watermarks) {
  return {{"accepted", watermarks.accepted},
          {"durable", watermarks.durable},
          {"memorized", watermarks.memorized},
          {"accepted_bytes", watermarks.accepted_bytes}};
}

std::string ToText(absl::Time time) { return absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone()); }

Json ToJson(const SessionSettings& settings) {
  Json json = {{"retention", std::string(RetentionName(settings.retention.value_or(Retention::kUnspecified)))}};
  const auto add_lifetime = [&](const char* name, absl::optional<absl::Duration> lifetime) {
    if (lifetime && *lifetime != absl::InfiniteDuration()) json[name] = absl::ToDoubleSeconds(*lifetime);
  };
  add_lifetime("ttl_seconds", settings.ttl);
  add_lifetime("idle_ttl_seconds", settings.idle_ttl);
  json["max_backlog_tokens"] = settings.max_backlog_tokens.value_or(0);
  json["max_log_bytes"] = settings.max_log_bytes.value_or(0);
  return json;
}

Json ToJson(const SessionInfo& session) {
  Json json = {{"session_id", session.session_id},
               {"model", session.model},
               {"fingerprint", session.fingerprint},
               {"watermarks", ToJson(session.watermarks)},
               {"epoch", session.epoch},
               {"next_sequence", session.next_sequence},
               {"pending_tokens", session.pending_tokens},
               {"state_bytes", session.state_bytes},
               {"log_bytes", session.log_bytes},
               {"resident", session.resident},
               {"labels", session.labels},
               {"create_time", ToText(session.create_time)},
               {"update_time", ToText(session.update_time)}};
  if (session.failure) json["failure"] = *session.failure;
  json["settings"] = ToJson(session.settings);
  json["earliest_offset"] = session.earliest_offset;
  if (session.expire_time != absl::InfiniteFuture()) json["expire_time"] = ToText(session.expire_time);
  return json;
}

}  // namespace

absl::string_view StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfAnswer:
      return "end_of_answer";
    case StopReason::kStopString:
      return "stop_string";
    case StopReason::kMaxTokens:
      return "max_tokens";
    case StopReason::kUnspecified:
      break;
  }
  return "unspecified";
}

absl::string_view TokenizerName(TokenizerKind kind) {
  switch (kind) {
    case TokenizerKind::kBytes:
      return "bytes";
    case TokenizerKind::kSentencePiece:
      return "sentencepiece";
    case TokenizerKind::kNone:
      return "none";
    case TokenizerKind::kUnspecified:
      break;
  }
  return "unspecified";
}

absl::string_view RetentionName(Retention retention) {
  switch (retention) {
    case Retention::kKeep:
      return "keep";
    case Retention::kTrim:
      return "trim";
    case Retention::kUnspecified:
      break;
  }
  return "unspecified";
}

std::string SessionJson(const SessionInfo& session) { return Dump(ToJson(session)); }

std::string ModelJson(const ModelInfo& model) {
  return Dump(Json{{"name", model.name},
                   {"fingerprint", model.fingerprint},
                   {"parameter_count", model.parameter_count},
                   {"vocab_size", model.vocab_size},
                   {"block_tokens", model.block_tokens},
                   {"state_bytes", model.state_bytes},
                   {"tokenizer", std::string(TokenizerName(model.tokenizer))}});
}

std::string AnswerJson(absl::string_view session_id, const QueryDelta& answer, const QuerySummary& summary) {
  Json numbers = {{"stop_reason", std::string(StopReasonName(summary.stop_reason))},
                  {"prompt_tokens", summary.prompt_tokens},
                  {"pending_tokens", summary.pending_tokens},
                  {"answer_tokens", summary.answer_tokens},
                  {"queue_seconds", absl::ToDoubleSeconds(summary.queue_time)},
                  {"time_to_first_token_seconds", absl::ToDoubleSeconds(summary.time_to_first_token)},
                  {"total_seconds", absl::ToDoubleSeconds(summary.total_time)},
                  {"as_of_offset", summary.as_of_offset}};
  if (summary.remembered_offset) numbers["remembered_offset"] = *summary.remembered_offset;
  return Dump(Json{{"session_id", std::string(session_id)},
                   {"answer", answer.text},
                   {"token_ids", answer.token_ids},
                   {"log_probabilities", answer.log_probabilities},
                   {"summary", std::move(numbers)}});
}

std::string DeletedJson(absl::string_view session_id) {
  return Dump(Json{{"session_id", std::string(session_id)}, {"deleted", true}});
}

std::string ErasedJson(const ErasedSpan& erased) {
  return Dump(Json{{"session", ToJson(erased.session)}, {"still_in", erased.still_in}});
}

std::string ExportedJson(absl::string_view session_id, absl::string_view file, int64_t bytes) {
  return Dump(Json{{"session_id", std::string(session_id)}, {"file", std::string(file)}, {"bytes", bytes}});
}

std::string BackupJson(const BackupInfo& backup) {
  return Dump(
      Json{{"backup_id", backup.backup_id}, {"bytes", backup.bytes}, {"create_time", ToText(backup.create_time)}});
}

std::string StreamJson(const StreamTotals& totals) {
  Json json = {{"session_id", totals.session_id},
               {"created", totals.created},
               {"skipped_bytes", totals.skipped_bytes},
               {"sent_bytes", totals.sent_bytes},
               {"accepted_tokens", totals.accepted_tokens},
               {"seconds", absl::ToDoubleSeconds(totals.elapsed)},
               {"watermarks", ToJson(totals.progress.watermarks)}};
  if (totals.progress.mean_surprise) json["mean_surprise"] = *totals.progress.mean_surprise;
  return Dump(json);
}

}  // namespace mnemosyne::client
