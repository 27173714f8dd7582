// Keys and values of a data folder's records (docs/formats/storage.md).
//
//   std::string key = LogKey(7, 1, 0), value = EncodeLogRecord(record);
//   ASSIGN_OR_RETURN(LogRecord same, DecodeLogRecord(key, value));
//
// A value is bound to its key: at another one, or with any bit changed, it is DATA_LOSS. A record whose checksum is
// right and whose version is above ours is FAILED_PRECONDITION. Messages do not name the record; the caller does.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/storage/records.h"

namespace mnemosyne {

inline constexpr uint32_t kFolderFormat = 1;  // the format of the folder as a whole
inline constexpr uint8_t kRecordVersion = 1;
inline constexpr uint8_t kSessionVersion = 2;  // of a session's metadata; version 1 had neither settings nor extents
inline constexpr absl::string_view kFormatKey = "format";
inline constexpr absl::string_view kNextSessionKey = "next_session";
// Marks, then a session's number: of one that is being imported; of one whose files are to be rewritten.
inline constexpr absl::string_view kImportMark = "import/", kScrubMark = "scrub/";

// Keys order by number, epoch and index or offset. Headers of snapshots lie together, apart from the states.
enum class SnapshotPart : uint8_t { kHeader = 0, kState = 1 };
std::string SessionKey(uint64_t number);
std::string EpochKey(uint64_t number, uint64_t epoch);  // what the keys of an epoch begin with
std::string LogKey(uint64_t number, uint64_t epoch, uint64_t index);
std::string SnapshotKey(uint64_t number, uint64_t epoch, SnapshotPart part, int64_t offset);

// The fields of keys; DATA_LOSS when the size is wrong.
absl::StatusOr<uint64_t> ParseSessionKey(absl::string_view key);
absl::StatusOr<uint64_t> ParseLogIndex(absl::string_view key);
absl::StatusOr<int64_t> ParseSnapshotOffset(absl::string_view key);

// The folder's marker. FAILED_PRECONDITION: "format 7; this program reads up to 1".
std::string EncodeFolderFormat(uint32_t format);
absl::Status CheckFolderFormat(absl::string_view value);

// Above the number of every session that was ever deleted.
std::string EncodeNextSession(uint64_t number);
absl::StatusOr<uint64_t> DecodeNextSession(absl::string_view value);

std::string MarkKey(absl::string_view mark, uint64_t number);
std::string EncodeMark(absl::string_view mark, uint64_t number);
absl::StatusOr<uint64_t> DecodeMark(absl::string_view mark, absl::string_view key, absl::string_view value);

std::string EncodeSession(const SessionMetadata& metadata);
absl::StatusOr<SessionMetadata> DecodeSession(absl::string_view key, absl::string_view value);

std::string EncodeLogRecord(const LogRecord& record);
absl::StatusOr<LogRecord> DecodeLogRecord(absl::string_view key, absl::string_view value);

std::string EncodeSnapshotHeader(const SnapshotHeader& header);
absl::StatusOr<SnapshotHeader> DecodeSnapshotHeader(absl::string_view key, absl::string_view value);

std::string EncodeSnapshotState(const SnapshotHeader& header, absl::string_view state);
// The state within `value`; `header` is the one stored with it.
absl::StatusOr<absl::string_view> DecodeSnapshotState(const SnapshotHeader& header, absl::string_view key,
                                                      absl::string_view value);

}  // namespace mnemosyne
