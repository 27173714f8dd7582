#include "core/session/session_manager.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/checksum.h"
#include "core/base/status_macros.h"
#include "core/storage/record_codec.h"

namespace mnemosyne {

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
  absl::MutexLock branches_lock(&manager->branches_mutex_);
  absl::MutexLock lock(&manager->mutex_);
  const absl::Time now = absl::Now();
  for (SessionMetadata& metadata : all) {
    const auto model = manager->models_.find(metadata.model);
    if (model != manager->models_.end() && model->second->fingerprint() != metadata.fingerprint) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the data folder's session '", metadata.id, "' was made with model '", metadata.model, "' of fingerprint ",
          metadata.fingerprint, "; the model loaded under that name has ", model->second->fingerprint()));
    }
    const std::string id = metadata.id;
    manager->branches_.Set(metadata);
    Entry& entry = manager->NewEntry(id);
    manager->SetMetadata(entry, metadata);
    entry.last_used = now;
  }
  return manager;
}

SessionHandle SessionManager::Pin(Entry& entry) {
  entry.pins += 1;
  entry.last_used = absl::Now();
  recency_.splice(recency_.end(), recency_, entry.recency);
  return SessionHandle(this, entry.session);
}

void SessionManager::Unpin(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  found->second.pins -= 1;
  found->second.last_used = absl::Now();
}

void SessionManager::AddResident(Entry& entry, std::shared_ptr<Session> session) {
  residents_[session->number()] = session;
  entry.recency = recency_.insert(recency_.end(), entry.metadata.id);
  entry.session = std::move(session);
}

void SessionManager::DropResident(Entry& entry) {
  residents_.erase(entry.session->number());
  const int64_t bytes = entry.session->model().state_bytes();
  stats_.resident_bytes -= bytes;
  tenants_[TenantOf(entry.metadata.id)].resident_bytes -= bytes;
  recency_.erase(entry.recency);
  entry.session = nullptr;
  entry.is_stale = false;
}

void SessionManager::Settled() {
  settling_ -= 1;
  settled_ += 1;
}

TenantLimits SessionManager::LimitsOfTenant(absl::string_view id) const {
  const absl::string_view tenant = TenantOf(id);
  return options_.tenant_limits == nullptr || tenant.empty() ? TenantLimits() : options_.tenant_limits(tenant);
}

SessionManager::Entry& SessionManager::NewEntry(const std::string& id) {
  tenants_[TenantOf(id)].sessions += 1;
  return entries_[id];
}

void SessionManager::EraseEntry(const std::string& id) {
  if (entries_.erase(id) == 0) return;
  const auto tenant = tenants_.find(TenantOf(id));
  tenant->second.sessions -= 1;
  if (tenant->second.sessions == 0 && tenant->second.resident_bytes == 0) tenants_.erase(tenant);
}

void SessionManager::ReturnRoom(absl::string_view id, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  stats_.resident_bytes -= bytes;
  tenants_[TenantOf(id)].resident_bytes -= bytes;
}

