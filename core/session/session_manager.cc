#include "core/session/session_manager.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {

std::vector<int32_t> UnpackTokens(absl::string_view payload) {
  std::vector<int32_t> ids(payload.size() / sizeof(int32_t));
  if (!payload.empty()) std::memcpy(ids.data(), payload.data(), payload.size());
  return ids;
}

}  // namespace

SessionHandle& SessionHandle::operator=(SessionHandle&& other) noexcept {
  if (this == &other) return *this;
  Release();
  manager_ = std::exchange(other.manager_, nullptr);
  session_ = std::exchange(other.session_, nullptr);
  return *this;
}

void SessionHandle::Release() {
  if (session_ == nullptr) return;
  const std::shared_ptr<Session> session = std::exchange(session_, nullptr);
  std::exchange(manager_, nullptr)->Unpin(session->metadata().id);
}

absl::StatusOr<std::unique_ptr<SessionManager>> SessionManager::Create(const Options& options, Storage* storage,
                                                                       std::map<std::string, const Model*> models,
                                                                       std::function<void(uint64_t)> on_load) {
  ASSIGN_OR_RETURN(std::vector<SessionMetadata> all, storage->LoadSessions());
  std::unique_ptr<SessionManager> manager(new SessionManager(options, storage, std::move(models), std::move(on_load)));
  absl::MutexLock lock(&manager->mutex_);
  for (SessionMetadata& metadata : all) {
    const auto model = manager->models_.find(metadata.model);
    if (model != manager->models_.end() && model->second->fingerprint() != metadata.fingerprint) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the data folder's session '", metadata.id, "' was made with model '", metadata.model, "' of fingerprint ",
          metadata.fingerprint, "; the model loaded under that name has ", model->second->fingerprint()));
    }
    const std::string id = metadata.id;
    manager->entries_[id].metadata = std::move(metadata);
  }
  return manager;
}

SessionHandle SessionManager::Pin(Entry& entry) {
  entry.pins += 1;
  recency_.splice(recency_.end(), recency_, entry.recency);
  return SessionHandle(this, entry.session);
}

void SessionManager::Unpin(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(id);
  if (found != entries_.end()) found->second.pins -= 1;
}

void SessionManager::AddResident(Entry& entry, std::shared_ptr<Session> session) {
  residents_[session->number()] = session;
  entry.recency = recency_.insert(recency_.end(), entry.metadata.id);
  entry.session = std::move(session);
}

void SessionManager::DropResident(Entry& entry) {
  residents_.erase(entry.session->number());
  stats_.resident_bytes -= entry.session->model().state_bytes();
  recency_.erase(entry.recency);
  entry.session = nullptr;
}

void SessionManager::ReturnRoom(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  stats_.resident_bytes -= bytes;
}

absl::Status SessionManager::ReserveRoom(int64_t bytes) {
  while (true) {
    std::shared_ptr<Session> victim;
    {
      absl::MutexLock lock(&mutex_);
      if (stats_.resident_bytes + bytes <= options_.max_resident_bytes) {
        stats_.resident_bytes += bytes;
        return absl::OkStatus();
      }
      for (const std::string& id : recency_) {
        Entry& entry = entries_.at(id);
        if (entry.pins > 0 || entry.busy || !entry.session->IsQuiet()) continue;
        entry.busy = true;
        unloading_ += 1;
        victim = entry.session;
        break;
      }
      if (victim == nullptr && unloading_ > 0) {  // someone else's victim makes room, or does not: look again
        const int64_t before = unloading_;
        const auto changed = [&] {
          mutex_.AssertHeld();
          return unloading_ != before;
        };
        mutex_.Await(absl::Condition(&changed));
        continue;
      }
      if (victim == nullptr) {
        return absl::ResourceExhaustedError(absl::StrCat(stats_.resident_bytes,
                                                         " bytes of states are in use; the maximum is ",
                                                         options_.max_resident_bytes, " (max_resident_bytes)"));
      }
    }
    const absl::Status saved = Snapshot(*victim, 1);
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(victim->metadata().id);
    entry.busy = false;
    unloading_ -= 1;
    RETURN_IF_ERROR(saved);
    DropResident(entry);
    stats_.evictions += 1;
  }
}

