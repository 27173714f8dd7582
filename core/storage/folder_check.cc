#include "core/storage/folder_check.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/checksum.h"
#include "core/base/status_macros.h"
#include "core/storage/data_folder.h"
#include "core/storage/database.h"
#include "core/storage/folder_findings.h"
#include "core/storage/record_codec.h"
#include "core/storage/record_names.h"

namespace mnemosyne {
namespace {

std::string WithReason(absl::string_view name, const absl::Status& status) {
  return absl::StrCat(name, ": ", status.message());
}

// Calls `visit` for each record of a family. A file that cannot be read ends it: DATA_LOSS.
absl::Status VisitFamily(Database& database, rocksdb::ColumnFamilyHandle* family, absl::string_view name,
                         const std::function<absl::Status(absl::string_view, const rocksdb::Iterator&)>& visit) {
  std::unique_ptr<rocksdb::Iterator> it = database.Range(family, nullptr, nullptr);
  for (it->SeekToFirst(); it->Valid(); it->Next()) RETURN_IF_ERROR(visit(View(it->key()), *it));
  return FromRocksDb(it->status(), name);
}

uint64_t NumberIn(absl::string_view key) {
  const absl::StatusOr<uint64_t> number = ParseSessionKey(key.substr(0, 8));
  return number.ok() ? *number : 0;
}

BranchId BranchIn(absl::string_view key) { return {NumberIn(key), NumberIn(key.substr(8))}; }

int64_t TokenIdsIn(const LogRecord& record) { return static_cast<int64_t>(record.payload.size() / sizeof(int32_t)); }

// Where `index` lies in the ranges; end when in none.
auto RangeOf(const std::vector<std::pair<uint64_t, uint64_t>>& ranges, uint64_t index) {
  return std::find_if(ranges.begin(), ranges.end(),
                      [index](const auto& range) { return range.first <= index && index < range.second; });
}

// The snapshots of one branch. A state that cannot be read costs its own snapshot only: keys tell which there are.
std::set<SnapshotId> SnapshotsOf(Database& database, const BranchId& branch) {
  std::set<SnapshotId> ids;
  const std::string begin = HeaderKey({branch, 0}), states = StateKey({branch, 0}), end = BranchEnd(branch);
  const rocksdb::Slice begin_slice(begin), states_slice(states), end_slice(end);
  std::unique_ptr<rocksdb::Iterator> it = database.Range(database.snapshots(), &begin_slice, &states_slice);
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    if (const auto offset = ParseSnapshotOffset(View(it->key())); offset.ok()) ids.insert({branch, *offset});
  }
  for (int64_t from = 0;;) {  // states without a header
    it = database.Range(database.snapshots(), &states_slice, &end_slice);
    for (it->Seek(Slice(StateKey({branch, from}))); it->Valid(); it->Next()) {
      if (const auto offset = ParseSnapshotOffset(View(it->key())); offset.ok()) {
        ids.insert({branch, *offset});
        from = *offset + 1;
      }
    }
    if (it->status().ok()) return ids;
    const auto unread = ids.lower_bound({branch, from});  // the one whose state was not read
    if (unread == ids.end()) return ids;
    from = unread->offset + 1;
  }
}

}  // namespace

OfflineFolder::OfflineFolder(std::unique_ptr<Database> database) : database_(std::move(database)) {}
OfflineFolder::~OfflineFolder() = default;

