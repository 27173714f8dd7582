// A writer's place in a session, and the thread that tells writers how far they have come.
//
// Progress is told from one thread, newest first to win: a seat that is marked many times before its turn is told once.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"
#include "core/session/session_manager.h"

namespace mnemosyne {

// Calls an observer one call at a time, and never again after Close has returned.
class ObserverGate {
 public:
  // Runs `call` unless closed.
  template <typename Call>
  void Tell(const Call& call) {
    if (closed_) return;  // also when the observer closed it in a call of ours, further up this thread
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    caller_ = std::this_thread::get_id();
    call();
    caller_ = std::thread::id();
  }
  bool closed() const { return closed_; }
  // Waits for a call that runs, unless it is this thread's own.
  void Close() {
    closed_ = true;
    if (caller_.load() == std::this_thread::get_id()) return;
    absl::MutexLock lock(&mutex_);
  }

 private:
  absl::Mutex mutex_;
  std::atomic<bool> closed_ = false;
  std::atomic<std::thread::id> caller_{};
};

class WriterSeat {
 public:
  WriterSeat(SessionHandle session, std::shared_ptr<WriterObserver> observer)
      : observer_(std::move(observer)), session_(std::move(session)) {}

  const std::shared_ptr<Session> session() const {
    absl::MutexLock lock(&mutex_);
    return session_ ? session_.shared() : nullptr;
  }
  absl::Status lost() const {
    absl::MutexLock lock(&mutex_);
    return lost_;
  }
  // The first loss counts. The pin is given back.
  bool Lose(const absl::Status& status);
  void Close() { gate_.Close(); }  // the writer is destroyed
  void RequestFlush();
  // Session::Accept, while the seat is not lost: once it is, nothing of this writer's reaches the session. `has_room`:
  // of the log's queue. A sequence accepted before is taken and *repeat is set. False: no room, OnRoom comes later.
  absl::StatusOr<bool> Accept(uint64_t sequence, LogContent kind, std::string payload, bool has_room, absl::Time now,
                              absl::FunctionRef<void(Session::Accepted)> log, bool* repeat);
  // Tells the observer what is new.
  void Tell();

  enum class Mark { kNone, kSoon, kNow };
  std::atomic<Mark> mark = Mark::kNone;  // of the notifier: in which of its queues the seat waits

 private:
  const std::shared_ptr<WriterObserver> observer_;
  ObserverGate gate_;
  mutable absl::Mutex mutex_;
  SessionHandle session_ ABSL_GUARDED_BY(mutex_);
  absl::Status lost_ ABSL_GUARDED_BY(mutex_);
  bool told_lost_ ABSL_GUARDED_BY(mutex_) = false;
  bool wants_room_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Session::FlushPoint> flushes_ ABSL_GUARDED_BY(mutex_);
};

class WriterNotifier {
 public:
  WriterNotifier();
  ~WriterNotifier();  // tells what is marked first
  void Mark(std::shared_ptr<WriterSeat> seat);
  // As Mark, but it may take 20 ms, so that the news of many seats go out together: a message of its own for each block
  // would take a hundredth of a core from the blocks, and its client as much.
  void MarkSoon(std::shared_ptr<WriterSeat> seat);

 private:
  void Run();
  absl::Mutex mutex_;
  std::deque<std::shared_ptr<WriterSeat>> now_ ABSL_GUARDED_BY(mutex_);
  // Those that were marked more urgently since are skipped when their time comes.
  std::deque<std::shared_ptr<WriterSeat>> soon_ ABSL_GUARDED_BY(mutex_);
  absl::Time soon_at_ ABSL_GUARDED_BY(mutex_);  // when those are told
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mnemosyne