absl::StatusOr<SessionHandle> SessionManager::Acquire(const std::string& id) {
  SessionMetadata metadata;
  {
    absl::MutexLock lock(&mutex_);
    const auto idle = [&] {
      mutex_.AssertHeld();
      const auto found = entries_.find(id);
      return found == entries_.end() || !found->second.busy;
    };
    mutex_.Await(absl::Condition(&idle));
    const auto found = entries_.find(id);
    if (found == entries_.end()) return absl::NotFoundError(absl::StrCat("session '", id, "' does not exist"));
    if (found->second.session != nullptr) return Pin(found->second);
    found->second.busy = true;
    metadata = found->second.metadata;
  }
  absl::StatusOr<std::shared_ptr<Session>> loaded = Load(metadata);  // with its room reserved
  bool has_blocks = false;
  absl::StatusOr<SessionHandle> handle = [&]() -> absl::StatusOr<SessionHandle> {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(id);
    entry.busy = false;
    RETURN_IF_ERROR(loaded.status());
    has_blocks = (*loaded)->HasWholeBlock();
    AddResident(entry, *std::move(loaded));
    return Pin(entry);
  }();
  if (has_blocks) on_load_(metadata.number);
  return handle;
}

absl::StatusOr<std::shared_ptr<Session>> SessionManager::Load(const SessionMetadata& metadata) {
  const auto model = models_.find(metadata.model);
  if (model == models_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session '", metadata.id, "' needs model '", metadata.model, "', which is not loaded"));
  }
  const int64_t state_bytes = model->second->state_bytes();
  RETURN_IF_ERROR(ReserveRoom(state_bytes));
  absl::StatusOr<std::shared_ptr<Session>> session = Recover(metadata, *model->second);
  if (!session.ok()) ReturnRoom(state_bytes);
  return session;
}

absl::StatusOr<std::shared_ptr<Session>> SessionManager::Recover(const SessionMetadata& metadata, const Model& model) {
  ASSIGN_OR_RETURN(Session::Recovered recovered, RecoverState(metadata, model));
  const uint64_t from = recovered.position.record_index;
  auto session = std::make_shared<Session>(metadata, &model, std::move(recovered));
  RETURN_IF_ERROR(storage_->ReadLog(metadata.number, metadata.epoch, from,
                                    [&](const LogRecord& record) { return session->Replay(record); }));
  RETURN_IF_ERROR(session->CheckReplayed());
  const Session::Marks marks = session->marks();
  absl::MutexLock lock(&mutex_);
  stats_.reloads += 1;
  stats_.replayed_tokens += marks.accepted - marks.memorized;
  return session;
}

