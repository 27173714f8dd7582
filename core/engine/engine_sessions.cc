// Sessions of the engine: created, described, changed, deleted.
#include <algorithm>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/base/tenant.h"
#include "core/engine/engine_impl.h"
#include "core/engine/input_checks.h"

namespace mnemosyne {

absl::StatusOr<SessionMetadata> EngineImpl::NewMetadata(const std::string& id, const SessionOptions& options) const {
  SessionMetadata metadata;
  metadata.id = id;
  if (SessionNameOf(id).empty()) {
    std::random_device random;
    metadata.id += absl::StrFormat("session-%08x%08x", random(), random());
  }
  RETURN_IF_ERROR(CheckSessionId(metadata.id));
  RETURN_IF_ERROR(CheckLabels(options.labels));
  metadata.model = options.model.empty() ? options_.models[0].name : options.model;
  const auto model = models_.find(metadata.model);
  if (model == models_.end()) {
    return absl::NotFoundError(absl::StrCat("model '", absl::CHexEscape(metadata.model), "' does not exist"));
  }
  RETURN_IF_ERROR(CheckSettings(options.settings, model->second->config().block_tokens(), options_));
  metadata.labels = options.labels;
  metadata.settings = options.settings;
  metadata.create_time = metadata.update_time = absl::Now();
  return metadata;
}

absl::StatusOr<SessionHandle> EngineImpl::CreateHandle(const std::string& id, const SessionOptions& options) {
  RETURN_IF_ERROR(CheckTakingWork());
  ASSIGN_OR_RETURN(SessionMetadata metadata, NewMetadata(id, options));
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
  info.settings = metadata.settings;
  info.earliest_offset = metadata.earliest_offset;
  info.expire_time = metadata.create_time + metadata.settings.ttl;
  info.create_time = metadata.create_time;
  info.update_time = metadata.update_time;
  info.log_bytes = storage_->LogBytes(metadata);
  if (const auto model = models_.find(metadata.model); model != models_.end())
    info.state_bytes = model->second->state_bytes();
  if (session != nullptr) {
    const Session::Marks marks = session->marks();
    info.resident = true;
    info.next_sequence = marks.next_sequence;
    info.memorized_sequence = marks.memorized_sequence;
    info.watermarks = {marks.accepted, marks.durable, marks.memorized, marks.accepted_bytes};
    info.pending_tokens = marks.accepted - marks.memorized;
    info.update_time = std::max(metadata.update_time, marks.update_time);
    info.failure = marks.failure;
    info.last_append_crc = marks.last_append_crc;
    return info;
  }
  const auto snapshots = storage_->ListSnapshots(metadata);
  if (snapshots.ok() && !snapshots->empty()) {
    const int64_t newest = snapshots->front().offset;
    info.watermarks = {newest, newest, newest, 0};
    if (const auto header = storage_->ReadSnapshotHeader(snapshots->front()); header.ok()) {
      info.watermarks.accepted_bytes = header->accepted_bytes;
      info.next_sequence = std::max(metadata.first_sequence, header->next_sequence);
    }
  }
  if (const auto last = storage_->LastLogRecord(metadata); last.ok() && last->has_value()) {
    const LogRecord& record = **last;
    info.update_time = std::max(metadata.update_time, record.time);
    info.next_sequence = std::max(metadata.first_sequence, record.sequence + 1);
    const auto model = models_.find(metadata.model);
    const bool is_text = record.kind == LogContent::kText;
    // With pieces of text, how many tokens a record ends is known only to who tokenizes it.
    const bool is_counted =
        model != models_.end() && model->second->config().tokenizer.kind != TokenizerKind::kSentencePiece;
    if (record.first_offset >= 0 && is_counted) {
      const int64_t tokens = record.payload.size() / (is_text ? 1 : sizeof(int32_t));
      info.watermarks.accepted = info.watermarks.durable = record.first_offset + tokens;
    }
  }
  info.pending_tokens = info.watermarks.accepted - info.watermarks.memorized;
  return info;
}

SessionInfo EngineImpl::Describe(const SessionHandle& handle) const {
  return Describe(sessions_->Metadata(handle->metadata().id), &*handle);
}

absl::StatusOr<SessionInfo> EngineImpl::CreateSession(const std::string& id, const SessionOptions& options) {
  ASSIGN_OR_RETURN(const SessionHandle handle, CreateHandle(id, options));
  return Describe(handle);
}

absl::StatusOr<SessionInfo> EngineImpl::GetSession(const std::string& id) {
  RETURN_IF_ERROR(CheckSessionId(id));
  ASSIGN_OR_RETURN(const SessionHandle handle, sessions_->Acquire(id));
  return Describe(handle);
}

absl::StatusOr<SessionInfo> EngineImpl::DescribeChanged(const std::string& id) {
  absl::StatusOr<SessionInfo> info = GetSession(id);
  return absl::IsResourceExhausted(info.status()) ? Describe(sessions_->Metadata(id), nullptr) : info;
}

absl::StatusOr<SessionInfo> EngineImpl::UpdateSession(const std::string& id, const SessionUpdate& update) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  ASSIGN_OR_RETURN(const SessionHandle handle, sessions_->Acquire(id));
  const SessionMetadata now = sessions_->Metadata(id);
  const std::map<std::string, std::string> labels = update.labels.value_or(now.labels);
  const SessionSettings settings = update.settings.value_or(now.settings);
  RETURN_IF_ERROR(CheckLabels(labels));
  RETURN_IF_ERROR(CheckSettings(settings, handle->model().config().block_tokens(), options_));
  RETURN_IF_ERROR(sessions_->Update(handle, labels, settings));
  return Describe(handle);
}

