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
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/storage/branches.h"
#include "core/storage/records.h"

namespace mnemosyne {

// Writes that belong together: after a crash all of them are there, or none.
struct SessionChange {
  std::optional<SessionMetadata> put;
  std::optional<uint64_t> deleted;          // a session's number
  std::optional<BranchId> new_branch;       // whatever lies in it goes first
  absl::Span<const LogRecord> records;      // to be added
  absl::Span<const KeptOfBranch> kept;      // of branches that were let go of
  std::optional<uint64_t> finished_import;  // of this session number
  absl::Span<const uint64_t> scrubbed;      // session numbers of whose branches Scrub is to leave nothing in the files
};

struct StorageBackup {
  uint32_t id = 0;  // counted up in its folder
  int64_t bytes = 0;
  absl::Time time;
};

class Database;

// Reads a session's log in order, as it was when the reader was made, whatever is appended meanwhile. Scrub and Reopen
// wait for no reader: it goes on from where it was with the log as it is then. Thread-compatible; does not outlive its
// storage.
class LogReader {
 public:
  ~LogReader();
  // The next record, with its index in the session's log; nullopt after the last. DATA_LOSS: damaged, or missing.
  // ABORTED: what it was reading was dropped meanwhile. UNAVAILABLE: the folder is being opened again; Next can be
  // called again.
  absl::StatusOr<std::optional<LogRecord>> Next();

 private:
  friend class Storage;
  class Cursor;
  explicit LogReader(std::unique_ptr<Cursor> cursor);
  const std::unique_ptr<Cursor> cursor_;
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
  absl::Status PutSession(const SessionMetadata& metadata) { return Apply({.put = metadata}); }
  absl::Status Apply(const SessionChange& change);
  absl::StatusOr<std::vector<SessionMetadata>> LoadSessions();  // all, by number

  // Log.
  absl::Status AppendLog(absl::Span<const LogRecord> records);  // of any sessions; one batch, one fsync
  // Reads the session's log from the record `from_index` on.
  absl::StatusOr<std::unique_ptr<LogReader>> ReadLog(const SessionMetadata& session, uint64_t from_index);
  // DATA_LOSS: missing. FAILED_PRECONDITION: trimmed.
  absl::StatusOr<LogRecord> ReadLogRecord(const SessionMetadata& session, uint64_t index);
  absl::StatusOr<std::optional<LogRecord>> LastLogRecord(const SessionMetadata& session);
  int64_t LogBytes(const SessionMetadata& session);  // on disk and in the write buffer, approximate

  // Snapshots.
  absl::Status PutSnapshot(const SnapshotHeader& header, absl::string_view state);
  absl::Status DeleteSnapshots(absl::Span<const SnapshotId> snapshots);
  // Those of the session, newest first; of one offset, its own first. Reads no record: ReadSnapshot tells which of them
  // are good.
  absl::StatusOr<std::vector<SnapshotId>> ListSnapshots(const SessionMetadata& session);
  absl::StatusOr<SnapshotHeader> ReadSnapshotHeader(const SnapshotId& id);  // NOT_FOUND
  // NOT_FOUND: there is none. DATA_LOSS: it is damaged, or half of it is missing.
  absl::StatusOr<Snapshot> ReadSnapshot(const SnapshotId& id);

  // Marks a session number as one that is being imported: until Apply says that it is finished, its branches are
  // dropped when the folder is opened again.
  absl::Status BeginImport(uint64_t number);
  absl::Status AbandonImport(uint64_t number);

  // The folder as a whole.
  int64_t StoredBytes() const;  // of its tables and blobs; 0 while it is being opened again
  absl::Status Flush();         // everything into table files; the write-ahead log is empty then
  // Rewrites the files that hold branches of the sessions that Apply marked as scrubbed, so that no file has a byte of
  // what was deleted. What it does not come to, the next call does, also after the folder was opened again.
  absl::Status Scrub();
  absl::StatusOr<bool> HasToScrub();

  // Copies the folder as it is into `backup_path`, which holds any number of backups and shares between them what they
  // have in common. Others may write meanwhile; a second backup waits for the first.
  absl::StatusOr<StorageBackup> CreateBackup(const std::string& backup_path);
  static absl::StatusOr<std::vector<StorageBackup>> ListBackups(const std::string& backup_path);  // oldest first
  // Makes a data folder of a backup, 0: the newest. FAILED_PRECONDITION: there is something at `path`. NOT_FOUND: no
  // such backup. DATA_LOSS: it is damaged.
  static absl::Status RestoreBackup(const std::string& backup_path, uint32_t id, const std::string& path);

  // After a write failed: closes the folder and opens it again, which tells what the disk holds, and takes writes
  // again. OK without doing anything when none failed. While it runs, and after it failed, every call is UNAVAILABLE.
  absl::Status Reopen();
  absl::Status write_failure() const;  // OK: writes are taken

 private:
  friend class LogReader;
  Storage(const Options& options, std::shared_ptr<Database> database);
  absl::StatusOr<std::shared_ptr<Database>> Use() const;  // keeps it open
  void DetachReaders();                                   // they hold nothing of the folder until they are asked again

  const Options options_;
  std::atomic<uint64_t> next_session_number_{1};
  absl::Mutex backup_mutex_;  // held for a whole backup: RocksDB takes one writer of a backup folder at a time
  absl::Mutex scrub_mutex_;   // held for a whole scrub
  absl::Mutex erasures_mutex_;
  int64_t erasures_ ABSL_GUARDED_BY(erasures_mutex_) = 0;  // changes that put marks
  absl::Mutex readers_mutex_;
  absl::flat_hash_set<LogReader::Cursor*> readers_ ABSL_GUARDED_BY(readers_mutex_);
  mutable absl::Mutex mutex_;
  std::shared_ptr<Database> database_ ABSL_GUARDED_BY(mutex_);  // null: being opened again
};

}  // namespace mnemosyne
