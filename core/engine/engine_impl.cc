#include "core/engine/engine_impl.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/model/decoder.h"

namespace mnemosyne {

namespace {

constexpr size_t kMaxSessionIdBytes = 128;
constexpr size_t kMaxModelNameBytes = 64;

bool IsName(const std::string& text, size_t max_bytes) {
  return !text.empty() && text.size() <= max_bytes && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

absl::Status CheckSessionId(const std::string& id) {
  if (IsName(id, kMaxSessionIdBytes)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("session id '", absl::CHexEscape(id.substr(0, kMaxSessionIdBytes)), "' is not [A-Za-z0-9._-]{1,",
                                                 kMaxSessionIdBytes, "}"));
}

absl::Status CheckLabels(const std::map<std::string, std::string>& labels) {
  if (labels.size() > 64) return absl::InvalidArgumentError(absl::StrCat(labels.size(), " labels; the maximum is 64"));
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > 63) {
      return absl::InvalidArgumentError(absl::StrCat("label key '", key, "' has ", key.size(), " bytes; it must have 1 to 63"));
    }
    if (value.size() > 255) {
      return absl::InvalidArgumentError(
          absl::StrCat("the value of label '", key, "' has ", value.size(), " bytes; the maximum is 255"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const Engine::Options& options) {
  const auto at_least = [](const char* name, int64_t value, int64_t low) {
    if (value >= low) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; the minimum is ", low));
  };
  if (options.models.empty()) return absl::InvalidArgumentError("no model is given");
  for (const Engine::ModelSource& source : options.models) {
    if (!IsName(source.name, kMaxModelNameBytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("model name '", source.name, "' is not [A-Za-z0-9._-]{1,", kMaxModelNameBytes, "}"));
    }
  }
  RETURN_IF_ERROR(at_least("workers", options.workers, 0));
  RETURN_IF_ERROR(at_least("max_resident_bytes", options.max_resident_bytes, 1));
  RETURN_IF_ERROR(at_least("max_backlog_tokens", options.max_backlog_tokens, 1));
  RETURN_IF_ERROR(at_least("max_append_bytes", options.max_append_bytes, 1));
  RETURN_IF_ERROR(at_least("max_prompt_tokens", options.max_prompt_tokens, 1));
  RETURN_IF_ERROR(at_least("max_queries", options.max_queries, 1));
  RETURN_IF_ERROR(at_least("max_sessions", options.max_sessions, 1));
  return at_least("snapshot_every_tokens", options.snapshot_every_tokens, 1);
}

std::string PackTokens(const std::vector<int32_t>& tokens) {
  return std::string(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t));
}

LogContent LogKind(ContentKind kind) { return kind == ContentKind::kText ? LogContent::kText : LogContent::kTokenIds; }

class WriterImpl final : public Writer {
 public:
  WriterImpl(EngineImpl* engine, std::shared_ptr<WriterSeat> seat, SessionInfo opened, bool created)
      : engine_(engine), seat_(std::move(seat)), opened_(std::move(opened)), created_(created) {}
  ~WriterImpl() override { engine_->CloseWriter(seat_); }
  const SessionInfo& opened() const override { return opened_; }
  bool created() const override { return created_; }
  absl::Status Append(uint64_t sequence, Content content) override {
    return engine_->Append(seat_, sequence, std::move(content));
  }
  absl::Status Flush() override { return engine_->Flush(seat_); }

 private:
  EngineImpl* const engine_;
  const std::shared_ptr<WriterSeat> seat_;
  const SessionInfo opened_;
  const bool created_;
};

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
  for (const ModelSource& source : options_.models) {
    if (models_.contains(source.name)) {
      return absl::InvalidArgumentError(absl::StrCat("model name '", source.name, "' is given twice"));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Model> model, Model::Load(source.folder, {.device = options_.device}));
    if (options_.max_backlog_tokens < model->config().block_tokens()) {
      return absl::InvalidArgumentError(absl::StrCat("max_backlog_tokens is ", options_.max_backlog_tokens, "; a block of model '",
                                                     source.name, "' needs ", model->config().block_tokens()));
    }
    if (model->state_bytes() > options_.max_resident_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("max_resident_bytes is ", options_.max_resident_bytes, "; one state of model '",
                                                     source.name, "' needs ", model->state_bytes()));
    }
    model_infos_.push_back({source.name, model->fingerprint(), model->parameter_count(), model->state_bytes(), model->config()});
    models[source.name] = model.get();
    models_[source.name] = std::move(model);
  }
  ASSIGN_OR_RETURN(storage_, Storage::Open({.path = options_.data_path, .sync_writes = options_.sync_writes}));
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int workers = options_.workers > 0 ? options_.workers : options_.device == "cpu" ? cores : 1;
  scheduler_ = std::make_unique<Scheduler>(Scheduler::Options{.workers = workers, .max_queries = options_.max_queries});
  ASSIGN_OR_RETURN(sessions_, SessionManager::Create({options_.max_resident_bytes, options_.max_sessions}, storage_.get(),
                                                     models, [this](uint64_t number) { scheduler_->SessionReady(number); }));
  notifier_ = std::make_unique<WriterNotifier>();
  committer_ = std::make_unique<LogCommitter>(
      storage_.get(), [this](const absl::Status& status, const std::vector<LogCommitter::Item>& items) {
        Committed(status, items);
      });
  workers_ = std::make_unique<WorkerPool>(workers, scheduler_.get(), [this](const Work& work) { RunWork(work); });
  snapshotter_ = std::thread([this] { Snapshotter(); });
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
  workers_ = nullptr;
  committer_ = nullptr;
  if (snapshotter_.joinable()) snapshotter_.join();
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

absl::StatusOr<SessionHandle> EngineImpl::CreateHandle(const std::string& id, const std::string& model,
                                                       const std::map<std::string, std::string>& labels) {
  RETURN_IF_ERROR(CheckTakingWork());
  SessionMetadata metadata;
  metadata.id = id;
  if (metadata.id.empty()) {
    std::random_device random;
    metadata.id = absl::StrFormat("session-%08x%08x", random(), random());
  }
  RETURN_IF_ERROR(CheckSessionId(metadata.id));
  RETURN_IF_ERROR(CheckLabels(labels));
  metadata.model = model.empty() ? options_.models[0].name : model;
  if (!models_.contains(metadata.model)) {
    return absl::NotFoundError(absl::StrCat("model '", absl::CHexEscape(metadata.model), "' does not exist"));
  }
  metadata.labels = labels;
  metadata.create_time = metadata.update_time = absl::Now();
  return sessions_->CreateSession(std::move(metadata));
}

SessionInfo EngineImpl::Describe(const SessionMetadata& metadata, const Session* session) const {
  SessionInfo info;
  info.id = metadata.id;
  info.model = metadata.model;
  info.fingerprint = metadata.fingerprint;
  info.epoch = metadata.epoch;
  info.next_sequence = metadata.first_sequence;
  info.labels = metadata.labels;
  info.create_time = metadata.create_time;
  info.update_time = metadata.update_time;
  info.log_bytes = storage_->LogBytes(metadata.number);
  if (const auto model = models_.find(metadata.model); model != models_.end()) info.state_bytes = model->second->state_bytes();
  if (session != nullptr) {
    const Session::Marks marks = session->marks();
    info.resident = true;
    info.next_sequence = marks.next_sequence;
    info.watermarks = {marks.accepted, marks.durable, marks.memorized, marks.accepted_bytes};
    info.pending_tokens = marks.accepted - marks.memorized;
    info.update_time = marks.update_time;
    info.failure = marks.failure;
    return info;
  }
  const auto offsets = storage_->ListSnapshots(metadata.number, metadata.epoch);
  if (offsets.ok() && !offsets->empty()) {
    const int64_t newest = offsets->front();
    info.watermarks = {newest, newest, newest, 0};
    if (const auto snapshot = storage_->ReadSnapshot(metadata.number, metadata.epoch, newest); snapshot.ok()) {
      info.watermarks.accepted_bytes = snapshot->header.accepted_bytes;
      info.next_sequence = snapshot->header.next_sequence;
    }
  }
  return info;
}

absl::StatusOr<SessionInfo> EngineImpl::CreateSession(const std::string& id, const std::string& model,
                                                      const std::map<std::string, std::string>& labels) {
  ASSIGN_OR_RETURN(const SessionHandle handle, CreateHandle(id, model, labels));
  return Describe(handle->metadata(), &*handle);
}

absl::StatusOr<SessionInfo> EngineImpl::GetSession(const std::string& id) {
  RETURN_IF_ERROR(CheckSessionId(id));
  ASSIGN_OR_RETURN(const SessionHandle handle, sessions_->Acquire(id));
  return Describe(handle->metadata(), &*handle);
}

SessionPage EngineImpl::ListSessions(const std::map<std::string, std::string>& labels, const std::string& from_id,
                                     int page_size) {
  std::vector<SessionManager::Listed> listed = sessions_->List(labels, from_id, page_size + 1);
  SessionPage page;
  if (static_cast<int>(listed.size()) > page_size) {
    page.next_id = listed.back().metadata.id;
    listed.pop_back();
  }
  for (const SessionManager::Listed& one : listed) page.sessions.push_back(Describe(one.metadata, one.resident.get()));
  return page;
}

absl::Status EngineImpl::Isolate(const SessionHandle& handle, const absl::Status& reason) {
  const uint64_t number = handle->number();
  std::vector<std::shared_ptr<QueryRun>> queries;
  {
    absl::MutexLock lock(&mutex_);
    if (!isolated_.insert(number).second) {
      return absl::AbortedError(absl::StrCat("session '", handle->metadata().id, "' is being reset or deleted"));
    }
    for (const auto& [id, query] : queries_) {
      if (query->session() == handle.shared()) queries.push_back(query);
    }
  }
  LoseWriter(number, reason);
  for (const auto& query : queries) StopQuery(query, reason);
  // What is at the log or with a worker comes back soon; a failing disk ends its records too. Asked in the order in which
  // work moves on: who has the session, what of it is at the log, what of it is with a worker.
  while (sessions_->HasOtherPins(handle) || committer_->Has(number) || scheduler_->SessionGone(number)) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::DeleteSession(const std::string& id) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  ASSIGN_OR_RETURN(SessionHandle handle, sessions_->Acquire(id));
  const uint64_t number = handle->number();
  RETURN_IF_ERROR(Isolate(handle, absl::NotFoundError(absl::StrCat("session '", id, "' was deleted"))));
  const absl::Status status = sessions_->Remove(std::move(handle));
  absl::MutexLock lock(&mutex_);
  isolated_.erase(number);
  return status;
}

absl::StatusOr<SessionInfo> EngineImpl::Reset(const std::string& id, int64_t offset) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  ASSIGN_OR_RETURN(SessionHandle handle, sessions_->Acquire(id));
  const uint64_t number = handle->number();
  const int64_t accepted = handle->marks().accepted;
  if (offset < 0 || offset > accepted) {
    return absl::OutOfRangeError(
        absl::StrCat("offset ", offset, " is outside session '", id, "': it has accepted [0, ", accepted, "]"));
  }
  RETURN_IF_ERROR(Isolate(handle, absl::AbortedError(absl::StrCat("session '", id, "' was reset"))));
  const absl::Status status = sessions_->BeginEpoch(std::move(handle), offset);
  {
    absl::MutexLock lock(&mutex_);
    isolated_.erase(number);
  }
  RETURN_IF_ERROR(status);
  return GetSession(id);
}

// Writers.

absl::StatusOr<std::unique_ptr<Writer>> EngineImpl::OpenWriter(const std::string& id, const WriterOptions& options,
                                                               std::shared_ptr<WriterObserver> observer) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  if (!options.model.empty() && !models_.contains(options.model)) {
    return absl::NotFoundError(absl::StrCat("model '", absl::CHexEscape(options.model), "' does not exist"));
  }
  bool created = false;
  absl::StatusOr<SessionHandle> handle = sessions_->Acquire(id);
  if (absl::IsNotFound(handle.status()) && options.create_if_missing) {
    handle = CreateHandle(id, options.model, {});
    created = handle.ok();
    if (absl::IsAlreadyExists(handle.status())) handle = sessions_->Acquire(id);  // someone else was quicker
  }
  RETURN_IF_ERROR(handle.status());
  Session& session = **handle;
  if (!options.model.empty() && options.model != session.metadata().model) {
    return absl::FailedPreconditionError(absl::StrCat("session '", id, "' has model '", session.metadata().model,
                                                      "', not '", options.model, "'"));
  }
  if (const std::string failure = session.marks().failure; !failure.empty()) {
    return absl::FailedPreconditionError(failure);
  }
  const uint64_t number = session.number();
  const std::shared_ptr<Session> shared = handle->shared();
  auto seat = std::make_shared<WriterSeat>(*std::move(handle), std::move(observer), options_.max_backlog_tokens);
  std::shared_ptr<WriterSeat> former;
  {
    absl::MutexLock lock(&mutex_);
    if (isolated_.contains(number)) {
      return absl::AbortedError(absl::StrCat("session '", id, "' is being reset or deleted"));
    }
    if (draining_) return absl::UnavailableError("the server is shutting down; try again later");
    RETURN_IF_ERROR(disk_status_);
    std::shared_ptr<WriterSeat>& place = seats_[number];
    if (place != nullptr && !options.take_over) {
      return absl::FailedPreconditionError(
          absl::StrCat("session '", id, "' has a writer already (take_over takes its seat)"));
    }
    former = std::exchange(place, seat);
  }
  if (former != nullptr && former->Lose(absl::AbortedError(absl::StrCat("session '", id, "': another writer took over")))) {
    notifier_->Mark(former);
  }
  auto writer = std::make_unique<WriterImpl>(this, std::move(seat), Describe(shared->metadata(), shared.get()), created);
  if (const std::string failure = shared->marks().failure; !failure.empty()) {
    return absl::FailedPreconditionError(failure);  // it came before the seat could be told
  }
  return writer;
}

absl::Status EngineImpl::CheckContent(const Content& content, const Model& model, int64_t max_bytes) const {
  const int64_t bytes =
      content.kind == ContentKind::kText ? content.bytes.size() : content.tokens.size() * sizeof(int32_t);
  if (bytes == 0) return absl::InvalidArgumentError("the content is empty");
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the content has ", bytes, " bytes; the maximum is ", max_bytes));
  }
  if (content.kind == ContentKind::kText) {
    if (model.config().tokenizer.kind == TokenizerKind::kNone) {
      return absl::InvalidArgumentError("text for a model without a tokenizer; send token ids");
    }
    return absl::OkStatus();
  }
  for (const int32_t token : content.tokens) {
    if (token < 0 || token >= model.config().vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", token, " is outside the vocabulary [0, ", model.config().vocab_size, ")"));
    }
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::Append(const std::shared_ptr<WriterSeat>& seat, uint64_t sequence, Content content) {
  RETURN_IF_ERROR(seat->lost());
  RETURN_IF_ERROR(CheckTakingWork());
  const std::shared_ptr<Session> session = seat->session();
  if (session == nullptr) return seat->lost();
  RETURN_IF_ERROR(CheckContent(content, session->model(), options_.max_append_bytes));
  if (sequence == 0) return absl::OutOfRangeError("sequence 0 is given; sequences begin at 1");
  const int64_t bytes = content.kind == ContentKind::kText ? content.bytes.size() : content.tokens.size() * sizeof(int32_t);
  std::string payload = content.kind == ContentKind::kText ? std::move(content.bytes) : PackTokens(content.tokens);
  const bool has_room = committer_->HasRoom();
  int64_t accepted_tokens = 0;
  bool repeat = false;
  const absl::Status status = seat->Accept(
      sequence, LogKind(content.kind), std::move(payload), has_room, absl::Now(),
      [&](Session::Accepted accepted) {
        accepted_tokens = accepted.end_offset - accepted.record.first_offset;
        committer_->Add({session, std::move(accepted)});
      },
      &repeat);
  if (absl::IsResourceExhausted(status)) {
    if (!has_room) log_was_full_ = true;
    // Room may have come between the look and the refusal.
    if (session->HasRoom(options_.max_backlog_tokens) && committer_->HasRoom()) notifier_->Mark(seat);
  }
  RETURN_IF_ERROR(status);
  if (repeat) {  // acknowledged again, not applied again
    notifier_->Mark(seat);
    return absl::OkStatus();
  }
  absl::MutexLock lock(&mutex_);
  counts_.appends_total += 1;
  counts_.append_bytes_total += bytes;
  counts_.tokens_accepted_total += accepted_tokens;
  return absl::OkStatus();
}

absl::Status EngineImpl::Flush(const std::shared_ptr<WriterSeat>& seat) {
  RETURN_IF_ERROR(seat->lost());
  seat->RequestFlush();
  notifier_->Mark(seat);
  return absl::OkStatus();
}

void EngineImpl::CloseWriter(const std::shared_ptr<WriterSeat>& seat) {
  seat->Close();
  if (const std::shared_ptr<Session> session = seat->session()) {
    absl::MutexLock lock(&mutex_);
    const auto found = seats_.find(session->number());
    if (found != seats_.end() && found->second == seat) seats_.erase(found);
  }
  seat->Lose(absl::CancelledError("the writer was closed"));
}

void EngineImpl::MarkWriter(uint64_t number) {
  std::shared_ptr<WriterSeat> seat;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = seats_.find(number);
    if (found != seats_.end()) seat = found->second;
  }
  if (seat != nullptr) notifier_->Mark(std::move(seat));
}

void EngineImpl::LoseWriter(uint64_t number, const absl::Status& status) {
  std::shared_ptr<WriterSeat> seat;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = seats_.find(number);
    if (found == seats_.end()) return;
    seat = std::move(found->second);
    seats_.erase(found);
  }
  if (seat->Lose(status)) notifier_->Mark(std::move(seat));
}

