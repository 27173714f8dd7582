// Queries of the engine: from a prompt to a fork of the session, the workers' turns at it, and its end.
#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/engine/engine_impl.h"
#include "core/engine/input_checks.h"
#include "core/model/decoder.h"

namespace mnemosyne {

namespace {

class QueryHandleImpl final : public QueryHandle {
 public:
  QueryHandleImpl(EngineImpl* engine, std::shared_ptr<QueryRun> query) : engine_(engine), query_(std::move(query)) {}
  ~QueryHandleImpl() override {
    query_->Close();
    if (!query_->finished()) engine_->CancelQuery(query_);  // an engine that is gone has finished it
  }

 private:
  EngineImpl* const engine_;
  const std::shared_ptr<QueryRun> query_;
};

absl::Status NotRemembered(const absl::Status& reason) {
  return absl::Status(reason.code(),
                      absl::StrCat("the answer is whole, but it could not be remembered: ", reason.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<QueryHandle>> EngineImpl::StartQuery(const QueryOptions& options,
                                                                    std::shared_ptr<QueryObserver> observer) {
  RETURN_IF_ERROR(CheckSessionId(options.session_id));
  RETURN_IF_ERROR(CheckDecodingOptions(
      {options.max_tokens, options.temperature, options.top_k, options.top_p, options.seed, options.stop}));
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return absl::UnavailableError("the server is shutting down; try again later");
    if (static_cast<int64_t>(queries_.size()) >= options_.max_queries) {
      return absl::ResourceExhaustedError(
          absl::StrCat(queries_.size(), " queries are waiting or running; the maximum is ", options_.max_queries));
    }
  }
  ASSIGN_OR_RETURN(SessionHandle handle, sessions_->Acquire(options.session_id));
  const Model& model = handle->model();
  const int64_t max_bytes = options_.max_prompt_tokens * (options.prompt.kind == ContentKind::kText ? 16 : 4);
  RETURN_IF_ERROR(CheckContent(options.prompt, model, max_bytes));
  std::vector<int32_t> prompt = options.prompt.tokens;
  if (options.prompt.kind == ContentKind::kText) {
    ASSIGN_OR_RETURN(prompt, model.tokenizer().Encode(options.prompt.bytes));
    if (!options.raw_prompt && model.tokenizer().question())
      prompt.insert(prompt.begin(), *model.tokenizer().question());
  }
  if (static_cast<int64_t>(prompt.size()) > options_.max_prompt_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", prompt.size(), " tokens; the maximum is ", options_.max_prompt_tokens));
  }
  std::optional<Past> past;
  if (options.as_of_offset) {
    ASSIGN_OR_RETURN(past, FindPast(handle, *options.as_of_offset));
  }
  const std::shared_ptr<Session> session = handle.shared();
  const int64_t prompt_tokens = prompt.size();
  std::shared_ptr<QueryRun> query;
  {
    absl::MutexLock lock(&mutex_);
    if (isolated_.contains(session->number())) {
      return absl::AbortedError(absl::StrCat("session '", options.session_id, "' is being changed or deleted"));
    }
    query =
        std::make_shared<QueryRun>(next_query_++, options, std::move(prompt), std::move(handle), std::move(observer));
    if (past) query->SetPast(std::move(past->point), std::move(past->tokens));  // from now on anyone may end it
    queries_[query->id()] = query;
    counts_.queries_total += 1;
    counts_.prompt_tokens_total += prompt_tokens;
  }
  if (past) {
    EnqueueQuery(query);
    return std::make_unique<QueryHandleImpl>(this, std::move(query));
  }
  absl::StatusOr<std::optional<Session::ForkPoint>> point = session->RequestFork(query->id());
  if (!point.ok()) {
    absl::MutexLock lock(&mutex_);
    queries_.erase(query->id());
    return point.status();
  }
  if (*point) {
    query->SetForkPoint(**std::move(point));
    EnqueueQuery(query);
  }
  return std::make_unique<QueryHandleImpl>(this, std::move(query));
}

absl::StatusOr<EngineImpl::Past> EngineImpl::FindPast(const SessionHandle& handle, int64_t offset) const {
  RETURN_IF_ERROR(CheckOffset(handle, offset));
  if (offset > handle->marks().durable) RETURN_IF_ERROR(AwaitDurable(*handle));
  const std::string& id = handle->metadata().id;
  return sessions_->ReadPast(id, [&](const SessionMetadata& metadata) -> absl::StatusOr<Past> {
    const auto [header, state] = handle->Checkpoint();  // not before: a trimmed log begins behind an older one
    const History history(storage_.get(), metadata, &handle->model());
    Session::Recovered past;
    if (header.offset <= offset) {
      past = History::FromCheckpoint(header, state);
    } else {
      ASSIGN_OR_RETURN(past, history.StateAt(offset));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<TokenReader> tokens, history.TokensFrom(past));
    RETURN_IF_ERROR(sessions_->CheckNotTrimmedSince(metadata));
    return Past{{past.state, {}, offset}, std::move(tokens)};
  });
}

std::shared_ptr<QueryRun> EngineImpl::FindQuery(uint64_t id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = queries_.find(id);
  return found == queries_.end() ? nullptr : found->second;
}

void EngineImpl::EnqueueQuery(const std::shared_ptr<QueryRun>& query) {
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (!queries_.contains(query->id())) return;  // stopped meanwhile
    status = scheduler_->EnqueueQuery(query->id());
  }
  if (!status.ok()) EndQuery(query, status);
}

void EngineImpl::StopQuery(const std::shared_ptr<QueryRun>& query, const absl::Status& reason) {
  query->Stop(reason);
  query->session()->CancelFork(query->id());
  {
    absl::MutexLock lock(&mutex_);
    if (!queries_.contains(query->id())) return;
    if (scheduler_->CancelQuery(query->id())) return;  // a worker has it, and ends it
    queries_.erase(query->id());
    counts_.failed_queries_total += 1;
  }
  query->Finish(reason);
}

void EngineImpl::EndQuery(const std::shared_ptr<QueryRun>& query, const absl::StatusOr<QuerySummary>& summary) {
  {
    absl::MutexLock lock(&mutex_);
    if (queries_.erase(query->id()) == 0) return;  // ended already
    if (summary.ok()) {
      counts_.answer_tokens_total += summary->answer_tokens;
    } else {
      counts_.failed_queries_total += 1;
    }
  }
  query->Finish(summary);
}

void EngineImpl::RunQueries(const std::vector<QueryId>& ids) {
  std::vector<std::shared_ptr<QueryRun>> queries;
  for (const QueryId id : ids) {
    if (auto query = FindQuery(id)) {
      queries.push_back(std::move(query));
    } else {
      scheduler_->QueryTurnDone(id, /*more=*/false);
    }
  }
  query_batch_.Add(static_cast<double>(queries.size()));
  std::vector<std::optional<QueryRun::End>> ends = QueryRun::Turns(queries);
  for (size_t i = 0; i < queries.size(); ++i) EndTurn(queries[i], std::move(ends[i]));
}

void EngineImpl::EndTurn(const std::shared_ptr<QueryRun>& query, std::optional<QueryRun::End> end) {
  bool waits = false;  // for the log
  if (end && end->ok() && query->options().remember) {
    *end = Remember(*query, **end);
    waits = end->ok();
  }
  const bool again = scheduler_->QueryTurnDone(query->id(), /*more=*/!end);
  if (!end && !again) {  // no other turn comes: it was stopped, or the workers were
    absl::Status reason = query->stopped();
    if (reason.ok()) reason = absl::UnavailableError("the server stopped; try again later");
    end = QueryRun::End(reason);
  }
  if (!end) return;
  if (!waits) {
    EndQuery(query, *end);
    return;
  }
  const uint64_t number = query->session()->number();
  absl::Status disk;
  {
    absl::MutexLock lock(&mutex_);
    remembering_[number].push_back({query, **end});
    disk = disk_status_;
  }
  // The log, or whoever stops queries, may have been here before it waited.
  if (const absl::Status stopped = query->stopped(); !stopped.ok()) EndQuery(query, stopped);
  EndRemembered(number, query->session()->marks().durable, disk);
}

absl::StatusOr<QuerySummary> EngineImpl::Remember(QueryRun& query, QuerySummary summary) {
  absl::Status status = query.stopped();
  if (status.ok()) {
    absl::MutexLock lock(&mutex_);
    status = disk_status_;
  }
  if (status.ok()) {
    LoggedContent logged = ToLog(query.Remembered());
    const std::shared_ptr<Session>& session = query.session();
    const absl::StatusOr<bool> taken = session->Accept(std::nullopt, logged.kind, std::move(logged.payload),
                                                       absl::Now(), [&](Session::Accepted accepted) {
                                                         summary.remembered_offset = accepted.end_offset;
                                                         committer_->Add({session, std::move(accepted)});
                                                       });
    status = taken.status();
    if (taken.ok() && !*taken) {
      status = absl::ResourceExhaustedError(
          absl::StrCat("session '", session->metadata().id, "' has too much that is not memorized yet"));
    }
  }
  if (!status.ok()) return NotRemembered(status);
  return summary;
}

void EngineImpl::EndRemembered(uint64_t number, int64_t durable, const absl::Status& status) {
  std::vector<Remembering> ended;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = remembering_.find(number);
    if (found == remembering_.end()) return;
    std::vector<Remembering>& waiting = found->second;
    const auto stays = [&](const Remembering& one) { return status.ok() && *one.summary.remembered_offset > durable; };
    const auto first = std::stable_partition(waiting.begin(), waiting.end(), stays);
    ended.assign(std::make_move_iterator(first), std::make_move_iterator(waiting.end()));
    waiting.erase(first, waiting.end());
    if (waiting.empty()) remembering_.erase(found);
  }
  for (const Remembering& one : ended) {
    if (status.ok()) {
      EndQuery(one.query, one.summary);
    } else {
      EndQuery(one.query, NotRemembered(status));
    }
  }
}

void EngineImpl::CancelQuery(const std::shared_ptr<QueryRun>& query) {
  StopQuery(query, absl::CancelledError("the query was cancelled"));
}

}  // namespace mnemosyne
