#include "core/engine/engine_impl.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/free_memory.h"
#include "core/base/status_macros.h"
#include "core/base/thread_name.h"
#include "core/engine/input_checks.h"

namespace mnemosyne {

namespace {
// Queries that a worker answers together. More of them share a pass over the weights, and their own memories (2 MB each
// of models/recall) stay in the last cache from token to token only while they are few: on a Xeon 8 together do 4,000
// tokens/s where 32 do 2,600 and one does 1,400; on an EPYC 8, 16 and 32 do the same.
constexpr int64_t kMaxBatchQueries = 8;
// What threads may keep free is at least this, and the largest state, as what a step takes and frees grows with it.
// With models/recall, of 1.6 MiB a state, 2 MiB cost steps 2,000 page faults a second and 1 MiB 20,000; with 4 MiB the
// process stays 5% larger.
constexpr int64_t kMinFreeBytes = 2 << 20;
}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(const Options& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<EngineImpl> engine, EngineImpl::Start(options));
  return engine;
}

absl::StatusOr<std::unique_ptr<EngineImpl>> EngineImpl::Start(const Options& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<EngineImpl> engine(new EngineImpl(options));
  RETURN_IF_ERROR(engine->Initialize());
  return engine;
}

absl::Status EngineImpl::Initialize() {
  std::map<std::string, const Model*> models;
  int64_t batch_sessions = 1, max_state_bytes = 0;
  for (const ModelSource& source : options_.models) {
    if (models_.contains(source.name)) {
      return absl::InvalidArgumentError(absl::StrCat("model name '", source.name, "' is given twice"));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                     Model::Load(source.folder, {.device = options_.device,
                                                 .weights = options_.weights,
                                                 .batch_sessions = options_.batch_sessions}));
    if (options_.max_backlog_tokens < model->config().block_tokens()) {
      return absl::InvalidArgumentError(absl::StrCat("max_backlog_tokens is ", options_.max_backlog_tokens,
                                                     "; a block of model '", source.name, "' needs ",
                                                     model->config().block_tokens()));
    }
    if (model->state_bytes() > options_.max_resident_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("max_resident_bytes is ", options_.max_resident_bytes,
                                                     "; one state of model '", source.name, "' needs ",
                                                     model->state_bytes()));
    }
    model_infos_.push_back(
        {source.name, model->fingerprint(), model->parameter_count(), model->state_bytes(), model->config()});
    models[source.name] = model.get();
    batch_sessions = std::max(batch_sessions, model->batch_sessions());
    max_state_bytes = std::max(max_state_bytes, model->state_bytes());
    of_models_[model.get()] = std::make_unique<OfModel>();
    models_[source.name] = std::move(model);
  }
  LimitFreeMemory(std::max(kMinFreeBytes, max_state_bytes));
  ASSIGN_OR_RETURN(storage_, Storage::Open({.path = options_.data_path, .sync_writes = options_.sync_writes}));
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int workers = options_.workers > 0 ? options_.workers : options_.device == "cpu" ? cores : 1;
  scheduler_ = std::make_unique<Scheduler>(Scheduler::Options{.workers = workers,
                                                              .max_batch_sessions = batch_sessions,
                                                              .max_queries = options_.max_queries,
                                                              .max_batch_queries = kMaxBatchQueries});
  ASSIGN_OR_RETURN(sessions_,
                   SessionManager::Create({options_.max_resident_bytes,
                                           options_.max_sessions,
                                           {options_.max_backlog_tokens, options_.max_log_bytes},
                                           options_.tenant_limits},
                                          storage_.get(), models, [this](uint64_t number) { Ready(number); }));
  notifier_ = std::make_unique<WriterNotifier>();
  committer_ = std::make_unique<LogCommitter>(
      storage_.get(),
      [this](const absl::Status& status, const std::vector<LogCommitter::Item>& items) { Committed(status, items); });
  workers_ = std::make_unique<WorkerPool>(workers, scheduler_.get(), [this](const Work& work) { RunWork(work); });
  housekeeper_ = std::thread([this] {
    NameThread("mn-housekeeper");
    Housekeeper();
  });
  return absl::OkStatus();
}