// The newest snapshot that is whole and of this model; without one, the beginning.
absl::StatusOr<Session::Recovered> SessionManager::RecoverState(const SessionMetadata& metadata, const Model& model) {
  Session::Recovered recovered;
  recovered.state = model.InitialState();
  recovered.next_sequence = metadata.first_sequence;
  ASSIGN_OR_RETURN(const std::vector<int64_t> offsets, storage_->ListSnapshots(metadata.number, metadata.epoch));
  ASSIGN_OR_RETURN(const std::optional<LogRecord> last, storage_->LastLogRecord(metadata.number, metadata.epoch));
  for (const int64_t offset : offsets) {
    const absl::StatusOr<mnemosyne::Snapshot> snapshot =
        storage_->ReadSnapshot(metadata.number, metadata.epoch, offset);
    if (!snapshot.ok()) continue;  // the one before it and a longer replay give the same state
    const SnapshotHeader& header = snapshot->header;
    if (header.replay_index > 0 && (!last || last->index + 1 < header.replay_index)) {
      return absl::DataLossError(absl::StrCat("session '", metadata.id, "': the log ends before record ",
                                              header.replay_index, ", which its snapshot at token ", offset,
                                              " follows"));
    }
    absl::StatusOr<StatePtr> state = model.DecodeState(snapshot->state);
    if (!state.ok() || header.fingerprint != metadata.fingerprint || StateOffset(**state) != offset) continue;
    recovered.state = *std::move(state);
    recovered.position = {header.replay_index, header.replay_skip_bytes, offset - header.replay_skip_tokens,
                          header.replay_skip_tokens};
    recovered.accepted_bytes = header.accepted_bytes;
    recovered.snapshot_offset = offset;
    recovered.next_sequence = header.next_sequence;
    // Without records behind the snapshot, the last one says which sequence comes next.
    if (last) recovered.next_sequence = std::max(metadata.first_sequence, last->sequence + 1);
    break;
  }
  return recovered;
}

absl::StatusOr<SessionHandle> SessionManager::CreateSession(SessionMetadata metadata) {
  const std::string id = metadata.id;
  const Model* const model = models_.at(metadata.model);
  {
    absl::MutexLock lock(&mutex_);
    if (entries_.contains(id)) return absl::AlreadyExistsError(absl::StrCat("session '", id, "' already exists"));
    if (static_cast<int64_t>(entries_.size()) >= options_.max_sessions) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", entries_.size(), " sessions; the maximum is ", options_.max_sessions));
    }
    metadata.number = storage_->NextSessionNumber();
    metadata.fingerprint = model->fingerprint();
    Entry& entry = entries_[id];
    entry.metadata = metadata;
    entry.busy = true;
  }
  absl::Status status = ReserveRoom(model->state_bytes());
  if (status.ok()) {
    status = storage_->PutSession(metadata);
    if (!status.ok()) ReturnRoom(model->state_bytes());
  }
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(id);
  if (!status.ok()) {
    entries_.erase(id);
    return status;
  }
  entry.busy = false;
  Session::Recovered fresh;
  fresh.state = model->InitialState();
  fresh.next_sequence = metadata.first_sequence;
  AddResident(entry, std::make_shared<Session>(metadata, model, std::move(fresh)));
  return Pin(entry);
}

bool SessionManager::HasOtherPins(const SessionHandle& handle) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(handle->metadata().id);
  return found != entries_.end() && found->second.pins > 1;
}

absl::Status SessionManager::Remove(SessionHandle handle) {
  const SessionMetadata metadata = handle->metadata();
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(metadata.id);
    if (entry.pins > 1 || entry.busy) return absl::AbortedError("the session is in use; try again");
    entry.busy = true;
  }
  const absl::Status status = storage_->DeleteSession(metadata.number);
  handle.Release();
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(metadata.id);
  entry.busy = false;
  RETURN_IF_ERROR(status);
  DropResident(entry);
  entries_.erase(metadata.id);
  return absl::OkStatus();
}

absl::Status SessionManager::BeginEpoch(SessionHandle handle, int64_t offset) {
  const SessionMetadata former = handle->metadata();
  SessionMetadata metadata = former;
  metadata.epoch += 1;
  metadata.first_sequence = handle->marks().next_sequence;
  metadata.update_time = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(metadata.id);
    if (entry.pins > 1 || entry.busy) return absl::AbortedError("the session is in use; try again");
    entry.busy = true;
  }
  const absl::Status status = [&]() -> absl::Status {
    // First without the remains of a reset that a crash cut short; then the copy; then the switch, which is atomic.
    RETURN_IF_ERROR(storage_->PutSessionAndDropOtherEpochs(former));
    if (offset > 0) RETURN_IF_ERROR(CopyEpoch(*handle, metadata.epoch, offset));
    return storage_->PutSessionAndDropOtherEpochs(metadata);
  }();
  handle.Release();
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(metadata.id);
  entry.busy = false;
  RETURN_IF_ERROR(status);
  DropResident(entry);
  entry.metadata = metadata;
  return absl::OkStatus();
}