// The log.

void EngineImpl::Committed(const absl::Status& status, const std::vector<LogCommitter::Item>& items) {
  if (!status.ok()) {
    {
      absl::MutexLock lock(&mutex_);
      if (disk_status_.ok()) disk_status_ = absl::UnavailableError(absl::StrCat("the log cannot be written: ", status.message()));
    }
    for (const LogCommitter::Item& item : items) {
      LoseWriter(item.session->number(), absl::UnavailableError(absl::StrCat("the log cannot be written: ", status.message())));
      for (const uint64_t id : item.session->CancelAllForks()) {
        if (const auto query = FindQuery(id)) EndQuery(query, status);
      }
    }
    return;
  }
  for (const LogCommitter::Item& item : items) {
    const LogRecord& record = item.accepted.record;
    if (item.session->Durable(record.index, record.sequence, item.accepted.end_offset)) {
      scheduler_->SessionReady(item.session->number());
    }
    MarkWriter(item.session->number());
  }
  if (log_was_full_.exchange(false)) {
    std::vector<std::shared_ptr<WriterSeat>> seats;
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& [number, seat] : seats_) seats.push_back(seat);
    }
    for (auto& seat : seats) notifier_->Mark(std::move(seat));
  }
}

// Workers.

void EngineImpl::RunWork(const Work& work) {
  if (work.query) {
    RunQuery(*work.query);
    return;
  }
  for (const uint64_t number : work.sessions) StepSession(number);
  scheduler_->BlocksDone(work.sessions);
}