// Not drained: stops where it is, as a crash would, but in order. What is durable is recovered at the next start.
EngineImpl::~EngineImpl() {
  std::vector<std::shared_ptr<WriterSeat>> seats;
  std::vector<std::shared_ptr<QueryRun>> queries;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = stopping_ = true;
    for (const auto& [number, seat] : seats_) seats.push_back(seat);
    for (const auto& [id, query] : queries_) queries.push_back(query);
  }
  const absl::Status stopped = absl::UnavailableError("the server stopped; try again later");
  if (scheduler_ != nullptr) {
    scheduler_->DropWaiting();
    scheduler_->Shutdown();
  }
  if (housekeeper_.joinable()) housekeeper_.join();  // it may be waiting for the others' work on a session
  workers_ = nullptr;
  committer_ = nullptr;
  for (const auto& seat : seats) {
    seat->Lose(stopped);
    notifier_->Mark(seat);
  }
  for (const auto& query : queries) EndQuery(query, stopped);
  notifier_ = nullptr;
}

absl::Status EngineImpl::CheckTakingWork() const {
  absl::MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("the server is shutting down; try again later");
  return disk_status_;
}

void EngineImpl::RunWork(const Work& work) {
  if (!work.queries.empty()) RunQueries(work.queries);
  StepSessions(work.sessions);
  scheduler_->BlocksDone(work.sessions);
}

void EngineImpl::Ready(uint64_t number) {
  {
    absl::MutexLock lock(&ready_mutex_);
    ready_since_.try_emplace(number, absl::Now());
  }
  scheduler_->SessionReady(number);
}

// A session's next block, for those of a batch to be stepped at once.
struct EngineImpl::DueBlock {
  uint64_t number = 0;
  std::shared_ptr<Session> session;
  Session::Block block;
};

std::optional<EngineImpl::DueBlock> EngineImpl::TakeBlock(uint64_t number) {
  {
    absl::MutexLock lock(&ready_mutex_);
    if (const auto since = ready_since_.find(number); since != ready_since_.end()) {
      block_wait_.Add(absl::ToDoubleSeconds(absl::Now() - since->second));
      ready_since_.erase(since);
    }
  }
  std::shared_ptr<Session> session = sessions_->FindResident(number);
  if (session == nullptr) return std::nullopt;
  const absl::Status read = sessions_->ReadOn(*session);
  if (!read.ok() && PutOff(number, read)) return std::nullopt;
  std::optional<Session::Block> block = session->NextBlock();
  if (!block) return std::nullopt;
  DueBlock due = {number, std::move(session), *std::move(block)};
  if (read.ok()) return due;
  EndBlock(due, {.status = read});
  return std::nullopt;
}

void EngineImpl::StepSessions(absl::Span<const uint64_t> numbers) {
  std::map<const Model*, std::vector<DueBlock>> due;
  for (const uint64_t number : numbers) {
    if (std::optional<DueBlock> one = TakeBlock(number)) due[&one->session->model()].push_back(*std::move(one));
  }
  for (const auto& [model, blocks] : due) {
    std::vector<BlockInput> inputs;
    for (const DueBlock& one : blocks) inputs.push_back({one.block.state, one.block.tokens});
    const absl::Time begin = absl::Now();
    const std::vector<BlockResult> results = model->StepBlocks(inputs);
    OfModel& of_model = *of_models_.at(model);
    of_model.step.Add(absl::ToDoubleSeconds(absl::Now() - begin));
    of_model.batch.Add(static_cast<double>(blocks.size()));
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (results[i].status.ok()) of_model.surprise.Add(results[i].mean_surprise);
      EndBlock(blocks[i], results[i]);
    }
  }
}

void EngineImpl::EndBlock(const DueBlock& due, const BlockResult& result) {
  const auto& [number, session, block] = due;
  Session::Published published = session->Publish(result);
  const bool is_snapshot_due = session->IsSnapshotDue(options_.snapshot_every_tokens);
  {
    absl::MutexLock lock(&mutex_);
    put_off_.erase(number);
    if (result.status.ok()) {
      counts_.tokens_memorized_total += block.tokens.size();
    } else {
      counts_.failed_steps_total += 1;
    }
    if (is_snapshot_due) snapshots_due_.insert(number);
  }
  if (published.ready) Ready(number);
  for (auto& [id, point] : published.forks) {
    const std::shared_ptr<QueryRun> query = FindQuery(id);
    if (query == nullptr) continue;
    query->SetForkPoint(std::move(point));
    EnqueueQuery(query);
  }
  const absl::Status failed = absl::FailedPreconditionError(session->marks().failure);
  for (const uint64_t id : published.failed) {
    if (const auto query = FindQuery(id)) EndQuery(query, failed);
  }
  if (result.status.ok()) {
    MarkWriter(number, /*is_urgent=*/!published.ready);  // the next block brings news of its own
  } else {
    LoseWriter(number, failed);
  }
}

