#include "core/scheduling/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mnemosyne {

void Scheduler::Queue::PushBack(uint64_t id, Place& place) {
  place = Place{};
  place.waiting = waiting.insert(waiting.end(), id);
}

uint64_t Scheduler::Queue::PopFront() {
  const uint64_t id = waiting.front();
  waiting.pop_front();
  places[id].running = true;
  return id;
}

bool Scheduler::Queue::Remove(uint64_t id) {
  const auto found = places.find(id);
  if (found == places.end()) return false;
  if (found->second.running) {
    found->second.gone = true;
    return true;
  }
  waiting.erase(found->second.waiting);
  places.erase(found);
  return false;
}

bool Scheduler::Queue::Done(uint64_t id, bool more) {
  const auto found = places.find(id);
  if (found == places.end() || !found->second.running) return false;
  if (!found->second.gone && (more || found->second.again)) {
    PushBack(id, found->second);
    return true;
  }
  places.erase(found);
  return false;
}

Scheduler::Scheduler(const Options& options) : options_(options), query_turns_(options.workers, 0) {}

void Scheduler::SessionReady(uint64_t session_number) {
  absl::MutexLock lock(&mutex_);
  const auto [found, is_new] = sessions_.places.try_emplace(session_number);
  if (is_new) {
    sessions_.PushBack(session_number, found->second);
    changed_.Signal();
  } else if (found->second.running) {
    found->second.again = true;
  }
}

bool Scheduler::SessionGone(uint64_t session_number) {
  absl::MutexLock lock(&mutex_);
  const bool running = sessions_.Remove(session_number);
  if (Finished()) changed_.SignalAll();
  return running;
}

absl::Status Scheduler::EnqueueQuery(QueryId query) {
  absl::MutexLock lock(&mutex_);
  if (shut_down_) return absl::UnavailableError("no query is taken any more: shutting down");
  if (static_cast<int64_t>(queries_.places.size()) >= options_.max_queries) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue of queries is full: the maximum is ", options_.max_queries));
  }
  const auto [found, is_new] = queries_.places.try_emplace(query);
  if (!is_new) return absl::AlreadyExistsError(absl::StrCat("query ", query, " is queued already"));
  queries_.PushBack(query, found->second);
  changed_.Signal();
  return absl::OkStatus();
}

bool Scheduler::CancelQuery(QueryId query) {
  absl::MutexLock lock(&mutex_);
  const bool running = queries_.Remove(query);
  if (Finished()) changed_.SignalAll();
  return running;
}

std::optional<Work> Scheduler::Next(int worker) {
  absl::MutexLock lock(&mutex_);
  return NextLocked(worker);
}

std::optional<Work> Scheduler::WaitNext(int worker) {
  absl::MutexLock lock(&mutex_);
  while (true) {
    if (std::optional<Work> work = NextLocked(worker)) return work;
    if (Finished()) return std::nullopt;
    changed_.Wait(&mutex_);
  }
}

std::optional<Work> Scheduler::NextLocked(int worker) {
  int64_t& query_turns = query_turns_.at(worker);
  const bool blocks_wait = !sessions_.waiting.empty();
  if (!queries_.waiting.empty() && (!blocks_wait || query_turns < options_.max_query_turns)) {
    // No more than a worker's share: two workers are done sooner with half of them each.
    const auto waiting = static_cast<int64_t>(queries_.waiting.size());
    const int64_t share = (waiting + options_.workers - 1) / options_.workers;
    Work work;
    for (int64_t i = 0; i < std::min(share, options_.max_batch_queries); ++i) {
      work.queries.push_back(queries_.PopFront());
    }
    query_turns = blocks_wait ? query_turns + static_cast<int64_t>(work.queries.size()) : 0;
    return work;
  }
  if (!blocks_wait) return std::nullopt;
  query_turns = 0;
  Work work;
  while (!sessions_.waiting.empty() && static_cast<int64_t>(work.sessions.size()) < options_.max_batch_sessions) {
    work.sessions.push_back(sessions_.PopFront());
  }
  return work;
}

void Scheduler::BlocksDone(absl::Span<const uint64_t> sessions) {
  absl::MutexLock lock(&mutex_);
  for (uint64_t session_number : sessions) sessions_.Done(session_number, /*more=*/false);
  if (Finished() || !sessions_.waiting.empty()) changed_.SignalAll();
}

bool Scheduler::QueryTurnDone(QueryId query, bool more) {
  absl::MutexLock lock(&mutex_);
  const bool again = queries_.Done(query, more);
  if (Finished()) {
    changed_.SignalAll();
  } else if (!queries_.waiting.empty()) {
    changed_.Signal();
  }
  return again;
}

void Scheduler::Shutdown() {
  absl::MutexLock lock(&mutex_);
  shut_down_ = true;
  changed_.SignalAll();
}

std::vector<QueryId> Scheduler::DropWaiting() {
  absl::MutexLock lock(&mutex_);
  std::vector<QueryId> dropped(queries_.waiting.begin(), queries_.waiting.end());
  for (Queue* queue : {&sessions_, &queries_}) {
    for (uint64_t id : queue->waiting) queue->places.erase(id);
    queue->waiting.clear();
    for (auto& [id, place] : queue->places) place.gone = true;
  }
  if (Finished()) changed_.SignalAll();
  return dropped;
}

bool Scheduler::Finished() const { return shut_down_ && sessions_.places.empty() && queries_.places.empty(); }

Scheduler::Load Scheduler::load() const {
  absl::MutexLock lock(&mutex_);
  return {static_cast<int64_t>(sessions_.waiting.size()), sessions_.running(),
          static_cast<int64_t>(queries_.waiting.size()), queries_.running()};
}

}  // namespace mnemosyne