void EngineImpl::StepSession(uint64_t number) {
  const std::shared_ptr<Session> session = sessions_->FindResident(number);
  if (session == nullptr) return;
  const std::optional<Session::Block> block = session->NextBlock();
  if (!block) return;
  const absl::Time begin = absl::Now();
  const BlockResult result = session->model().StepBlocks({{block->state, block->tokens}})[0];
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  Session::Published published = session->Publish(result);
  const bool is_snapshot_due = session->SnapshotDue(options_.snapshot_every_tokens).has_value();
  {
    absl::MutexLock lock(&mutex_);
    counts_.step_seconds_total += seconds;
    if (result.status.ok()) {
      counts_.tokens_memorized_total += block->tokens.size();
    } else {
      counts_.failed_steps_total += 1;
    }
    if (is_snapshot_due) snapshots_due_.insert(number);
  }
  if (published.ready) scheduler_->SessionReady(number);
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
    MarkWriter(number);
  } else {
    LoseWriter(number, failed);
  }
}

// Queries.

absl::StatusOr<std::unique_ptr<QueryHandle>> EngineImpl::StartQuery(const QueryOptions& options,
                                                                    std::shared_ptr<QueryObserver> observer) {
  RETURN_IF_ERROR(CheckSessionId(options.session_id));
  RETURN_IF_ERROR(CheckDecodingOptions({options.max_tokens, options.temperature, options.top_k, options.top_p,
                                        options.seed, options.stop}));
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
    if (!options.raw_prompt && model.tokenizer().question()) prompt.insert(prompt.begin(), *model.tokenizer().question());
  }
  if (static_cast<int64_t>(prompt.size()) > options_.max_prompt_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", prompt.size(), " tokens; the maximum is ", options_.max_prompt_tokens));
  }
  const std::shared_ptr<Session> session = handle.shared();
  std::shared_ptr<QueryRun> query;
  {
    absl::MutexLock lock(&mutex_);
    if (isolated_.contains(session->number())) {
      return absl::AbortedError(absl::StrCat("session '", options.session_id, "' is being reset or deleted"));
    }
    query = std::make_shared<QueryRun>(next_query_++, options, std::move(prompt), std::move(handle), std::move(observer));
    queries_[query->id()] = query;
    counts_.queries_total += 1;
    counts_.prompt_tokens_total += options.prompt.kind == ContentKind::kText ? options.prompt.bytes.size() : options.prompt.tokens.size();
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
  } else {
    absl::Status disk;
    {
      absl::MutexLock lock(&mutex_);
      disk = disk_status_;
    }
    if (!disk.ok()) StopQuery(query, disk);  // what it waits for will not become durable
  }
  return std::make_unique<QueryHandleImpl>(this, std::move(query));
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