// Writes the snapshots that are due, deletes the sessions whose time is over, looks after a disk that failed, and gives
// back memory that steps have left.
void EngineImpl::Housekeeper() {
  constexpr absl::Duration kLookEvery = absl::Seconds(1);
  absl::Time looked = absl::InfinitePast();
  while (true) {
    uint64_t number = 0;
    if (absl::Now() - looked >= kLookEvery) {
      looked = absl::Now();
      RecoverDisk();
      ReadOnAgain();
      DeleteExpired();
      FinishErasures();
      ReturnWhatIsFree();
    }
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this] {
        mutex_.AssertHeld();
        return stopping_ || !snapshots_due_.empty();
      };
      const bool is_due = mutex_.AwaitWithTimeout(absl::Condition(&due), kLookEvery);
      if (stopping_) return;
      if (!is_due) continue;
      number = *snapshots_due_.begin();
      snapshots_due_.erase(snapshots_due_.begin());
    }
    SessionHandle pin = sessions_->PinResident(number);  // a reset or a delete waits for it
    if (!pin) continue;
    {
      absl::MutexLock lock(&mutex_);
      if (isolated_.contains(number)) continue;
    }
    // A snapshot that fails costs a longer replay, no more: the disk's failure shows at the next append.
    sessions_->Snapshot(std::move(pin), options_.snapshot_every_tokens).IgnoreError();
  }
}

bool EngineImpl::PutOff(uint64_t number, const absl::Status& reason) {
  constexpr int kMaxTries = 30;  // a second apart, of a folder that is open
  if (!absl::IsUnavailable(reason) && !absl::IsAborted(reason)) return false;
  const bool is_open = storage_->write_failure().ok();
  absl::MutexLock lock(&mutex_);
  int& tries = put_off_[number];
  if (is_open && ++tries > kMaxTries) return false;
  return true;
}

void EngineImpl::ReadOnAgain() {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return;
  for (auto it = put_off_.begin(); it != put_off_.end();) {
    const uint64_t number = it->first;
    if (sessions_->FindResident(number) == nullptr) {
      put_off_.erase(it++);
      continue;
    }
    if (!isolated_.contains(number)) Ready(number);  // otherwise ChangeAlone does
    ++it;
  }
}

void EngineImpl::FinishErasures() {
  constexpr absl::Duration kPause = absl::Minutes(1);  // it reads and writes all snapshots
  if (absl::Now() < next_scrub_ || !CheckTakingWork().ok()) return;
  const absl::StatusOr<bool> is_due = storage_->HasToScrub();
  if (!is_due.ok() || !*is_due) return;
  if (!storage_->Scrub().ok()) next_scrub_ = absl::Now() + kPause;
}

// What steps free lies between the states that stay: a fifth of them, when they are many. A step that gave it back
// itself would take twice as long.
void EngineImpl::ReturnWhatIsFree() {
  constexpr std::clock_t kIdle = CLOCKS_PER_SEC / 100;
  const bool has_run = std::clock() - processor_time_when_memory_returned_ >= kIdle;
  const bool had_run = std::exchange(has_run_, has_run);
  if (!has_run && !had_run) return;  // once more after all is done: what ran last frees last
  ReturnFreeMemory();
  processor_time_when_memory_returned_ = std::clock();
}

void EngineImpl::FailDisk(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!disk_status_.ok()) return;
  disk_status_ = absl::UnavailableError(
      absl::StrCat("the disk refuses writes, and queries are answered from memory: ", status.message()));
}