namespace {

const absl::Status& Enough() {  // ends the reading of a log early
  static const absl::Status status = absl::CancelledError("");
  return status;
}

absl::Status UnlessEnough(const absl::Status& status) { return absl::IsCancelled(status) ? absl::OkStatus() : status; }

}  // namespace

absl::StatusOr<std::optional<SessionManager::Cut>> SessionManager::FindCut(const Session& session,
                                                                           int64_t offset) const {
  const SessionMetadata& metadata = session.metadata();
  TokenFeed feed(&session.model().tokenizer(), TokenFeed::Position{});
  std::vector<LogContent> kinds;  // by record index
  RETURN_IF_ERROR(UnlessEnough(storage_->ReadLog(metadata.number, metadata.epoch, 0, [&](const LogRecord& record) {
    kinds.push_back(record.kind);
    const absl::Status fed = record.kind == LogContent::kText
                                 ? feed.AddText(record.index, record.payload).status()
                                 : feed.AddTokens(record.index, UnpackTokens(record.payload)).status();
    RETURN_IF_ERROR(fed);
    return feed.offset() >= offset ? Enough() : absl::OkStatus();
  })));
  if (feed.offset() < offset) return std::nullopt;
  const TokenFeed::Position at = feed.PositionAt(offset);
  Cut cut = {at.record_index, at.skip_bytes, std::nullopt};
  if (at.skip_tokens > 0) {
    if (kinds.at(at.record_index) == LogContent::kTokenIds) {
      cut.bytes += at.skip_tokens * static_cast<int64_t>(sizeof(int32_t));
    } else if (session.model().config().tokenizer.kind == TokenizerKind::kBytes) {
      cut.bytes += at.skip_tokens;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("offset ", offset,
                                                     " lies inside a piece of text that was tokenized ",
                                                     "as one; the place before it is ", at.offset));
    }
  }
  if (cut.bytes > 0) {
    cut.last_kept = kinds.at(cut.record_index);
  } else if (cut.record_index > 0) {
    cut.last_kept = kinds.at(cut.record_index - 1);
  }
  return cut;
}

absl::Status SessionManager::CheckCut(const Session& session, int64_t offset) const {
  if (offset == 0 || session.model().config().tokenizer.kind == TokenizerKind::kBytes) return absl::OkStatus();
  return FindCut(session, offset).status();
}

// Copies the log before token `offset`, and the newest snapshot at or before it, into another epoch.
absl::Status SessionManager::CopyEpoch(const Session& session, uint64_t to_epoch, int64_t offset) {
  const SessionMetadata& metadata = session.metadata();
  ASSIGN_OR_RETURN(const std::optional<Cut> cut, FindCut(session, offset));
  if (!cut)
    return absl::InternalError(absl::StrCat("the log of session '", metadata.id, "' ends before token ", offset));

  std::vector<LogRecord> copies;
  int64_t bytes = 0;
  const auto write = [&] {
    absl::Status written = copies.empty() ? absl::OkStatus() : storage_->AppendLog(copies);
    copies.clear();
    bytes = 0;
    return written;
  };
  RETURN_IF_ERROR(UnlessEnough(storage_->ReadLog(metadata.number, metadata.epoch, 0, [&](const LogRecord& record) {
    if (record.index > cut->record_index || (record.index == cut->record_index && cut->bytes == 0)) return Enough();
    LogRecord copy = record;
    copy.epoch = to_epoch;
    if (record.index == cut->record_index) copy.payload.resize(cut->bytes);
    bytes += copy.payload.size();
    copies.push_back(std::move(copy));
    constexpr int64_t kBatchBytes = int64_t{4} << 20;
    return bytes >= kBatchBytes ? write() : absl::OkStatus();
  })));
  RETURN_IF_ERROR(write());
  if (session.model().config().tokenizer.kind != TokenizerKind::kBytes && cut->last_kept == LogContent::kText) {
    // What ended the last piece of text is gone: no ids, which end text too, stand in its place.
    ASSIGN_OR_RETURN(std::optional<LogRecord> end, storage_->LastLogRecord(metadata.number, to_epoch));
    if (!end) return absl::InternalError("the copied log is empty");
    end->index += 1;
    end->kind = LogContent::kTokenIds;
    end->payload.clear();
    end->first_offset = offset;
    RETURN_IF_ERROR(storage_->AppendLog({*end}));
  }

  ASSIGN_OR_RETURN(const std::vector<int64_t> snapshots, storage_->ListSnapshots(metadata.number, metadata.epoch));
  for (const int64_t at : snapshots) {
    if (at > offset) continue;
    absl::StatusOr<mnemosyne::Snapshot> snapshot = storage_->ReadSnapshot(metadata.number, metadata.epoch, at);
    if (!snapshot.ok()) continue;  // a longer replay does without it
    snapshot->header.epoch = to_epoch;
    return storage_->PutSnapshot(snapshot->header, snapshot->state);
  }
  return absl::OkStatus();
}

