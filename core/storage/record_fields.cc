#include "core/storage/record_fields.h"

#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace mnemosyne {
namespace {

absl::StatusOr<int64_t> ReadCount(ByteReader& in) {
  ASSIGN_OR_RETURN(const int64_t count, in.I64());
  if (count < 0) return absl::DataLossError(absl::StrCat("a count of ", count));
  return count;
}

// For ever is the largest there is.
void WriteLifetime(absl::Duration lifetime, ByteWriter& out) { out.I64(absl::ToInt64Nanoseconds(lifetime)); }

absl::StatusOr<absl::Duration> ReadLifetime(ByteReader& in) {
  ASSIGN_OR_RETURN(const int64_t nanoseconds, in.I64());
  if (nanoseconds <= 0) return absl::DataLossError(absl::StrCat("a lifetime of ", nanoseconds, " nanoseconds"));
  if (nanoseconds == std::numeric_limits<int64_t>::max()) return absl::InfiniteDuration();
  return absl::Nanoseconds(nanoseconds);
}

}  // namespace

absl::StatusOr<std::string> ReadString(ByteReader& in) {
  ASSIGN_OR_RETURN(const absl::string_view bytes, in.Sized());
  return std::string(bytes);
}

void WriteTime(absl::Time time, ByteWriter& out) { out.I64(absl::ToUnixNanos(time)); }

absl::StatusOr<absl::Time> ReadTime(ByteReader& in) {
  ASSIGN_OR_RETURN(const int64_t nanoseconds, in.I64());
  return absl::FromUnixNanos(nanoseconds);
}

void WriteLabels(const std::map<std::string, std::string>& labels, ByteWriter& out) {
  out.U32(static_cast<uint32_t>(labels.size()));
  for (const auto& [name, value] : labels) {
    out.Sized(name);
    out.Sized(value);
  }
}

absl::Status ReadLabels(ByteReader& in, std::map<std::string, std::string>* labels) {
  ASSIGN_OR_RETURN(const uint32_t count, in.U32());
  for (uint32_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(std::string name, ReadString(in));
    ASSIGN_OR_RETURN(std::string value, ReadString(in));
    if (!labels->empty() && name <= labels->rbegin()->first) {
      return absl::DataLossError(absl::StrCat("label '", absl::CHexEscape(name), "' is not in order"));
    }
    labels->emplace_hint(labels->end(), std::move(name), std::move(value));
  }
  return absl::OkStatus();
}

void WriteSettingsAndTrim(const SessionMetadata& metadata, ByteWriter& out) {
  out.U8(static_cast<uint8_t>(metadata.settings.retention));
  WriteLifetime(metadata.settings.ttl, out);
  WriteLifetime(metadata.settings.idle_ttl, out);
  out.I64(metadata.settings.max_backlog_tokens);
  out.I64(metadata.settings.max_log_bytes);
  out.U64(metadata.log_begin);
  out.I64(metadata.earliest_offset);
  out.I64(metadata.trimmed_bytes);
}

absl::Status ReadSettingsAndTrim(ByteReader& in, SessionMetadata* metadata) {
  ASSIGN_OR_RETURN(const uint8_t retention, in.U8());
  metadata->settings.retention = static_cast<Retention>(retention);
  if (metadata->settings.retention != Retention::kKeep && metadata->settings.retention != Retention::kTrim) {
    return absl::DataLossError(absl::StrCat("retention ", int{retention}));
  }
  ASSIGN_OR_RETURN(metadata->settings.ttl, ReadLifetime(in));
  ASSIGN_OR_RETURN(metadata->settings.idle_ttl, ReadLifetime(in));
  ASSIGN_OR_RETURN(metadata->settings.max_backlog_tokens, ReadCount(in));
  ASSIGN_OR_RETURN(metadata->settings.max_log_bytes, ReadCount(in));
  ASSIGN_OR_RETURN(metadata->log_begin, in.U64());
  ASSIGN_OR_RETURN(metadata->earliest_offset, ReadCount(in));
  ASSIGN_OR_RETURN(metadata->trimmed_bytes, ReadCount(in));
  return absl::OkStatus();
}

void WriteLogFields(const LogRecord& record, ByteWriter& out) {
  out.U64(record.sequence);
  out.I64(record.first_offset);
  WriteTime(record.time, out);
  out.U8(static_cast<uint8_t>(record.kind));
  out.Raw(record.payload);
}

absl::Status ReadLogFields(ByteReader& in, LogRecord* record) {
  ASSIGN_OR_RETURN(record->sequence, in.U64());
  ASSIGN_OR_RETURN(record->first_offset, in.I64());
  ASSIGN_OR_RETURN(record->time, ReadTime(in));
  ASSIGN_OR_RETURN(const uint8_t kind, in.U8());
  record->kind = static_cast<LogContent>(kind);
  record->payload = std::string(in.rest());
  if (record->kind != LogContent::kText && record->kind != LogContent::kTokenIds) {
    return absl::DataLossError(absl::StrCat("content kind ", int{kind}));
  }
  if (record->kind == LogContent::kTokenIds && record->payload.size() % sizeof(int32_t) != 0) {
    return absl::DataLossError(absl::StrCat(record->payload.size(), " bytes are no whole token ids"));
  }
  return absl::OkStatus();
}

void WriteSnapshotFields(const SnapshotHeader& header, ByteWriter& out) {
  out.Sized(header.fingerprint);
  out.U64(header.replay_index);
  out.I64(header.replay_skip_bytes);
  out.I64(header.replay_skip_tokens);
  out.U64(header.next_sequence);
  out.I64(header.accepted_bytes);
  out.I64(header.state_bytes);
}

absl::Status ReadSnapshotFields(ByteReader& in, SnapshotHeader* header) {
  ASSIGN_OR_RETURN(header->fingerprint, ReadString(in));
  ASSIGN_OR_RETURN(header->replay_index, in.U64());
  ASSIGN_OR_RETURN(header->replay_skip_bytes, ReadCount(in));
  ASSIGN_OR_RETURN(header->replay_skip_tokens, ReadCount(in));
  ASSIGN_OR_RETURN(header->next_sequence, in.U64());
  ASSIGN_OR_RETURN(header->accepted_bytes, ReadCount(in));
  ASSIGN_OR_RETURN(header->state_bytes, ReadCount(in));
  return in.ExpectEnd();
}

}  // namespace mnemosyne