void EngineImpl::RecoverDisk() {
  if (const absl::Status failure = storage_->write_failure(); !failure.ok()) FailDisk(failure);
  std::vector<uint64_t> numbers;
  absl::Status reason;
  {
    absl::MutexLock lock(&mutex_);
    if (disk_status_.ok() || stopping_) return;
    reason = disk_status_;
    for (const auto& [number, seat] : seats_) numbers.push_back(number);
  }
  // Nothing reaches a session's log from here on: its writer is gone, and who comes is refused.
  for (const uint64_t number : numbers) LoseWriter(number, reason);
  if (!committer_->IsIdle()) return;  // the next time
  const absl::StatusOr<std::vector<std::string>> stale = sessions_->Reopen();
  if (!stale.ok()) return;
  // What a session accepted and the disk did not take may be in the log or not: only the log knows now.
  // So it is with a change of a session whose write failed.
  for (const auto& session : sessions_->Residents()) {
    const bool is_stale = std::find(stale->begin(), stale->end(), session->metadata().id) != stale->end();
    if (!is_stale && session->IsDurable(session->CurrentFlushPoint())) continue;
    SessionHandle pin = sessions_->PinResident(session->number());
    if (!pin) return;  // it is being unloaded: the next time
    if (!ChangeAlone(std::move(pin), reason, [&](SessionHandle alone) {
           return sessions_->Discard(std::move(alone));
         }).ok()) {
      return;
    }
  }
  absl::MutexLock lock(&mutex_);
  disk_status_ = absl::OkStatus();
}

EngineStats EngineImpl::stats() const {
  const SessionManager::Stats sessions = sessions_->stats();
  LogCommitter::Stats commits = committer_->stats();
  const Scheduler::Load load = scheduler_->load();
  const int64_t stored_bytes = storage_->StoredBytes();
  const absl::Time now = absl::Now();
  double oldest_wait_seconds = 0;
  {
    absl::MutexLock lock(&ready_mutex_);
    for (auto it = ready_since_.begin(); it != ready_since_.end();) {
      if (sessions_->FindResident(it->first) == nullptr) {  // reset or deleted before a worker came to it
        ready_since_.erase(it++);
        continue;
      }
      oldest_wait_seconds = std::max(oldest_wait_seconds, absl::ToDoubleSeconds(now - it->second));
      ++it;
    }
  }
  absl::MutexLock lock(&mutex_);
  EngineStats stats = counts_;
  stats.sessions = sessions.sessions;
  stats.resident_sessions = sessions.resident_sessions;
  stats.resident_bytes = sessions.resident_bytes;
  stats.writers = seats_.size();
  stats.waiting_sessions = load.waiting_sessions;
  stats.running_sessions = load.running_sessions;
  stats.waiting_queries = static_cast<int64_t>(queries_.size()) - load.running_queries;
  stats.running_queries = load.running_queries;
  stats.oldest_wait_seconds = oldest_wait_seconds;
  stats.lag_tokens = sessions.lag_tokens;
  stats.max_lag_tokens = sessions.max_lag_tokens;
  stats.stored_bytes = stored_bytes;
  stats.block_wait = block_wait_.counts();
  stats.commit = std::move(commits.seconds);
  stats.commit_appends = std::move(commits.appends);
  stats.snapshot = sessions.snapshot_seconds;
  stats.reload = sessions.reload_seconds;
  stats.query_batch = query_batch_.counts();
  for (const auto& [name, model] : models_) {
    const OfModel& of_model = *of_models_.at(model.get());
    stats.models[name] = {of_model.step.counts(), of_model.batch.counts(), of_model.surprise.counts()};
  }
  stats.snapshot_bytes_total = sessions.snapshot_bytes;
  stats.evictions_total = sessions.evictions;
  stats.replayed_tokens_total = sessions.replayed_tokens;
  stats.disk_failed = !disk_status_.ok();
  return stats;
}

absl::Status EngineImpl::Drain(absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  const auto is_quiet = [&] {
    {
      absl::MutexLock lock(&mutex_);
      if (!queries_.empty() || !put_off_.empty()) return false;
    }
    if (!committer_->IsIdle()) return false;  // before the scheduler, which it feeds
    const Scheduler::Load load = scheduler_->load();
    return load.waiting_sessions + load.running_sessions == 0;
  };
  while (!is_quiet() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(2));
  std::vector<std::shared_ptr<WriterSeat>> seats;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [number, seat] : seats_) seats.push_back(seat);
    seats_.clear();
  }
  for (const auto& seat : seats) {
    seat->Tell();  // the last progress, then the loss
    if (seat->Lose(absl::UnavailableError("the server is shutting down; try again later"))) notifier_->Mark(seat);
  }
  absl::Status first;
  for (const auto& session : sessions_->Residents()) {
    if (absl::Now() >= deadline)
      return absl::DeadlineExceededError("some sessions have no snapshot of their newest state");
    SessionHandle pin = sessions_->PinResident(session->number());
    if (pin) first.Update(sessions_->Snapshot(std::move(pin), 1));
  }
  first.Update(storage_->Flush());  // the next start has no write-ahead log to read
  return first;
}

}  // namespace mnemosyne