SessionPage EngineImpl::ListSessions(const std::map<std::string, std::string>& labels, const std::string& from_id,
                                     int page_size, absl::string_view tenant) {
  std::vector<SessionManager::Listed> listed = sessions_->List(labels, tenant, from_id, page_size + 1);
  SessionPage page;
  if (static_cast<int>(listed.size()) > page_size) {
    page.next_id = listed.back().metadata.id;
    listed.pop_back();
  }
  for (const SessionManager::Listed& one : listed) page.sessions.push_back(Describe(one.metadata, one.resident.get()));
  return page;
}

std::vector<SessionInfo> EngineImpl::ResidentSessions(int64_t count) const {
  std::vector<SessionInfo> out;
  for (const std::shared_ptr<Session>& session : sessions_->NewestResidents(count)) {
    out.push_back(Describe(sessions_->Metadata(session->metadata().id), session.get()));
  }
  return out;
}

std::vector<SurprisePoint> EngineImpl::SurpriseOf(const std::string& id) const {
  const std::shared_ptr<Session> session = sessions_->FindResident(sessions_->Metadata(id).number);
  return session == nullptr ? std::vector<SurprisePoint>() : session->SurprisePoints();
}

std::map<std::string, TenantUse> EngineImpl::UseByTenant() const {
  constexpr int64_t kSnapshotsKept = 2;
  std::map<std::string, TenantUse> uses;
  for (const auto& [metadata, is_resident] : sessions_->All()) {
    const auto model = models_.find(metadata.model);
    const int64_t state_bytes = model == models_.end() ? 0 : model->second->state_bytes();
    TenantUse& use = uses[std::string(TenantOf(metadata.id))];
    use.sessions += 1;
    use.resident_bytes += is_resident ? state_bytes : 0;
    use.stored_bytes += storage_->LogBytes(metadata) + kSnapshotsKept * state_bytes;
  }
  return uses;
}

