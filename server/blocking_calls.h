// Threads for the engine's calls that may wait for a disk: gRPC's own threads must not.
//
//   if (!blocking.Schedule([call] { call->Open(); })) return Busy();
//
// Thread-safe.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace mnemosyne {

class BlockingCalls {
 public:
  BlockingCalls(int threads, int max_waiting);
  ~BlockingCalls();  // runs what was taken, then joins
  BlockingCalls(const BlockingCalls&) = delete;
  BlockingCalls& operator=(const BlockingCalls&) = delete;

  // False when max_waiting tasks wait: nothing was taken, and the caller answers UNAVAILABLE at once.
  bool Schedule(std::function<void()> task);
  // The next part of a call that was taken before, never refused: each open stream has at most one.
  void Continue(std::function<void()> task);

 private:
  void Work();

  const int max_waiting_;
  absl::Mutex mutex_;  // guards everything below
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // last: they use the members above; constant after construction
};

}  // namespace mnemosyne
