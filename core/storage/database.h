// The RocksDB database of a data folder: opened, checked, written to and read from. Seen by this folder only.
//
// After a write that failed nobody knows what the disk holds: every later one is refused with the first error.
// Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace mnemosyne {

class WitnessWriter;

inline absl::string_view View(const rocksdb::Slice& slice) { return absl::string_view(slice.data(), slice.size()); }
inline rocksdb::Slice Slice(absl::string_view view) { return rocksdb::Slice(view.data(), view.size()); }
// The same code; `name` before the message.
absl::Status Annotate(const absl::Status& status, absl::string_view name);

class Database {
 public:
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, bool sync_writes);
  ~Database();

  rocksdb::DB& db() const { return *db_; }
  rocksdb::ColumnFamilyHandle* sessions() const { return sessions_; }
  rocksdb::ColumnFamilyHandle* log() const { return log_; }
  rocksdb::ColumnFamilyHandle* snapshots() const { return snapshots_; }

  absl::Status Write(rocksdb::WriteBatch* batch);
  absl::Status write_failure() const;
  // Writes what is in memory into table files. A failure is a failed write.
  absl::Status Flush();
  // Rewrites the files of a family that hold keys of [begin, end), null: all; then they hold nothing that was deleted.
  absl::Status Rewrite(rocksdb::ColumnFamilyHandle* family, const rocksdb::Slice* begin, const rocksdb::Slice* end);

  int64_t StoredBytes() const;  // of all tables and blobs

  // NOT_FOUND: there is none.
  absl::StatusOr<std::string> Get(rocksdb::ColumnFamilyHandle* family, absl::string_view key, absl::string_view name);
  // Iterates over [begin, end) of one family; the bounds must outlive the iterator. `view`: as of then; null: now.
  std::unique_ptr<rocksdb::Iterator> Range(rocksdb::ColumnFamilyHandle* family, const rocksdb::Slice* begin,
                                           const rocksdb::Slice* end, const rocksdb::Snapshot* view = nullptr);

 private:
  explicit Database(bool sync_writes) : sync_writes_(sync_writes) {}
  absl::Status CheckMarker(const std::string& path);
  absl::Status Failed(const rocksdb::Status& status);

  const bool sync_writes_;
  std::shared_ptr<WitnessWriter> witness_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;  // destroyed before db_
  rocksdb::ColumnFamilyHandle* sessions_ = nullptr;
  rocksdb::ColumnFamilyHandle* log_ = nullptr;
  rocksdb::ColumnFamilyHandle* snapshots_ = nullptr;
  mutable absl::Mutex mutex_;
  absl::Status write_failure_ ABSL_GUARDED_BY(mutex_);  // the first
};

}  // namespace mnemosyne
