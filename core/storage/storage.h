// A data folder: sessions' metadata, their logs and their snapshots (docs/formats/storage.md). Bytes in, bytes out.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<Storage> storage, Storage::Open({.path = "data"}));
//   RETURN_IF_ERROR(storage->PutSession(metadata));
//   RETURN_IF_ERROR(storage->AppendLog(records));     // one fsync for all of them; then they outlive a crash
//
// Every write is atomic and, with sync_writes, durable when it returns. After a write that failed, nobody knows what
// the disk holds: every later write is UNAVAILABLE with the first error until the folder is opened again; reads go on.
// Every read verifies checksums: DATA_LOSS names the record. Thread-safe; calls block on the disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace mnemosyne {

struct SessionMetadata {
  uint64_t number = 0;  // names the session in every key; from NextSessionNumber
  uint64_t epoch = 1;   // counted up by a reset: log and snapshots belong to one epoch
  std::string id;
  std::string model;
  std::string fingerprint;      // the model's
  uint64_t first_sequence = 1;  // sequence number of the first append in this epoch
  std::map<std::string, std::string> labels;
  absl::Time create_time = absl::UnixEpoch();  // times are kept to the nanosecond
  absl::Time update_time = absl::UnixEpoch();  // of this metadata
};

enum class LogContent : uint8_t { kText = 1, kTokenIds = 2 };

struct LogRecord {
  uint64_t session_number = 0;
  uint64_t epoch = 1;
  uint64_t index = 0;         // 0, 1, 2, ... in the epoch, without a gap
  uint64_t sequence = 0;      // the writer's
  int64_t first_offset = -1;  // token offset where its tokens begin; -1 when not known
  absl::Time time = absl::UnixEpoch();
  LogContent kind = LogContent::kText;
  std::string payload;  // text as it came, or little-endian int32 token ids
};

struct SnapshotHeader {
  uint64_t session_number = 0;
  uint64_t epoch = 1;
  int64_t offset = 0;              // tokens in the state
  std::string fingerprint;         // the model's
  uint64_t replay_index = 0;       // first log record that is not wholly in the state
  int64_t replay_skip_bytes = 0;   // payload bytes of that record that are in the state as whole pieces
  int64_t replay_skip_tokens = 0;  // tokens after those bytes that are in the state
  uint64_t next_sequence = 1;      // after the records before replay_index
  int64_t accepted_bytes = 0;      // content bytes of the records before replay_index
  int64_t state_bytes = 0;         // set by PutSnapshot
};

struct Snapshot {
  SnapshotHeader header;
  std::string state;
};

class Storage {
 public:
  struct Options {
    std::string path;
    bool sync_writes = true;  // false: a power failure may lose the last writes; for tests and benchmarks
  };

  // Opens the folder, or makes it. PERMISSION_DENIED: not writable. FAILED_PRECONDITION: locked by another process,
  // written by a newer version, or not empty and no data folder. DATA_LOSS: damaged.
  static absl::StatusOr<std::unique_ptr<Storage>> Open(const Options& options);
  ~Storage();

  // Sessions.
  uint64_t NextSessionNumber();  // one that no session has or had
  absl::Status PutSession(const SessionMetadata& metadata);
  // Also drops the log and the snapshots of every other epoch: the end of a reset, or of one that a crash cut short.
  absl::Status PutSessionAndDropOtherEpochs(const SessionMetadata& metadata);
  absl::Status DeleteSession(uint64_t number);                  // with its log and its snapshots
  absl::StatusOr<std::vector<SessionMetadata>> LoadSessions();  // all, by number

  // Log.
  absl::Status AppendLog(absl::Span<const LogRecord> records);  // of any sessions; one batch, one fsync
  // Calls `visit` with the records from `from_index` on, in order, and stops at its first error, which it returns.
  // DATA_LOSS: a damaged record, or a gap.
  absl::Status ReadLog(uint64_t number, uint64_t epoch, uint64_t from_index,
                       absl::FunctionRef<absl::Status(const LogRecord&)> visit);
  absl::StatusOr<std::optional<LogRecord>> LastLogRecord(uint64_t number, uint64_t epoch);
  int64_t LogBytes(uint64_t number);  // on disk and in the write buffer, approximate

  // Snapshots.
  absl::Status PutSnapshot(const SnapshotHeader& header, absl::string_view state);
  absl::Status DeleteSnapshot(uint64_t number, uint64_t epoch, int64_t offset);
  // Offsets, newest first. Reads no record: ReadSnapshot tells which of them are good.
  absl::StatusOr<std::vector<int64_t>> ListSnapshots(uint64_t number, uint64_t epoch);
  absl::StatusOr<SnapshotHeader> ReadSnapshotHeader(uint64_t number, uint64_t epoch, int64_t offset);  // NOT_FOUND
  // NOT_FOUND: there is none. DATA_LOSS: it is damaged, or half of it is missing.
  absl::StatusOr<Snapshot> ReadSnapshot(uint64_t number, uint64_t epoch, int64_t offset);

 private:
  struct Database;  // RocksDB, seen only by storage.cc
  explicit Storage(std::unique_ptr<Database> database);

  const std::unique_ptr<Database> database_;
  std::atomic<uint64_t> next_session_number_{1};
};

}  // namespace mnemosyne
