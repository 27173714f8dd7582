// Control-C as an event: reads that wait for input end with CANCELLED, and calls under way can be cancelled.
//
//   Interrupt interrupt;                                  // from now on SIGINT does not kill
//   interrupt.SetAction([&] { client->Cancel(); });       // runs on a thread of the interrupt's own
//   ASSIGN_OR_RETURN(size_t size, interrupt.Read(STDIN_FILENO, buffer));
//
// At most one in a process at a time. A second SIGINT kills as usual. Thread-safe.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace mnemosyne::client {

class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool happened() const;

  // What SIGINT does, at once when it came before; null for nothing. Returns when the former action is not running.
  void SetAction(std::function<void()> action);

  // Reads what there is, waiting for at least a byte; 0 at the end. CANCELLED when SIGINT came.
  absl::StatusOr<size_t> Read(int file, absl::Span<char> buffer) const;

 private:
  void Watch();

  int pipe_[2];       // SIGINT writes a byte, which nobody reads: it stays readable
  int stop_pipe_[2];  // the destructor's word to the thread
  mutable absl::Mutex mutex_;
  bool happened_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
  std::thread watcher_;
};

}  // namespace mnemosyne::client