absl::Status SessionManager::ReserveRoom(absl::string_view id, int64_t bytes) {
  const absl::string_view tenant = TenantOf(id);
  const int64_t max_of_tenant = LimitsOfTenant(id).max_resident_bytes;
  while (true) {
    std::shared_ptr<Session> victim;
    {
      absl::MutexLock lock(&mutex_);
      OfTenant& of_tenant = tenants_[tenant];
      const bool fits_tenant = of_tenant.resident_bytes + bytes <= max_of_tenant;
      if (fits_tenant && stats_.resident_bytes + bytes <= options_.max_resident_bytes) {
        stats_.resident_bytes += bytes;
        of_tenant.resident_bytes += bytes;
        return absl::OkStatus();
      }
      for (const std::string& used : recency_) {
        Entry& entry = entries_.at(used);
        if (!fits_tenant && TenantOf(used) != tenant) continue;  // its own sessions make its room
        if (entry.pins > 0 || entry.busy || !entry.session->IsQuiet()) continue;
        entry.busy = true;
        settling_ += 1;
        victim = entry.session;
        break;
      }
      if (victim == nullptr && settling_ > 0) {  // what someone else is done with makes room, or does not: look again
        const int64_t before = settled_;
        const auto changed = [&] {
          mutex_.AssertHeld();
          return settled_ != before;
        };
        mutex_.Await(absl::Condition(&changed));
        continue;
      }
      if (victim == nullptr && !fits_tenant) {
        return absl::ResourceExhaustedError(absl::StrCat("states of tenant '", tenant, "' in use take ",
                                                         of_tenant.resident_bytes, " bytes; its maximum is ",
                                                         max_of_tenant, " (max_resident_bytes of the tenant)"));
      }
      if (victim == nullptr) {
        return absl::ResourceExhaustedError(absl::StrCat(stats_.resident_bytes,
                                                         " bytes of states are in use; the maximum is ",
                                                         options_.max_resident_bytes, " (max_resident_bytes)"));
      }
    }
    WriteSnapshot(*victim, 1).IgnoreError();  // without it the next load replays more: all of the session is in the log
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(victim->metadata().id);
    entry.busy = false;
    Settled();
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
  const absl::Time begin = absl::Now();
  absl::StatusOr<std::shared_ptr<Session>> loaded = Load(metadata);  // with its room reserved
  if (loaded.ok()) reload_seconds_.Add(absl::ToDoubleSeconds(absl::Now() - begin));
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
  RETURN_IF_ERROR(ReserveRoom(metadata.id, state_bytes));
  absl::StatusOr<std::shared_ptr<Session>> session = Recover(metadata, *model->second, std::nullopt);
  if (!session.ok()) ReturnRoom(metadata.id, state_bytes);
  return session;
}

Session::Limits SessionManager::LimitsOf(const SessionSettings& settings) const {
  Session::Limits limits = options_.limits;
  if (settings.max_backlog_tokens > 0) limits.max_backlog_tokens = settings.max_backlog_tokens;
  if (settings.max_log_bytes > 0) limits.max_log_bytes = settings.max_log_bytes;
  return limits;
}

absl::StatusOr<std::shared_ptr<Session>> SessionManager::Recover(const SessionMetadata& metadata, const Model& model,
                                                                 std::optional<Session::Recovered> start) {
  if (!start) {
    ASSIGN_OR_RETURN(start, History(storage_, metadata, &model).NewestState());
  }
  ASSIGN_OR_RETURN(const std::optional<LogRecord> last, storage_->LastLogRecord(metadata));
  const uint64_t log_end = last ? last->index + 1 : metadata.log_begin;
  if (log_end < start->position.record_index) {
    return absl::DataLossError(absl::StrCat("session '", metadata.id, "': the log ends before record ",
                                            start->position.record_index, ", which its snapshot at token ",
                                            start->snapshot_offset, " follows"));
  }
  const uint64_t from = start->position.record_index;
  if (from == log_end) {  // no record behind the state says which sequence comes next
    if (last) start->next_sequence = last->sequence + 1;
    start->next_sequence = std::max(metadata.first_sequence, start->next_sequence);
    if (last && start->next_sequence == last->sequence + 1) start->last_append_crc = LastAppendCrc(metadata, *last);
  }
  auto session = std::make_shared<Session>(metadata, &model, LimitsOf(metadata.settings), *std::move(start));
  ASSIGN_OR_RETURN(const std::unique_ptr<LogReader> log, storage_->ReadLog(metadata, from));
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<LogRecord> record, log->Next());
    if (!record) break;
    RETURN_IF_ERROR(session->Replay(*record));
  }
  RETURN_IF_ERROR(session->CheckReplayed());
  const Session::Marks marks = session->marks();
  absl::MutexLock lock(&mutex_);
  stats_.replayed_tokens += marks.accepted - marks.memorized;
  return session;
}

std::optional<uint32_t> SessionManager::LastAppendCrc(const SessionMetadata& metadata, LogRecord last) const {
  constexpr int kMostRemembered = 16;  // in a row; behind more it is not known
  for (int i = 0; i < kMostRemembered; ++i) {
    if (last.index == metadata.log_begin) break;
    const absl::StatusOr<LogRecord> before = storage_->ReadLogRecord(metadata, last.index - 1);
    if (!before.ok()) return std::nullopt;  // trimmed
    if (before->sequence < last.sequence) return Crc32(last.payload);
    last = *before;
  }
  // Of a log that begins with it, nothing says whether `remember` or a writer did: the first append has number 1.
  if (last.index == metadata.log_begin && metadata.log_begin == 0 && last.sequence > 0) return Crc32(last.payload);
  return std::nullopt;
}

absl::Status SessionManager::ReadOn(Session& session) const {
  const std::optional<uint64_t> from = session.RecordToReadOn();
  if (!from) return absl::OkStatus();
  const std::string& id = session.metadata().id;
  ASSIGN_OR_RETURN(const std::unique_ptr<LogReader> log, storage_->ReadLog(Metadata(id), *from));
  for (bool more = true; more;) {
    ASSIGN_OR_RETURN(const std::optional<LogRecord> record, log->Next());
    if (!record) return absl::DataLossError(absl::StrCat("the log of session '", id, "' has lost its end"));
    ASSIGN_OR_RETURN(more, session.ReadOn(*record));
  }
  return absl::OkStatus();
}

