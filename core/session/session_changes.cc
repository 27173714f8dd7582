// What changes a session's log other than appending to it: forks, resets, erasures, deletion, trimming.
#include <algorithm>
#include <set>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/session/session_manager.h"

namespace mnemosyne {

namespace {

// Each changes a session's record a little; beyond this one should begin anew.
constexpr size_t kMaxExtents = 10000;

absl::Status CheckExtents(const SessionMetadata& metadata) {
  const size_t parts = std::max(metadata.extents.size(), metadata.snapshot_sources.size());
  if (parts <= kMaxExtents) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the log of session '", metadata.id, "' is in ", parts,
                                                    " parts after so many forks, resets and erasures; the maximum is ",
                                                    kMaxExtents));
}

// Takes out the branches of which nothing is left in the session, neither record nor snapshot, and whose part of its
// past another has too: a session that goes back time and again collects them.
absl::Status DropIdleSources(Storage* storage, SessionMetadata* metadata) {
  if (metadata->snapshot_sources.size() < 2) return absl::OkStatus();
  SessionMetadata sources = {.number = 0, .snapshot_sources = metadata->snapshot_sources};
  ASSIGN_OR_RETURN(const std::vector<SnapshotId> snapshots, storage->ListSnapshots(sources));
  std::set<BranchId> used;
  for (const SnapshotId& id : snapshots) used.insert(id.branch);
  for (const LogExtent& extent : metadata->extents) used.insert(extent.branch);
  std::vector<SnapshotSource> kept;
  // The oldest come last, and are what the others grew from.
  for (auto it = metadata->snapshot_sources.rbegin(); it != metadata->snapshot_sources.rend(); ++it) {
    const bool is_covered = std::any_of(
        kept.begin(), kept.end(), [&](const SnapshotSource& older) { return older.max_offset >= it->max_offset; });
    if (used.contains(it->branch) || !is_covered) kept.push_back(*it);
  }
  std::reverse(kept.begin(), kept.end());
  metadata->snapshot_sources = std::move(kept);
  return absl::OkStatus();
}

// The part of a record that is kept, as a record of `branch`.
LogRecord Part(LogRecord record, const BranchId& branch, uint64_t index, std::string payload) {
  record.session_number = branch.number;
  record.epoch = branch.epoch;
  record.index = index;
  record.payload = std::move(payload);
  return record;
}

// `metadata` cut at `cut`, as the beginning of a log of `branch`; `records` are those that the cut makes anew.
absl::StatusOr<SessionMetadata> CutOff(Storage* storage, const SessionMetadata& metadata, const BranchId& branch,
                                       const History::Cut& cut, int64_t offset, std::vector<LogRecord>* records) {
  SessionMetadata next = Continuation(metadata, branch, cut.record_index, offset);
  RETURN_IF_ERROR(DropIdleSources(storage, &next));
  uint64_t index = cut.record_index;
  if (cut.bytes > 0) {
    ASSIGN_OR_RETURN(const LogRecord record, storage->ReadLogRecord(metadata, cut.record_index));
    records->push_back(Part(record, branch, index++, record.payload.substr(0, cut.bytes)));
  }
  if (cut.ends_text) {
    LogRecord before;
    if (!records->empty()) {
      before = records->back();
    } else if (cut.record_index > metadata.log_begin) {
      ASSIGN_OR_RETURN(before, storage->ReadLogRecord(metadata, cut.record_index - 1));
    }
    LogRecord end = Part(std::move(before), branch, index, "");
    end.kind = LogContent::kTokenIds;  // no ids, which end the text before them
    end.first_offset = offset;
    records->push_back(std::move(end));
  }
  return next;
}

}  // namespace

absl::Status SessionManager::CheckCut(const SessionHandle& handle, int64_t offset) const {
  return ReadPast(handle->metadata().id, [&](const SessionMetadata& metadata) {
    return History(storage_, metadata, &handle->model()).FindCut(offset).status();
  });
}

