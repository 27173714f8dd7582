#include "core/execution/worker_pool.h"

#include <optional>

#include "core/base/thread_name.h"
#include "core/model/model.h"

namespace mnemosyne {

WorkerPool::WorkerPool(int workers, Scheduler* scheduler, const std::function<void(const Work&)>& run) {
  for (int worker = 0; worker < workers; ++worker) {
    threads_.emplace_back([worker, scheduler, run] {
      NameThread("mn-worker");
      EnterWorkerThread();
      while (const std::optional<Work> work = scheduler->WaitNext(worker)) run(*work);
    });
  }
}

WorkerPool::~WorkerPool() {
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace mnemosyne