absl::StatusOr<SessionMetadata> SessionManager::AddEntry(SessionMetadata metadata) {
  absl::MutexLock lock(&mutex_);
  if (entries_.contains(metadata.id)) {
    return absl::AlreadyExistsError(absl::StrCat("session '", metadata.id, "' already exists"));
  }
  if (static_cast<int64_t>(entries_.size()) >= options_.max_sessions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", entries_.size(), " sessions; the maximum is ", options_.max_sessions));
  }
  const absl::string_view tenant = TenantOf(metadata.id);
  const auto of_tenant = tenants_.find(tenant);
  const int64_t have = of_tenant == tenants_.end() ? 0 : of_tenant->second.sessions;
  if (const int64_t most = LimitsOfTenant(metadata.id).max_sessions; have >= most) {
    return absl::ResourceExhaustedError(absl::StrCat("tenant '", tenant, "' has ", have, " sessions; its maximum is ",
                                                     most, " (max_sessions of the tenant)"));
  }
  if (metadata.number == 0) metadata.number = storage_->NextSessionNumber();
  metadata.fingerprint = models_.at(metadata.model)->fingerprint();
  Entry& entry = NewEntry(metadata.id);
  SetMetadata(entry, metadata);
  entry.busy = true;
  return metadata;
}

absl::StatusOr<SessionHandle> SessionManager::CreateSession(SessionMetadata metadata) {
  const Model* const model = models_.at(metadata.model);
  ASSIGN_OR_RETURN(metadata, AddEntry(std::move(metadata)));
  absl::Status status = ReserveRoom(metadata.id, model->state_bytes());
  if (status.ok()) {
    status = storage_->PutSession(metadata);
    if (!status.ok()) ReturnRoom(metadata.id, model->state_bytes());
  }
  absl::MutexLock branches_lock(&branches_mutex_);
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(metadata.id);
  if (!status.ok()) {
    EraseEntry(metadata.id);
    return status;
  }
  branches_.Set(metadata);
  entry.busy = false;
  Session::Recovered fresh;
  fresh.state = model->InitialState();
  fresh.next_sequence = metadata.first_sequence;
  AddResident(entry, std::make_shared<Session>(metadata, model, LimitsOf(metadata.settings), std::move(fresh)));
  return Pin(entry);
}

absl::Status SessionManager::CheckNewId(const std::string& id) const {
  absl::MutexLock lock(&mutex_);
  if (!entries_.contains(id)) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat("session '", id, "' already exists"));
}

absl::Status SessionManager::FinishImport(const SessionMetadata& metadata) {
  RETURN_IF_ERROR(AddEntry(metadata).status());
  const absl::Status status = storage_->Apply({.put = metadata, .finished_import = metadata.number});
  absl::MutexLock branches_lock(&branches_mutex_);
  absl::MutexLock lock(&mutex_);
  if (!status.ok()) {
    EraseEntry(metadata.id);
    return status;
  }
  branches_.Set(metadata);
  Entry& entry = entries_.at(metadata.id);
  entry.busy = false;
  entry.last_used = absl::Now();
  return absl::OkStatus();
}

absl::Status SessionManager::CheckReconciled() const {
  if (is_reconciled_) return absl::OkStatus();
  return absl::UnavailableError("the data folder is being opened again; try again later");
}

absl::StatusOr<std::vector<std::string>> SessionManager::Reopen() {
  absl::MutexLock branches_lock(&branches_mutex_);
  is_reconciled_ = false;
  RETURN_IF_ERROR(storage_->Reopen());
  ASSIGN_OR_RETURN(const std::vector<SessionMetadata> sessions, storage_->LoadSessions());
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, entry] : entries_) {
    if (entry.busy) return absl::UnavailableError(absl::StrCat("session '", id, "' is being loaded or changed"));
  }
  std::map<std::string, const SessionMetadata*> found;
  for (const SessionMetadata& metadata : sessions) {
    found[metadata.id] = &metadata;
    const bool is_new = !entries_.contains(metadata.id);
    Entry& entry = is_new ? NewEntry(metadata.id) : entries_.at(metadata.id);
    if (is_new) entry.last_used = absl::Now();
    if (EncodeSession(entry.metadata) == EncodeSession(metadata)) continue;
    if (entry.metadata.number != metadata.number) branches_.Remove(entry.metadata.number);
    branches_.Set(metadata);
    SetMetadata(entry, metadata);
    entry.is_stale = entry.session != nullptr;
  }
  std::vector<std::string> stale;
  for (auto it = entries_.begin(); it != entries_.end();) {
    Entry& entry = it->second;
    if (!found.contains(it->first)) {
      branches_.Remove(entry.metadata.number);
      if (entry.session == nullptr) {
        const std::string id = (it++)->first;
        EraseEntry(id);
        continue;
      }
      entry.is_stale = entry.is_gone = true;
    }
    if (entry.is_stale) stale.push_back(it->first);
    ++it;
  }
  is_reconciled_ = true;
  return stale;
}

