// Decides what a worker does next: one block of each of some sessions, or one turn of each of some queries.
//
//   scheduler.SessionReady(7);                                   // session number 7 has a whole block
//   RETURN_IF_ERROR(scheduler.EnqueueQuery(42));
//   while (std::optional<Work> work = scheduler.WaitNext(worker)) {
//     for (QueryId query : work->queries) { ... scheduler.QueryTurnDone(query, /*more=*/!finished); }
//     for (uint64_t number : work->sessions) { ... if (it has another whole block) scheduler.SessionReady(number); }
//     scheduler.BlocksDone(work->sessions);
//   }
//
// Sessions take turns: one block, then to the back of the queue. A session is with one worker at a time. Queries take
// turns the same way, as many together as there are for each worker, and go ahead of blocks, except that a worker which
// took turns of max_query_turns or more of them in a row while blocks waited takes blocks. The sessions' queue holds
// each at most once, so the number of sessions bounds it.
//
// Thread-safe; no clock, no thread of its own. Only WaitNext blocks.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace mnemosyne {

using QueryId = uint64_t;  // the engine's; one at a time for each query

struct Work {
  std::vector<uint64_t> sessions;  // numbers, 1 to max_batch_sessions of them; empty with queries
  std::vector<QueryId> queries;    // 1 to max_batch_queries of them; empty with sessions
};

class Scheduler {
 public:
  struct Options {
    int workers = 1;
    int64_t max_batch_sessions = 1;
    int64_t max_queries = 256;  // waiting and running
    int64_t max_batch_queries = 1;
    int64_t max_query_turns = 4;  // in a row, by one worker, while blocks wait
  };
  struct Load {  // for metrics
    int64_t waiting_sessions = 0, running_sessions = 0, waiting_queries = 0, running_queries = 0;
  };

  explicit Scheduler(const Options& options);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // The session has a whole block. No effect when it waits already; when a worker has it, it waits again afterwards.
  void SessionReady(uint64_t session_number);
  // Forgets the session: it gets no more turns. True: a worker has it now, until its BlocksDone.
  bool SessionGone(uint64_t session_number);

  // RESOURCE_EXHAUSTED: there are max_queries. UNAVAILABLE: after Shutdown. ALREADY_EXISTS: the id is in use.
  absl::Status EnqueueQuery(QueryId query);
  // Its caller has gone: it gets no more turns. True: a worker has it now, until its QueryTurnDone.
  bool CancelQuery(QueryId query);

  // What `worker` (0 to workers - 1) does next; nullopt when nothing waits. Ends with BlocksDone or QueryTurnDone.
  std::optional<Work> Next(int worker);
  // Waits for work. nullopt: shut down, with nothing waiting and nothing running that could come back.
  std::optional<Work> WaitNext(int worker);

  void BlocksDone(absl::Span<const uint64_t> sessions);
  // more: to the back of the queue. False: it gets no other turn, as it has no more to do or was forgotten meanwhile.
  bool QueryTurnDone(QueryId query, bool more);

  // Takes no new query from now on; what waits is still handed out, so that workers end when all is done.
  void Shutdown();
  // Forgets all that waits, and what runs gets no other turn. Returns the queries that waited.
  std::vector<QueryId> DropWaiting();

  Load load() const;

 private:
  // Something that waits in a queue or is with a worker.
  struct Place {
    bool running = false;
    bool again = false;                     // running: came up once more meanwhile
    bool gone = false;                      // running: forgotten when done
    std::list<uint64_t>::iterator waiting;  // not running: where in its queue
  };
  struct Queue {
    std::list<uint64_t> waiting;
    absl::flat_hash_map<uint64_t, Place> places;  // of all that waits or runs

    void PushBack(uint64_t id, Place& place);
    uint64_t PopFront();
    bool Remove(uint64_t id);           // true: it is running
    bool Done(uint64_t id, bool more);  // more: as if it had come up again. True: it waits again
    int64_t running() const { return static_cast<int64_t>(places.size() - waiting.size()); }
  };

  std::optional<Work> NextLocked(int worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Finished() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;  // something waits, or all is finished
  Queue sessions_ ABSL_GUARDED_BY(mutex_);
  Queue queries_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> query_turns_ ABSL_GUARDED_BY(mutex_);  // [workers], in a row while blocks waited
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mnemosyne
