// Sessions of the engine: created, described, reset, deleted.
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/engine/engine_impl.h"
#include "core/engine/input_checks.h"

namespace mnemosyne {

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
  if (const auto model = models_.find(metadata.model); model != models_.end())
    info.state_bytes = model->second->state_bytes();
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
    if (const auto header = storage_->ReadSnapshotHeader(metadata.number, metadata.epoch, newest); header.ok()) {
      info.watermarks.accepted_bytes = header->accepted_bytes;
      info.next_sequence = header->next_sequence;
    }
  }
  if (const auto last = storage_->LastLogRecord(metadata.number, metadata.epoch); last.ok() && last->has_value()) {
    const LogRecord& record = **last;
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
  // What is at the log or with a worker comes back soon; a failing disk ends its records too. Asked in the order in
  // which work moves on: who has the session, what of it is at the log, what of it is with a worker.
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
  RETURN_IF_ERROR(sessions_->CheckCut(*handle, offset));
  RETURN_IF_ERROR(Isolate(handle, absl::AbortedError(absl::StrCat("session '", id, "' was reset"))));
  const absl::Status status = sessions_->BeginEpoch(std::move(handle), offset);
  {
    absl::MutexLock lock(&mutex_);
    isolated_.erase(number);
  }
  RETURN_IF_ERROR(status);
  return GetSession(id);
}

}  // namespace mnemosyne