bool SessionManager::HasOtherPins(const SessionHandle& handle) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(handle->metadata().id);
  return found != entries_.end() && found->second.pins > 1;
}

SessionMetadata SessionManager::Metadata(const std::string& id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() ? SessionMetadata() : found->second.metadata;
}

SessionMetadata SessionManager::SettledMetadata(const std::string& id) const {
  absl::MutexLock lock(&branches_mutex_);
  return Metadata(id);
}

absl::Status SessionManager::CheckNotTrimmedSince(const SessionMetadata& metadata) const {
  if (SettledMetadata(metadata.id).earliest_offset == metadata.earliest_offset) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the log of session '", metadata.id, "' was just trimmed; try again"));
}

void SessionManager::SetMetadata(Entry& entry, const SessionMetadata& metadata) {
  entry.metadata = metadata;
  const SessionSettings& settings = metadata.settings;
  some_expire_ |= std::min(settings.ttl, settings.idle_ttl) != absl::InfiniteDuration();
}

bool SessionManager::IsExpired(const Entry& entry, absl::Time now) const {
  const SessionMetadata& metadata = entry.metadata;
  if (now >= metadata.create_time + metadata.settings.ttl) return true;
  return entry.pins == 0 && now >= entry.last_used + metadata.settings.idle_ttl;
}

std::vector<std::string> SessionManager::Expired(absl::Time now, int64_t count) const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> expired;
  if (!some_expire_) return expired;
  for (const auto& [id, entry] : entries_) {
    if (static_cast<int64_t>(expired.size()) >= count) break;
    if (!entry.busy && IsExpired(entry, now)) expired.push_back(id);
  }
  return expired;
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

std::vector<std::shared_ptr<Session>> SessionManager::NewestResidents(int64_t count) const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Session>> newest;
  for (auto id = recency_.rbegin(); id != recency_.rend() && static_cast<int64_t>(newest.size()) < count; ++id) {
    newest.push_back(entries_.at(*id).session);
  }
  return newest;
}

std::vector<SessionManager::Listed> SessionManager::List(const std::map<std::string, std::string>& labels,
                                                         absl::string_view tenant, const std::string& from_id,
                                                         int64_t count) const {
  const std::string first = tenant.empty() ? std::string() : absl::StrCat(tenant, std::string(1, kTenantSeparator));
  absl::MutexLock lock(&mutex_);
  std::vector<Listed> listed;
  for (auto it = entries_.lower_bound(std::max(first, from_id));
       it != entries_.end() && static_cast<int64_t>(listed.size()) < count; ++it) {
    if (TenantOf(it->first) != tenant) {
      if (!tenant.empty()) break;  // a tenant's sessions stand together
      continue;
    }
    const Entry& entry = it->second;
    const bool fits = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      const auto found = entry.metadata.labels.find(label.first);
      return found != entry.metadata.labels.end() && found->second == label.second;
    });
    if (fits) listed.push_back({entry.metadata, entry.session});
  }
  return listed;
}

std::vector<std::pair<SessionMetadata, bool>> SessionManager::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::pair<SessionMetadata, bool>> all;
  all.reserve(entries_.size());
  for (const auto& [id, entry] : entries_) all.emplace_back(entry.metadata, entry.session != nullptr);
  return all;
}

SessionManager::Stats SessionManager::stats() const {
  absl::MutexLock lock(&mutex_);
  Stats stats = stats_;
  stats.sessions = entries_.size();
  stats.resident_sessions = residents_.size();
  for (const auto& [number, session] : residents_) {
    const Session::Marks marks = session->marks();
    stats.lag_tokens += marks.accepted - marks.memorized;
    stats.max_lag_tokens = std::max(stats.max_lag_tokens, marks.accepted - marks.memorized);
  }
  stats.snapshot_seconds = snapshot_seconds_.counts();
  stats.reload_seconds = reload_seconds_.counts();
  return stats;
}

}  // namespace mnemosyne