absl::Status SessionManager::Seize(const SessionHandle& handle) {
  constexpr absl::Duration kPatience = absl::Seconds(10);  // a passer-by, who only looks, is gone in a moment
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(handle->metadata().id);
  const auto is_alone = [&] {
    mutex_.AssertHeld();
    return entry.pins <= 1 && !entry.busy;
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&is_alone), kPatience)) {
    return absl::AbortedError("the session is in use; try again");
  }
  entry.busy = true;
  return absl::OkStatus();
}

absl::Status SessionManager::Switch(const SessionMetadata& former, const SessionMetadata& next,
                                    const std::vector<LogRecord>& records, absl::Span<const uint64_t> scrubbed) {
  absl::MutexLock lock(&branches_mutex_);
  RETURN_IF_ERROR(CheckReconciled());
  const std::vector<KeptOfBranch> before = KeptOfAll(former);
  branches_.Set(next);
  const std::vector<KeptOfBranch> kept = LessKept(before);
  const absl::Status status = storage_->Apply(
      {.put = next, .new_branch = next.own_branch(), .records = records, .kept = kept, .scrubbed = scrubbed});
  if (!status.ok()) branches_.Set(former);
  return status;
}

std::vector<KeptOfBranch> SessionManager::KeptOfAll(const SessionMetadata& metadata) const {
  std::vector<KeptOfBranch> kept;
  for (const BranchId& branch : BranchesOf(metadata)) kept.push_back(branches_.KeptOf(branch));
  return kept;
}

std::vector<KeptOfBranch> SessionManager::LessKept(const std::vector<KeptOfBranch>& before) const {
  std::vector<KeptOfBranch> less;
  for (const KeptOfBranch& was : before) {
    KeptOfBranch now = branches_.KeptOf(was.branch);
    if (now != was) less.push_back(std::move(now));
  }
  return less;
}

absl::Status SessionManager::EndSwitch(SessionHandle handle, const SessionMetadata& next, const absl::Status& status) {
  handle.Release();
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(next.id);
  entry.busy = false;
  RETURN_IF_ERROR(status);
  DropResident(entry);
  SetMetadata(entry, next);
  return absl::OkStatus();
}

absl::Status SessionManager::Delete(const SessionMetadata& metadata) {
  absl::MutexLock lock(&branches_mutex_);
  RETURN_IF_ERROR(CheckReconciled());
  const std::vector<KeptOfBranch> before = KeptOfAll(metadata);
  branches_.Remove(metadata.number);
  const std::vector<KeptOfBranch> kept = LessKept(before);
  const absl::Status status = storage_->Apply({.deleted = metadata.number, .kept = kept});
  if (!status.ok()) branches_.Set(metadata);
  return status;
}

absl::Status SessionManager::Remove(SessionHandle handle) {
  RETURN_IF_ERROR(Seize(handle));
  const SessionMetadata metadata = Metadata(handle->metadata().id);
  const absl::Status status = Delete(metadata);
  handle.Release();
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(metadata.id);
  entry.busy = false;
  RETURN_IF_ERROR(status);
  DropResident(entry);
  EraseEntry(metadata.id);
  return absl::OkStatus();
}

absl::Status SessionManager::Discard(SessionHandle handle) {
  RETURN_IF_ERROR(Seize(handle));
  const SessionMetadata metadata = Metadata(handle->metadata().id);
  handle.Release();
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(metadata.id);
  entry.busy = false;
  DropResident(entry);
  if (entry.is_gone) EraseEntry(metadata.id);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SessionManager::RemoveExpired(const std::string& id, absl::Time now) {
  return RemoveIf(id, [&](const Entry& entry) { return IsExpired(entry, now); });
}

absl::StatusOr<uint64_t> SessionManager::RemoveUnused(const std::string& id) {
  return RemoveIf(id, [](const Entry&) { return true; });
}

absl::StatusOr<uint64_t> SessionManager::RemoveIf(const std::string& id,
                                                  absl::FunctionRef<bool(const Entry&)> condition) {
  SessionMetadata metadata;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return 0;
    Entry& entry = found->second;
    const bool in_use = entry.busy || entry.pins > 0 || (entry.session != nullptr && !entry.session->IsQuiet());
    if (in_use || !condition(entry)) return 0;
    entry.busy = true;
    metadata = entry.metadata;
  }
  const absl::Status status = Delete(metadata);
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(id);
  entry.busy = false;
  RETURN_IF_ERROR(status);
  if (entry.session != nullptr) DropResident(entry);
  EraseEntry(id);
  return metadata.number;
}

