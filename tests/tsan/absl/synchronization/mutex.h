// absl::Mutex for the thread sanitizer: Abseil's own, from a library that is not instrumented, is a lock that the
// sanitizer does not see, so that it reports every access that such a lock guards. This one is made of std::mutex.
//
// Only what core uses. In front of Abseil's header in core and its tests, with MNEMOSYNE_SANITIZE=thread; gRPC's
// headers have Abseil's mutexes inside and may not see it.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>

#include "absl/base/config.h"
#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

// Hidden: libraries of Abseil and gRPC have classes of these names, and keep them.
#define MNEMOSYNE_OURS __attribute__((visibility("hidden")))

namespace absl {
ABSL_NAMESPACE_BEGIN

class MNEMOSYNE_OURS Condition {
 public:
  template <typename Functor>
  explicit Condition(const Functor* functor) : holds_([functor] { return (*functor)(); }) {}
  bool Eval() const { return holds_(); }

 private:
  std::function<bool()> holds_;
};

class MNEMOSYNE_OURS ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    changed_.notify_all();  // before: who waits may destroy the mutex after
    mutex_.unlock();
  }
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}
  void Await(const Condition& condition) { AwaitWithDeadline(condition, absl::InfiniteFuture()); }
  bool AwaitWithTimeout(const Condition& condition, absl::Duration timeout) {
    return AwaitWithDeadline(condition, absl::Now() + timeout);
  }
  bool AwaitWithDeadline(const Condition& condition, absl::Time deadline) {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    changed_.notify_all();
    bool holds = condition.Eval();
    while (!holds && absl::Now() < deadline) {
      constexpr absl::Duration kMost = absl::Seconds(1);
      changed_.wait_for(lock, absl::ToChronoNanoseconds(std::min(kMost, deadline - absl::Now())));
      holds = condition.Eval();
    }
    lock.release();
    return holds;
  }

 private:
  friend class CondVar;
  std::mutex mutex_;
  std::condition_variable changed_;
};

class MNEMOSYNE_OURS ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

class MNEMOSYNE_OURS CondVar {
 public:
  void Wait(Mutex* mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    mutex->changed_.notify_all();
    signalled_.wait(lock);
    lock.release();
  }
  void Signal() { signalled_.notify_one(); }
  void SignalAll() { signalled_.notify_all(); }

 private:
  std::condition_variable signalled_;
};

ABSL_NAMESPACE_END
}  // namespace absl
