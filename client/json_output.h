// What --json prints: one object, without a line break. Names are those of memory_service.proto.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "client/client.h"

namespace mnemosyne::client {

std::string SessionJson(const SessionInfo& session);
std::string ModelJson(const ModelInfo& model);
std::string AnswerJson(absl::string_view session_id, const QueryDelta& answer, const QuerySummary& summary);
std::string DeletedJson(absl::string_view session_id);
std::string ErasedJson(const ErasedSpan& erased);
std::string ExportedJson(absl::string_view session_id, absl::string_view file, int64_t bytes);
std::string BackupJson(const BackupInfo& backup);

// What a finished, or interrupted, stream came to.
struct StreamTotals {
  std::string session_id;
  bool created = false;
  int64_t skipped_bytes = 0;  // left out by --resume
  int64_t sent_bytes = 0;
  int64_t accepted_tokens = 0;  // since the stream was opened
  absl::Duration elapsed;
  StreamProgress progress;
};
std::string StreamJson(const StreamTotals& totals);

// The names that the proto has, in lower case and without their prefix.
absl::string_view StopReasonName(StopReason reason);
absl::string_view TokenizerName(TokenizerKind kind);
absl::string_view RetentionName(Retention retention);

}  // namespace mnemosyne::client