absl::Status SessionManager::Reset(SessionHandle handle, int64_t offset) {
  RETURN_IF_ERROR(Seize(handle));
  const SessionMetadata former = Metadata(handle->metadata().id);
  SessionMetadata next = former;
  const absl::Status status = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const History::Cut cut, History(storage_, former, &handle->model()).FindCut(offset));
    std::vector<LogRecord> records;
    ASSIGN_OR_RETURN(next, CutOff(storage_, former, {former.number, former.epoch + 1}, cut, offset, &records));
    next.first_sequence = handle->marks().next_sequence;
    next.update_time = absl::Now();
    RETURN_IF_ERROR(CheckExtents(next));
    return Switch(former, next, records, {});
  }();
  return EndSwitch(std::move(handle), next, status);
}

absl::Status SessionManager::Erase(SessionHandle handle, int64_t begin, int64_t end, std::vector<std::string>* others) {
  RETURN_IF_ERROR(Seize(handle));
  const SessionMetadata former = Metadata(handle->metadata().id);
  const BranchId branch = {former.number, former.epoch + 1};
  SessionMetadata next = former;
  std::vector<uint64_t> other_readers;
  const absl::Status status = [&]() -> absl::Status {
    const History history(storage_, former, &handle->model());
    ASSIGN_OR_RETURN(const History::Cut first, history.FindCut(begin));
    ASSIGN_OR_RETURN(const History::Cut last, history.FindCut(end));
    ASSIGN_OR_RETURN(const uint64_t log_end, history.LogEnd());
    std::vector<LogRecord> records;
    ASSIGN_OR_RETURN(next, CutOff(storage_, former, branch, first, begin, &records));
    uint64_t behind = last.record_index;  // first record that stays whole
    if (last.bytes > 0) {
      ASSIGN_OR_RETURN(LogRecord record, storage_->ReadLogRecord(former, last.record_index));
      std::string rest = record.payload.substr(last.bytes);
      if (!rest.empty()) {
        record.first_offset = begin;
        records.push_back(Part(record, branch, first.record_index + records.size(), std::move(rest)));
      }
      behind += 1;
    }
    if (!records.empty()) AddExtents(next, {{branch, first.record_index, records.size(), 0}}, 0);
    if (behind < log_end) AddExtents(next, LogExtents(former, behind, log_end), end - begin);
    next.own_first = ExtentsEnd(next);
    next.first_sequence = handle->marks().next_sequence;
    next.update_time = absl::Now();
    RETURN_IF_ERROR(CheckExtents(next));
    std::vector<uint64_t> scrubbed;
    for (const BranchId& of : BranchesOf(former)) scrubbed.push_back(of.number);
    RETURN_IF_ERROR(Switch(former, next, records, scrubbed));
    absl::MutexLock lock(&branches_mutex_);
    other_readers = branches_.OtherReadersBehind(former, begin);  // also those that copied a part of a record
    const uint64_t touched_end = last.bytes > 0 ? last.record_index + 1 : last.record_index;
    for (const LogExtent& extent : LogExtents(former, first.record_index, touched_end)) {
      for (const uint64_t reader :
           branches_.OtherReaders(former.number, extent.branch, extent.first, extent.first + extent.count)) {
        other_readers.push_back(reader);
      }
    }
    return absl::OkStatus();
  }();
  RETURN_IF_ERROR(EndSwitch(std::move(handle), next, status));
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, entry] : entries_) {
    if (std::find(other_readers.begin(), other_readers.end(), entry.metadata.number) != other_readers.end()) {
      others->push_back(id);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SessionMetadata> SessionManager::PutFork(const Session& source, const SessionMetadata& from,
                                                        std::optional<int64_t> offset, const SessionMetadata& fork,
                                                        std::optional<Session::Recovered>* start) {
  // In this order: a state older than `from` may lie before its log's beginning; what is durable before the log's end
  // is looked for lies before that, and no snapshot of what comes later is the fork's. What is appended meanwhile may
  // or may not be in the fork.
  const auto [header, state] = source.Checkpoint();
  const Session::Marks marks = source.marks();
  const int64_t end = offset.value_or(marks.durable);
  const History history(storage_, from, &source.model());
  History::Cut cut;
  if (offset) {
    ASSIGN_OR_RETURN(cut, history.FindCut(*offset));
  } else {
    ASSIGN_OR_RETURN(cut.record_index, history.LogEnd());
  }
  std::vector<LogRecord> records;
  ASSIGN_OR_RETURN(SessionMetadata next, CutOff(storage_, from, {fork.number, 1}, cut, end, &records));
  next.id = fork.id;
  next.labels = fork.labels;
  next.settings = fork.settings;
  next.create_time = next.update_time = fork.create_time;
  next.first_sequence = marks.next_sequence;
  RETURN_IF_ERROR(CheckExtents(next));
  absl::MutexLock lock(&branches_mutex_);
  RETURN_IF_ERROR(CheckReconciled());
  if (Metadata(from.id).earliest_offset != from.earliest_offset) {
    return absl::UnavailableError(absl::StrCat("the log of session '", from.id, "' was just trimmed; try again"));
  }
  branches_.Set(next);
  const absl::Status put = storage_->Apply({.put = next, .new_branch = next.own_branch(), .records = records});
  if (!put.ok()) {
    branches_.Remove(next.number);
    return put;
  }
  if (end >= header.offset) *start = History::FromCheckpoint(header, state);
  return next;
}

absl::StatusOr<SessionHandle> SessionManager::Fork(const SessionHandle& source, std::optional<int64_t> offset,
                                                   SessionMetadata fork) {
  const Model& model = source->model();
  fork.model = source->metadata().model;
  ASSIGN_OR_RETURN(fork, AddEntry(std::move(fork)));
  const absl::StatusOr<std::shared_ptr<Session>> session = [&]() -> absl::StatusOr<std::shared_ptr<Session>> {
    RETURN_IF_ERROR(ReserveRoom(fork.id, model.state_bytes()));
    absl::Cleanup return_room = [&] { ReturnRoom(fork.id, model.state_bytes()); };
    std::optional<Session::Recovered> start;
    const SessionMetadata asked = fork;
    ASSIGN_OR_RETURN(fork, ReadPast(source->metadata().id, [&](const SessionMetadata& from) {
                       return PutFork(*source, from, offset, asked, &start);
                     }));
    // Nothing of the state in memory is in a snapshot of the fork's.
    if (start) start->snapshot_offset = 0;
    absl::StatusOr<std::shared_ptr<Session>> recovered = Recover(fork, model, std::move(start));
    if (!recovered.ok()) {
      Delete(fork).IgnoreError();
      return recovered;
    }
    std::move(return_room).Cancel();
    return recovered;
  }();
  SessionHandle handle;
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(fork.id);
    entry.busy = false;
    if (!session.ok()) {
      EraseEntry(fork.id);
      return session.status();
    }
    SetMetadata(entry, fork);
    AddResident(entry, *session);
    handle = Pin(entry);
  }
  if (handle->HasWholeBlock()) on_load_(handle->number());
  return handle;
}

absl::Status SessionManager::Update(const SessionHandle& handle, const std::map<std::string, std::string>& labels,
                                    const SessionSettings& settings) {
  absl::MutexLock branches_lock(&branches_mutex_);  // a trim writes the same record
  RETURN_IF_ERROR(CheckReconciled());
  SessionMetadata next = Metadata(handle->metadata().id);
  next.labels = labels;
  next.settings = settings;
  next.update_time = absl::Now();
  RETURN_IF_ERROR(storage_->PutSession(next));
  handle->SetLimits(LimitsOf(settings));
  absl::MutexLock lock(&mutex_);
  SetMetadata(entries_.at(next.id), next);
  return absl::OkStatus();
}

absl::Status SessionManager::Snapshot(SessionHandle handle, int64_t min_tokens) {
  {
    absl::MutexLock lock(&mutex_);
    settling_ += 1;
  }
  const absl::Status status = WriteSnapshot(*handle, min_tokens);
  handle.Release();
  absl::MutexLock lock(&mutex_);
  Settled();
  return status;
}

absl::Status SessionManager::WriteSnapshot(Session& session, int64_t min_tokens) {
  if (!session.IsSnapshotDue(min_tokens)) return absl::OkStatus();
  const absl::Time begin = absl::Now();
  const auto [header, state] = session.Checkpoint();
  const std::string bytes = session.model().EncodeState(*state);
  RETURN_IF_ERROR(storage_->PutSnapshot(header, bytes));
  session.Snapshotted(header.offset);
  snapshot_seconds_.Add(absl::ToDoubleSeconds(absl::Now() - begin));
  {
    absl::MutexLock lock(&mutex_);
    stats_.snapshot_bytes += bytes.size();
  }
  // In this order: the snapshot at a trimmed log's earliest offset goes when there is another, and not before.
  RETURN_IF_ERROR(Trim(session));
  return DropSnapshots(Metadata(session.metadata().id));
}

absl::Status SessionManager::DropSnapshots(const SessionMetadata& metadata) {
  SessionMetadata own = metadata;
  own.snapshot_sources.clear();
  ASSIGN_OR_RETURN(const std::vector<SnapshotId> snapshots, storage_->ListSnapshots(own));
  std::vector<int64_t> offsets;
  for (const SnapshotId& id : snapshots) offsets.push_back(id.offset);
  absl::MutexLock lock(&branches_mutex_);  // no fork begins to need one meanwhile
  const SnapshotNeeds needs = branches_.NeedsOfSnapshots(own.own_branch());
  std::vector<SnapshotId> dropped;
  for (const int64_t offset : SnapshotsToDrop(offsets, needs, metadata.settings.retention == Retention::kKeep)) {
    dropped.push_back({own.own_branch(), offset});
  }
  return storage_->DeleteSnapshots(dropped);
}

absl::Status SessionManager::Trim(Session& session) {
  SessionMetadata next = Metadata(session.metadata().id);
  if (next.settings.retention != Retention::kTrim) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<SnapshotId> snapshots, storage_->ListSnapshots(next));
  if (snapshots.size() < 2) return absl::OkStatus();
  // The newest may turn out damaged: the one before it, and the log behind that, stay.
  const absl::StatusOr<mnemosyne::Snapshot> older = storage_->ReadSnapshot(snapshots[1]);
  if (!older.ok()) return older.status();
  const SnapshotHeader& header = older->header;
  // One that a fork shares with its source may lie before us: the log up to there is not read yet.
  if (header.offset > session.marks().memorized) return absl::OkStatus();
  absl::MutexLock branches_lock(&branches_mutex_);
  RETURN_IF_ERROR(CheckReconciled());
  next = Metadata(session.metadata().id);
  if (next.settings.retention != Retention::kTrim || next.own_branch() != session.metadata().own_branch()) {
    return absl::OkStatus();
  }
  // Also when it ends in the log's first record: the snapshots before it go, whose offsets cannot be had then.
  if (header.replay_index == 0 || header.offset <= next.earliest_offset) return absl::OkStatus();
  const SessionMetadata former = next;
  TrimLog(next, header.replay_index, header.offset, header.accepted_bytes);
  std::erase_if(next.snapshot_sources, [&](const SnapshotSource& source) {
    return source.branch != snapshots[1].branch && source.max_offset <= header.offset;
  });
  const std::vector<KeptOfBranch> before = KeptOfAll(former);
  branches_.Set(next);
  const std::vector<KeptOfBranch> kept = LessKept(before);
  if (const absl::Status status = storage_->Apply({.put = next, .kept = kept}); !status.ok()) {
    branches_.Set(former);
    return status;
  }
  session.Trimmed(next.trimmed_bytes);
  absl::MutexLock lock(&mutex_);
  SetMetadata(entries_.at(next.id), next);
  return absl::OkStatus();
}

}  // namespace mnemosyne
