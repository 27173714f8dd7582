// The threads that run models: each takes work from the scheduler and does it, single-threaded inside.
//
// Thread-safe. Destroying the pool waits for its threads: shut the scheduler down first.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "core/scheduling/scheduler.h"

namespace mnemosyne {

class WorkerPool {
 public:
  // `run` is called with each piece of work, from `workers` threads at once. scheduler: not owned.
  WorkerPool(int workers, Scheduler* scheduler, const std::function<void(const Work&)>& run);
  ~WorkerPool();

 private:
  std::vector<std::thread> threads_;
};

}  // namespace mnemosyne