std::shared_ptr<Session> SessionManager::FindResident(uint64_t number) const {
  absl::MutexLock lock(&mutex_);
  const auto found = residents_.find(number);
  return found == residents_.end() ? nullptr : found->second;
}

SessionHandle SessionManager::PinResident(uint64_t number) {
  absl::MutexLock lock(&mutex_);
  const auto found = residents_.find(number);
  if (found == residents_.end()) return SessionHandle();
  Entry& entry = entries_.at(found->second->metadata().id);
  return entry.busy ? SessionHandle() : Pin(entry);
}

std::vector<std::shared_ptr<Session>> SessionManager::Residents() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Session>> all;
  for (const auto& [number, session] : residents_) all.push_back(session);
  return all;
}

std::vector<SessionManager::Listed> SessionManager::List(const std::map<std::string, std::string>& labels,
                                                         const std::string& from_id, int64_t count) const {
  absl::MutexLock lock(&mutex_);
  std::vector<Listed> listed;
  for (auto it = entries_.lower_bound(from_id); it != entries_.end() && static_cast<int64_t>(listed.size()) < count;
       ++it) {
    const Entry& entry = it->second;
    const bool fits = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      const auto found = entry.metadata.labels.find(label.first);
      return found != entry.metadata.labels.end() && found->second == label.second;
    });
    if (fits) listed.push_back({entry.metadata, entry.session});
  }
  return listed;
}

absl::Status SessionManager::Snapshot(Session& session, int64_t min_tokens) {
  const auto due = session.SnapshotDue(min_tokens);
  if (!due) return absl::OkStatus();
  const auto& [header, state] = *due;
  const std::string bytes = session.model().EncodeState(*state);
  RETURN_IF_ERROR(storage_->PutSnapshot(header, bytes));
  session.Snapshotted(header.offset);
  ASSIGN_OR_RETURN(const std::vector<int64_t> offsets, storage_->ListSnapshots(header.session_number, header.epoch));
  for (size_t i = 2; i < offsets.size(); ++i) {
    RETURN_IF_ERROR(storage_->DeleteSnapshot(header.session_number, header.epoch, offsets[i]));
  }
  absl::MutexLock lock(&mutex_);
  stats_.snapshots += 1;
  stats_.snapshot_bytes += bytes.size();
  return absl::OkStatus();
}

SessionManager::Stats SessionManager::stats() const {
  absl::MutexLock lock(&mutex_);
  Stats stats = stats_;
  stats.sessions = entries_.size();
  stats.resident_sessions = residents_.size();
  return stats;
}

}  // namespace mnemosyne
