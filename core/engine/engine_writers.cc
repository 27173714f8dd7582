// Writers of the engine: their seats, what they append, and the log's word that it is durable.
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/engine/engine_impl.h"
#include "core/engine/input_checks.h"

namespace mnemosyne {

namespace {

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

}  // namespace

LoggedContent ToLog(Content content) {
  if (content.kind == ContentKind::kText) return {LogContent::kText, std::move(content.bytes)};
  return {LogContent::kTokenIds,
          std::string(reinterpret_cast<const char*>(content.tokens.data()), content.tokens.size() * sizeof(int32_t))};
}

absl::StatusOr<std::unique_ptr<Writer>> EngineImpl::OpenWriter(const std::string& id, const WriterOptions& options,
                                                               std::shared_ptr<WriterObserver> observer) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  const std::string& model = options.creation.model;
  if (!model.empty() && !models_.contains(model)) {
    return absl::NotFoundError(absl::StrCat("model '", absl::CHexEscape(model), "' does not exist"));
  }
  bool created = false;
  absl::StatusOr<SessionHandle> handle = sessions_->Acquire(id);
  if (absl::IsNotFound(handle.status()) && options.create_if_missing) {
    handle = CreateHandle(id, options.creation);
    created = handle.ok();
    if (absl::IsAlreadyExists(handle.status())) handle = sessions_->Acquire(id);  // someone else was quicker
  }
  RETURN_IF_ERROR(handle.status());
  Session& session = **handle;
  if (!model.empty() && model != session.metadata().model) {
    return absl::FailedPreconditionError(
        absl::StrCat("session '", id, "' has model '", session.metadata().model, "', not '", model, "'"));
  }
  if (const std::string failure = session.marks().failure; !failure.empty()) {
    return absl::FailedPreconditionError(failure);
  }
  const uint64_t number = session.number();
  const std::shared_ptr<Session> shared = handle->shared();
  auto seat = std::make_shared<WriterSeat>(*std::move(handle), std::move(observer));
  std::shared_ptr<WriterSeat> former;
  {
    absl::MutexLock lock(&mutex_);
    if (isolated_.contains(number)) {
      return absl::AbortedError(absl::StrCat("session '", id, "' is being changed or deleted"));
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
  if (former != nullptr &&
      former->Lose(absl::AbortedError(absl::StrCat("session '", id, "': another writer took over")))) {
    notifier_->Mark(former);
  }
  auto writer =
      std::make_unique<WriterImpl>(this, std::move(seat), Describe(sessions_->Metadata(id), shared.get()), created);
  if (const std::string failure = shared->marks().failure; !failure.empty()) {
    return absl::FailedPreconditionError(failure);  // it came before the seat could be told
  }
  return writer;
}

absl::Status EngineImpl::Append(const std::shared_ptr<WriterSeat>& seat, uint64_t sequence, Content content) {
  RETURN_IF_ERROR(seat->lost());
  RETURN_IF_ERROR(CheckTakingWork());
  const std::shared_ptr<Session> session = seat->session();
  if (session == nullptr) return seat->lost();
  RETURN_IF_ERROR(CheckContent(content, session->model(), options_.max_append_bytes));
  if (sequence == 0) return absl::OutOfRangeError("sequence 0 is given; sequences begin at 1");
  LoggedContent logged = ToLog(std::move(content));
  const int64_t bytes = logged.payload.size();
  const bool has_room = committer_->HasRoom();
  int64_t accepted_tokens = 0;
  bool repeat = false;
  const absl::StatusOr<bool> taken = seat->Accept(
      sequence, logged.kind, std::move(logged.payload), has_room, absl::Now(),
      [&](Session::Accepted accepted) {
        accepted_tokens = accepted.end_offset - accepted.record.first_offset;
        committer_->Add({session, std::move(accepted)});
      },
      &repeat);
  RETURN_IF_ERROR(taken.status());
  if (!*taken) {
    if (!has_room) log_was_full_ = true;
    // Room may have come between the look and the refusal.
    if (session->HasRoom() && committer_->HasRoom()) notifier_->Mark(seat);
    return NoRoomError(absl::StrCat("session '", session->metadata().id, "' has too much that is not memorized yet"));
  }
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

void EngineImpl::MarkWriter(uint64_t number, bool is_urgent) {
  std::shared_ptr<WriterSeat> seat;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = seats_.find(number);
    if (found != seats_.end()) seat = found->second;
  }
  if (seat == nullptr) return;
  is_urgent ? notifier_->Mark(std::move(seat)) : notifier_->MarkSoon(std::move(seat));
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

void EngineImpl::Committed(const absl::Status& status, const std::vector<LogCommitter::Item>& items) {
  if (!status.ok()) {
    FailDisk(status);
    for (const LogCommitter::Item& item : items) {
      const uint64_t number = item.session->number();
      // Once, of many records and batches: a query that is asked from then on is answered from what is durable.
      if (item.session->LogFailed()) {
        for (const uint64_t id : item.session->CancelAllForks()) {
          if (const auto query = FindQuery(id)) EndQuery(query, status);
        }
      }
      EndRemembered(number, 0, status);
      LoseWriter(number, absl::UnavailableError(absl::StrCat("the log cannot be written: ", status.message())));
    }
    return;
  }
  int64_t tokens = 0;
  for (const LogCommitter::Item& item : items) {
    const LogRecord& record = item.accepted.record;
    tokens += item.accepted.end_offset - item.session->marks().durable;
    if (item.session->Durable(record.index, record.sequence, item.accepted.end_offset)) {
      Ready(item.session->number());
    }
    EndRemembered(item.session->number(), item.accepted.end_offset, absl::OkStatus());
    MarkWriter(item.session->number(), /*is_urgent=*/true);
  }
  {
    absl::MutexLock lock(&mutex_);
    counts_.tokens_durable_total += tokens;
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

}  // namespace mnemosyne
