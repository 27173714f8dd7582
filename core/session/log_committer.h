// Writes accepted records to the log with one fsync for all that wait: records that come while one batch is on its way
// make the next.
//
// Thread-safe. Destroying it writes what waits first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/base/distribution.h"
#include "core/session/session.h"
#include "core/storage/storage.h"

namespace mnemosyne {

class LogCommitter {
 public:
  struct Item {
    std::shared_ptr<Session> session;
    Session::Accepted accepted;
  };
  // `done` is told of each batch in order, from the committer's thread: OK, its records are durable. storage: not
  // owned.
  LogCommitter(Storage* storage, std::function<void(const absl::Status&, const std::vector<Item>&)> done);
  ~LogCommitter();

  void Add(Item item);
  bool IsIdle() const;
  bool Has(uint64_t session_number) const;  // a record of the session's waits or is on its way
  // Bytes that wait are bounded by the callers' backlogs; HasRoom is false beyond 64 MiB.
  bool HasRoom() const;

  struct Stats {
    Distribution::Counts seconds;  // of a commit: the write and the fsync
    Distribution::Counts appends;  // in a commit
  };
  Stats stats() const;

 private:
  void Run();

  Storage* const storage_;
  const std::function<void(const absl::Status&, const std::vector<Item>&)> done_;
  mutable absl::Mutex mutex_;
  std::vector<Item> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, int64_t> under_way_ ABSL_GUARDED_BY(mutex_);  // records, by session number
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Distribution seconds_{StageSecondsBounds()};
  Distribution appends_{{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}};
  std::thread thread_;  // last: it uses the members above
};

}  // namespace mnemosyne