void EngineImpl::RunQuery(uint64_t id) {
  const std::shared_ptr<QueryRun> query = FindQuery(id);
  if (query == nullptr) {
    scheduler_->QueryTurnDone(id, /*more=*/false);
    return;
  }
  std::optional<absl::StatusOr<QuerySummary>> end = query->Turn();
  if (end && end->ok() && query->options().remember) {
    absl::Status remembered = query->stopped();
    if (remembered.ok()) {
      absl::MutexLock lock(&mutex_);
      remembered = disk_status_;
    }
    if (remembered.ok()) {
      const Content content = query->Remembered();
      const std::shared_ptr<Session>& session = query->session();
      remembered = session->Accept(std::nullopt, LogKind(content.kind),
                                   content.kind == ContentKind::kText ? content.bytes : PackTokens(content.tokens),
                                   options_.max_backlog_tokens, absl::Now(), [&](Session::Accepted accepted) {
                                     (*end)->remembered_offset = accepted.end_offset;
                                     committer_->Add({session, std::move(accepted)});
                                   });
    }
    if (!remembered.ok()) {
      *end = absl::Status(remembered.code(),
                          absl::StrCat("the answer is whole, but it could not be remembered: ", remembered.message()));
    }
  }
  const bool again = scheduler_->QueryTurnDone(id, /*more=*/!end);
  if (!end && !again) {  // no other turn comes: it was stopped, or the workers were
    absl::Status reason = query->stopped();
    if (reason.ok()) reason = absl::UnavailableError("the server stopped; try again later");
    end = absl::StatusOr<QuerySummary>(reason);
  }
  if (end) EndQuery(query, *end);
}