absl::StatusOr<std::unique_ptr<OfflineFolder>> OfflineFolder::Open(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::path(path) / "CURRENT", error)) {
    return absl::NotFoundError(absl::StrCat("'", path, "' is no data folder"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(path, /*sync_writes=*/true));
  return std::unique_ptr<OfflineFolder>(new OfflineFolder(std::move(database)));
}

absl::Status OfflineFolder::FindFolderRecords(Findings* findings) {
  const auto visit = [&](absl::string_view key, const rocksdb::Iterator& it) -> absl::Status {
    if (key == kFormatKey) return absl::OkStatus();  // checked when the folder was opened
    if (key == kNextSessionKey) {
      const absl::StatusOr<uint64_t> number = DecodeNextSession(View(it.value()));
      if (absl::IsFailedPrecondition(number.status())) return Annotate(number.status(), "the next session's number");
      if (number.ok()) {
        findings->max_number = std::max(findings->max_number, *number - 1);
        return absl::OkStatus();
      }
      findings->is_next_session_bad = true;
      findings->report.damage.push_back(WithReason("the next session's number", number.status()));
    } else if (absl::StartsWith(key, kImportMark)) {
      const absl::StatusOr<uint64_t> number = DecodeMark(kImportMark, key, View(it.value()));
      if (absl::IsFailedPrecondition(number.status())) return Annotate(number.status(), "an unfinished import");
      if (number.ok()) {
        findings->imports.insert(*number);
        findings->report.harmless.push_back(absl::StrCat("unfinished import of session number ", *number));
        return absl::OkStatus();
      }
      findings->bad_marks.emplace_back(key);
      findings->report.damage.push_back(WithReason("an unfinished import", number.status()));
    } else if (absl::StartsWith(key, kScrubMark)) {
      const absl::StatusOr<uint64_t> number = DecodeMark(kScrubMark, key, View(it.value()));
      if (absl::IsFailedPrecondition(number.status())) return Annotate(number.status(), "an unfinished erasure");
      if (number.ok()) {
        findings->report.harmless.push_back(
            absl::StrCat("session number ", *number, ": the next server rewrites the files of what was erased"));
        return absl::OkStatus();
      }
      findings->bad_marks.emplace_back(key);
      findings->report.damage.push_back(WithReason("an unfinished erasure", number.status()));
    } else {
      findings->report.harmless.push_back(absl::StrCat("unknown record '", absl::CHexEscape(key), "'"));
    }
    return absl::OkStatus();
  };
  return VisitFamily(*database_, database_->db().DefaultColumnFamily(), "the folder's own records", visit);
}

absl::Status OfflineFolder::FindSessions(Findings* findings) {
  const auto visit = [&](absl::string_view key, const rocksdb::Iterator& it) -> absl::Status {
    const uint64_t number = NumberIn(key);
    findings->max_number = std::max(findings->max_number, number);
    const std::string name = absl::StrCat("metadata of session number ", number);
    absl::StatusOr<SessionMetadata> metadata = DecodeSession(key, View(it.value()));
    if (absl::IsFailedPrecondition(metadata.status())) return Annotate(metadata.status(), name);
    if (metadata.ok()) {
      findings->table.Set(*metadata);
      findings->report.sessions.push_back({.metadata = *std::move(metadata)});
    } else {
      findings->bad_sessions.insert(number);
      findings->report.damage.push_back(WithReason(name, metadata.status()));
    }
    return absl::OkStatus();
  };
  const absl::Status status = VisitFamily(*database_, database_->sessions(), "sessions' metadata", visit);
  std::sort(findings->report.sessions.begin(), findings->report.sessions.end(),
            [](const SessionReport& a, const SessionReport& b) { return a.metadata.id < b.metadata.id; });
  return status;
}

absl::Status OfflineFolder::FindLogs(Findings* findings) {
  std::optional<LogRecord> before;  // in the branch that is read
  bool had_text = false;            // so far in it: then only a tokenizer can count offsets
  BranchId reading = {0, 0};
  const auto visit = [&](absl::string_view key, const rocksdb::Iterator& it) -> absl::Status {
    const absl::StatusOr<uint64_t> index = ParseLogIndex(key);
    if (!index.ok()) {
      findings->bad_keys.push_back({.is_log = true, .key = std::string(key)});
      findings->report.damage.push_back(
          WithReason(absl::StrCat("log record at '", absl::CHexEscape(key), "'"), index.status()));
      return absl::OkStatus();
    }
    const BranchId branch = BranchIn(key);
    findings->max_number = std::max(findings->max_number, branch.number);
    findings->report.log_records += 1;
    Findings::Branch& found = findings->branches[branch];
    if (branch != reading) {
      reading = branch;
      before.reset();
      had_text = false;
    }
    if (found.present.empty() || found.present.back().second != *index) {
      found.present.emplace_back(*index, *index);
      before.reset();
    }
    found.present.back().second += 1;
    std::vector<int64_t>& ends = found.ends[found.present.back().first];
    ends.push_back(ends.empty() ? 0 : ends.back());
    absl::StatusOr<LogRecord> record = DecodeLogRecord(key, View(it.value()));
    if (absl::IsFailedPrecondition(record.status())) return Annotate(record.status(), LogName(branch, *index));
    if (!record.ok()) {
      found.bad[*index] = WithReason(LogName(branch, *index), record.status());
      before.reset();
      return absl::OkStatus();
    }
    ends.back() += static_cast<int64_t>(record->payload.size());
    found.last_offset = std::max(found.last_offset, record->first_offset);
    had_text |= record->kind == LogContent::kText;
    if (before && record->sequence < before->sequence) {
      found.bad[*index] = absl::StrCat(LogName(branch, *index), ": its sequence ", record->sequence, " is below the ",
                                       before->sequence, " before it");
    } else if (before && !had_text && before->first_offset >= 0 && record->first_offset >= 0 &&
               record->first_offset != before->first_offset + TokenIdsIn(*before)) {
      found.bad[*index] =
          absl::StrCat(LogName(branch, *index), ": it begins at offset ", record->first_offset,
                       ", where the record before it ends at ", before->first_offset + TokenIdsIn(*before));
    }
    before = *std::move(record);
    return absl::OkStatus();
  };
  return VisitFamily(*database_, database_->log(), "the sessions' logs", visit);
}

absl::StatusOr<SnapshotReport> OfflineFolder::ReadSnapshot(const SnapshotId& id) {
  const std::string header_key = HeaderKey(id), state_key = StateKey(id);
  const absl::StatusOr<std::string> header_value = database_->Get(database_->snapshots(), header_key, "its header");
  if (absl::IsNotFound(header_value.status())) return absl::DataLossError("its header is missing");
  RETURN_IF_ERROR(header_value.status());
  SnapshotReport report;
  ASSIGN_OR_RETURN(report.header, DecodeSnapshotHeader(header_key, *header_value));
  const absl::StatusOr<std::string> value = database_->Get(database_->snapshots(), state_key, "its state");
  if (absl::IsNotFound(value.status())) return absl::DataLossError("its state is missing");
  RETURN_IF_ERROR(value.status());
  ASSIGN_OR_RETURN(const absl::string_view state, DecodeSnapshotState(report.header, state_key, *value));
  report.digest = Checksum64(state);
  return report;
}

absl::Status OfflineFolder::FindSnapshots(Findings* findings) {
  std::set<SnapshotId> ids;
  absl::Status status;
  for (std::string at;;) {
    std::unique_ptr<rocksdb::Iterator> it = database_->Range(database_->snapshots(), nullptr, nullptr);
    it->Seek(at);
    if (!it->Valid()) {
      status = FromRocksDb(it->status(), "the sessions' snapshots");
      break;
    }
    const std::string key(View(it->key()));
    if (const absl::StatusOr<int64_t> offset = ParseSnapshotOffset(key); !offset.ok()) {
      findings->bad_keys.push_back({.is_log = false, .key = key});
      findings->report.damage.push_back(
          WithReason(absl::StrCat("snapshot at '", absl::CHexEscape(key), "'"), offset.status()));
      at = key + std::string(1, '\0');
      continue;
    }
    ids.merge(SnapshotsOf(*database_, BranchIn(key)));
    at = BranchEnd(BranchIn(key));
  }
  for (const SnapshotId& id : ids) {
    findings->max_number = std::max(findings->max_number, id.branch.number);
    findings->report.snapshots += 1;
    Findings::Branch& found = findings->branches[id.branch];
    absl::StatusOr<SnapshotReport> snapshot = ReadSnapshot(id);
    // A disk that refuses is no damage: what it holds may be good.
    if (!snapshot.ok() && !absl::IsDataLoss(snapshot.status())) return Annotate(snapshot.status(), SnapshotName(id));
    if (snapshot.ok()) {
      found.snapshots[id.offset] = std::move(snapshot->header);
    } else {
      found.bad_snapshots[id.offset] = WithReason(SnapshotName(id), snapshot.status());
    }
  }
  return status;
}

// What a session has of its log's branches, and what it lacks.
void OfflineFolder::JudgeLog(SessionReport& session, Findings* findings) {
  const SessionMetadata& metadata = session.metadata;
  const std::string name = absl::StrCat("session '", metadata.id, "'");
  const Findings::Branch& own = findings->branches[metadata.own_branch()];
  uint64_t own_end = metadata.own_first;
  for (const auto& [first, end] : own.present) own_end = std::max(own_end, end);
  session.log_end = own_end;
  session.tokens = own.last_offset;
  uint64_t at = metadata.log_begin;
  const auto bad = [&](uint64_t index, const std::string& what) {
    if (!session.first_bad_record) session.first_bad_record = index;
    findings->report.damage.push_back(absl::StrCat(name, ": ", what));
  };
  for (const LogExtent& extent : LogExtents(metadata, metadata.log_begin, own_end)) {
    const Findings::Branch& branch = findings->branches[extent.branch];
    const uint64_t extent_end = extent.first + extent.count;
    for (uint64_t index = extent.first; index < extent_end;) {
      const uint64_t in_log = at + (index - extent.first);
      const auto range = RangeOf(branch.present, index);
      const auto bad_record = branch.bad.lower_bound(index);
      if (range == branch.present.end()) {
        uint64_t next = extent_end;
        for (const auto& [first, end] : branch.present) {
          if (first > index) next = std::min(next, first);
        }
        bad(in_log, absl::StrCat(LogName(extent.branch, index), " is missing",
                                 next > index + 1 ? absl::StrCat(", and all up to ", next - 1) : ""));
        index = next;
        continue;
      }
      uint64_t good_end = std::min(range->second, extent_end);
      if (bad_record != branch.bad.end()) good_end = std::min(good_end, bad_record->first);
      session.records += good_end - index;
      if (good_end == index) {
        bad(in_log, bad_record->second);
        good_end += 1;
      } else {
        const std::vector<int64_t>& ends = branch.ends.at(range->first);
        session.content_bytes += ends.at(good_end - range->first - 1);
        if (index > range->first) session.content_bytes -= ends.at(index - range->first - 1);
      }
      index = good_end;
    }
    at += extent.count;
  }
}

// The same of its snapshots: its own, and those of its sources up to their bounds.
void OfflineFolder::JudgeSnapshots(SessionReport& session, Findings* findings) {
  const SessionMetadata& metadata = session.metadata;
  const std::string name = absl::StrCat("session '", metadata.id, "'");
  std::vector<SnapshotSource> sources = {{metadata.own_branch(), std::numeric_limits<int64_t>::max()}};
  sources.insert(sources.end(), metadata.snapshot_sources.begin(), metadata.snapshot_sources.end());
  for (const auto& [branch_id, max_offset] : sources) {
    const Findings::Branch& branch = findings->branches[branch_id];
    for (const auto& [offset, what] : branch.bad_snapshots) {
      if (offset <= max_offset) findings->report.damage.push_back(absl::StrCat(name, ": ", what));
    }
    for (const auto& [offset, header] : branch.snapshots) {
      if (offset > max_offset || header.replay_index < metadata.log_begin) continue;
      if (header.fingerprint != metadata.fingerprint) {
        findings->report.damage.push_back(
            absl::StrCat(name, ": ", SnapshotName({branch_id, offset}), " is of another model"));
        continue;
      }
      if (header.replay_index > session.log_end) {
        findings->report.damage.push_back(absl::StrCat(name, ": ", SnapshotName({branch_id, offset}),
                                                       " follows log record ", header.replay_index - 1,
                                                       "; the log ends before record ", session.log_end));
        if (!session.first_bad_record) session.first_bad_record = session.log_end;
        continue;
      }
      session.snapshots += 1;
      session.snapshot_bytes += header.state_bytes;
      session.tokens = std::max(session.tokens, offset);
    }
  }
  if (metadata.log_begin > 0 && session.snapshots == 0) {
    findings->report.damage.push_back(absl::StrCat(name, ": no good snapshot is left, and its log is trimmed: it ",
                                                   "begins at record ", metadata.log_begin));
  }
}

void OfflineFolder::FindOrphans(Findings* findings) {
  if (!findings->bad_sessions.empty()) return;  // what these read is not known
  for (const auto& [id, branch] : findings->branches) {
    if (findings->imports.contains(id.number)) continue;
    const KeptOfBranch kept = findings->table.KeptOf(id);
    Findings::Orphans orphans = {.branch = id};
    uint64_t records = 0;
    for (const auto& [first, end] : branch.present) {
      uint64_t from = first;
      const auto add = [&](uint64_t to) {
        if (from < to) {
          orphans.records.emplace_back(from, to);
          records += to - from;
        }
      };
      for (const auto& [kept_first, kept_end] : kept.records) {
        if (kept_end <= from || kept_first >= end) continue;
        add(kept_first);
        from = std::max(from, kept_end);
      }
      add(end);
    }
    for (const auto& [offset, header] : branch.snapshots) {
      if (offset > kept.max_snapshot_offset) orphans.snapshots.push_back(offset);
    }
    for (const auto& [offset, what] : branch.bad_snapshots) {
      if (offset > kept.max_snapshot_offset) orphans.snapshots.push_back(offset);
    }
    if (records == 0 && orphans.snapshots.empty()) continue;
    findings->report.harmless.push_back(absl::StrCat("orphans of ", BranchName(id), ": ", records, " log records, ",
                                                     orphans.snapshots.size(), " snapshots, which nobody reads"));
    findings->orphans.push_back(std::move(orphans));
  }
}

absl::StatusOr<OfflineFolder::Findings> OfflineFolder::Find() {
  Findings findings;
  for (const auto step : {&OfflineFolder::FindFolderRecords, &OfflineFolder::FindSessions, &OfflineFolder::FindLogs,
                          &OfflineFolder::FindSnapshots}) {
    const absl::Status status = (this->*step)(&findings);
    if (status.ok()) continue;
    if (!absl::IsDataLoss(status)) return status;
    findings.is_unreadable = true;
    findings.report.damage.push_back(absl::StrCat(status.message(), "; what is behind it was not read"));
  }
  for (SessionReport& session : findings.report.sessions) {
    JudgeLog(session, &findings);
    JudgeSnapshots(session, &findings);
  }
  if (!findings.is_unreadable) FindOrphans(&findings);
  return findings;
}

absl::StatusOr<FolderReport> OfflineFolder::Check() {
  ASSIGN_OR_RETURN(Findings findings, Find());
  return std::move(findings.report);
}

absl::StatusOr<SessionMetadata> OfflineFolder::FindSession(const std::string& id) {
  Findings findings;
  RETURN_IF_ERROR(FindSessions(&findings));
  for (const SessionReport& session : findings.report.sessions) {
    if (session.metadata.id == id) return session.metadata;
  }
  if (!findings.report.damage.empty()) return absl::DataLossError(findings.report.damage.front());
  return absl::NotFoundError(absl::StrCat("session '", id, "' does not exist"));
}

void OfflineFolder::VisitLog(const SessionMetadata& session,
                             const std::function<void(uint64_t, const absl::StatusOr<LogRecord>&)>& visit) {
  const BranchId own = session.own_branch();
  const std::string begin = LogKey(own.number, own.epoch, session.own_first), own_end = BranchEnd(own);
  const rocksdb::Slice begin_slice(begin), end_slice(own_end);
  std::unique_ptr<rocksdb::Iterator> last = database_->Range(database_->log(), &begin_slice, &end_slice);
  last->SeekToLast();
  uint64_t end = session.own_first;
  if (last->Valid()) end = ParseLogIndex(View(last->key())).value_or(end - 1) + 1;
  uint64_t index = session.log_begin;
  for (const LogExtent& extent : LogExtents(session, session.log_begin, end)) {
    for (uint64_t i = 0; i < extent.count; ++i, ++index) {
      const uint64_t in_branch = extent.first + i;
      const std::string name = LogName(extent.branch, in_branch);
      const std::string key = LogKey(extent.branch.number, extent.branch.epoch, in_branch);
      const absl::StatusOr<std::string> value = database_->Get(database_->log(), key, name);
      if (!value.ok()) {
        visit(index, absl::IsNotFound(value.status()) ? absl::DataLossError(absl::StrCat(name, " is missing"))
                                                      : value.status());
        continue;
      }
      absl::StatusOr<LogRecord> record = DecodeLogRecord(key, *value);
      if (record.ok()) {
        record->index = index;
        if (record->first_offset >= 0) record->first_offset -= extent.offset_shift;
      } else {
        record = Annotate(record.status(), name);
      }
      visit(index, record);
    }
  }
}

void OfflineFolder::VisitSnapshots(
    const SessionMetadata& session,
    const std::function<void(const SnapshotId&, const absl::StatusOr<SnapshotReport>&)>& visit) {
  std::vector<SnapshotSource> sources = {{session.own_branch(), std::numeric_limits<int64_t>::max() - 1}};
  sources.insert(sources.end(), session.snapshot_sources.begin(), session.snapshot_sources.end());
  for (const auto& [branch, max_offset] : sources) {
    const std::string begin = HeaderKey({branch, 0}), end = HeaderKey({branch, max_offset + 1});
    const rocksdb::Slice begin_slice(begin), end_slice(end);
    std::unique_ptr<rocksdb::Iterator> it = database_->Range(database_->snapshots(), &begin_slice, &end_slice);
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      const SnapshotId id = {branch, ParseSnapshotOffset(View(it->key())).value_or(-1)};
      visit(id, ReadSnapshot(id));
    }
  }
}

}  // namespace mnemosyne