absl::Status EngineImpl::Isolate(const SessionHandle& handle, const absl::Status& reason) {
  const uint64_t number = handle->number();
  std::vector<std::shared_ptr<QueryRun>> queries;
  {
    absl::MutexLock lock(&mutex_);
    if (!isolated_.insert(number).second) {
      return absl::AbortedError(absl::StrCat("session '", handle->metadata().id, "' is being changed or deleted"));
    }
    for (const auto& [id, query] : queries_) {
      if (query->session() == handle.shared()) queries.push_back(query);
    }
  }
  LoseWriter(number, reason);
  for (const auto& query : queries) StopQuery(query, reason);
  // What is at the log or with a worker comes back soon; a failing disk ends its records too. Asked in the order in
  // which work moves on: who has the session, what of it is at the log, what of it is with a worker.
  while (sessions_->HasOtherPins(handle) || committer_->Has(number) || scheduler_->SessionGone(number)) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::AwaitDurable(const Session& session) const {
  const Session::FlushPoint point = session.CurrentFlushPoint();
  while (!session.IsDurable(point)) {
    {
      absl::MutexLock lock(&mutex_);
      RETURN_IF_ERROR(disk_status_);
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::CheckOffset(const SessionHandle& handle, int64_t offset) const {
  const int64_t accepted = handle->marks().accepted;
  if (offset >= 0 && offset <= accepted) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("offset ", offset, " is outside session '", handle->metadata().id,
                                            "': it has accepted [0, ", accepted, "]"));
}

absl::Status EngineImpl::ChangeAlone(SessionHandle handle, const absl::Status& reason,
                                     absl::FunctionRef<absl::Status(SessionHandle)> change) {
  const uint64_t number = handle->number();
  RETURN_IF_ERROR(Isolate(handle, reason));
  const absl::Status status = change(std::move(handle));
  {
    absl::MutexLock lock(&mutex_);
    isolated_.erase(number);
  }
  // After a change that failed the session is the one that it was, with what it had to memorize.
  const std::shared_ptr<Session> session = sessions_->FindResident(number);
  if (session != nullptr && session->HasWholeBlock()) Ready(number);
  return status;
}

absl::Status EngineImpl::DeleteSession(const std::string& id) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  absl::StatusOr<SessionHandle> handle = sessions_->Acquire(id);
  if (absl::IsDataLoss(handle.status()) || absl::IsFailedPrecondition(handle.status())) {
    // It cannot be loaded, so nobody has it, and all that is left to do is this.
    ASSIGN_OR_RETURN(const uint64_t removed, sessions_->RemoveUnused(id));
    if (removed != 0) return absl::OkStatus();
  }
  RETURN_IF_ERROR(handle.status());
  return ChangeAlone(*std::move(handle), absl::NotFoundError(absl::StrCat("session '", id, "' was deleted")),
                     [&](SessionHandle alone) { return sessions_->Remove(std::move(alone)); });
}

void EngineImpl::DeleteExpired() {
  constexpr int64_t kAtOnce = 256;
  for (const std::string& id : sessions_->Expired(absl::Now(), kAtOnce)) {
    if (!CheckTakingWork().ok()) return;
    absl::StatusOr<uint64_t> removed = sessions_->RemoveExpired(id, absl::Now());
    bool is_removed = removed.ok() && *removed != 0;
    if (is_removed) {
      scheduler_->SessionGone(*removed);
    } else if (const SessionMetadata metadata = sessions_->Metadata(id);
               metadata.number != 0 && absl::Now() >= metadata.create_time + metadata.settings.ttl) {
      is_removed = DeleteSession(id).ok();  // someone has it: its time is over all the same
    }
    absl::MutexLock lock(&mutex_);
    counts_.expired_sessions_total += is_removed;
  }
}

absl::StatusOr<SessionInfo> EngineImpl::Reset(const std::string& id, int64_t offset) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  ASSIGN_OR_RETURN(SessionHandle handle, sessions_->Acquire(id));
  RETURN_IF_ERROR(CheckOffset(handle, offset));
  RETURN_IF_ERROR(AwaitDurable(*handle));
  RETURN_IF_ERROR(sessions_->CheckCut(handle, offset));
  RETURN_IF_ERROR(ChangeAlone(std::move(handle), absl::AbortedError(absl::StrCat("session '", id, "' was reset")),
                              [&](SessionHandle alone) { return sessions_->Reset(std::move(alone), offset); }));
  return DescribeChanged(id);
}

absl::StatusOr<ErasedSpan> EngineImpl::EraseSpan(const std::string& id, int64_t begin, int64_t end) {
  RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  ASSIGN_OR_RETURN(SessionHandle handle, sessions_->Acquire(id));
  if (begin >= end) {
    return absl::InvalidArgumentError(absl::StrCat("the span [", begin, ", ", end, ") is empty"));
  }
  RETURN_IF_ERROR(CheckOffset(handle, begin));
  RETURN_IF_ERROR(CheckOffset(handle, end));
  RETURN_IF_ERROR(AwaitDurable(*handle));
  RETURN_IF_ERROR(sessions_->CheckCut(handle, begin));
  RETURN_IF_ERROR(sessions_->CheckCut(handle, end));
  ErasedSpan erased;
  RETURN_IF_ERROR(ChangeAlone(
      std::move(handle), absl::AbortedError(absl::StrCat("a span of session '", id, "' was erased")),
      [&](SessionHandle alone) { return sessions_->Erase(std::move(alone), begin, end, &erased.still_in); }));
  if (const absl::Status scrubbed = storage_->Scrub(); !scrubbed.ok()) {
    // Not an error that asks to be tried again: other tokens are in the span's place now.
    return absl::InternalError(absl::StrCat("the span is erased from session '", id, "', and not to be erased again; ",
                                            "the files that held it could not be rewritten yet, and will be when the ",
                                            "disk lets them: ", scrubbed.message()));
  }
  ASSIGN_OR_RETURN(erased.session, DescribeChanged(id));
  return erased;
}

absl::StatusOr<SessionInfo> EngineImpl::ForkSession(const ForkOptions& options) {
  RETURN_IF_ERROR(CheckSessionId(options.source_id));
  RETURN_IF_ERROR(CheckTakingWork());
  ASSIGN_OR_RETURN(const SessionHandle source, sessions_->Acquire(options.source_id));
  const SessionMetadata from = sessions_->Metadata(options.source_id);
  ASSIGN_OR_RETURN(SessionMetadata fork,
                   NewMetadata(options.fork_id, {.model = from.model,
                                                 .labels = options.labels.value_or(from.labels),
                                                 .settings = options.settings.value_or(from.settings)}));
  if (options.offset) RETURN_IF_ERROR(CheckOffset(source, *options.offset));
  RETURN_IF_ERROR(AwaitDurable(*source));
  ASSIGN_OR_RETURN(const SessionHandle handle, sessions_->Fork(source, options.offset, std::move(fork)));
  return Describe(handle);
}

}  // namespace mnemosyne