void EngineImpl::CancelQuery(const std::shared_ptr<QueryRun>& query) {
  StopQuery(query, absl::CancelledError("the query was cancelled"));
}

// Snapshots and the end.

void EngineImpl::Snapshotter() {
  while (true) {
    uint64_t number = 0;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this] {
        mutex_.AssertHeld();
        return stopping_ || !snapshots_due_.empty();
      };
      mutex_.Await(absl::Condition(&due));
      if (stopping_) return;
      number = *snapshots_due_.begin();
      snapshots_due_.erase(snapshots_due_.begin());
    }
    const SessionHandle pin = sessions_->PinResident(number);  // a reset or a delete waits for it
    if (!pin) continue;
    {
      absl::MutexLock lock(&mutex_);
      if (isolated_.contains(number)) continue;
    }
    // A snapshot that fails costs a longer replay, no more: the disk's failure shows at the next append.
    sessions_->Snapshot(*pin, options_.snapshot_every_tokens).IgnoreError();
  }
}

EngineStats EngineImpl::stats() const {
  const SessionManager::Stats sessions = sessions_->stats();
  const LogCommitter::Stats commits = committer_->stats();
  const Scheduler::Load load = scheduler_->load();
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
  stats.commits_total = commits.commits;
  stats.commit_seconds_total = commits.commit_seconds;
  stats.snapshots_total = sessions.snapshots;
  stats.snapshot_bytes_total = sessions.snapshot_bytes;
  stats.evictions_total = sessions.evictions;
  stats.reloads_total = sessions.reloads;
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
      if (!queries_.empty()) return false;
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
    if (absl::Now() >= deadline) return absl::DeadlineExceededError("some sessions have no snapshot of their newest state");
    if (const SessionHandle pin = sessions_->PinResident(session->number())) first.Update(sessions_->Snapshot(*pin, 1));
  }
  return first;
}

}  // namespace mnemosyne
