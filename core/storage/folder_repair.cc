// What can be done about a damaged data folder.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/storage/branch_drop.h"
#include "core/storage/database.h"
#include "core/storage/folder_findings.h"
#include "core/storage/record_codec.h"
#include "core/storage/record_names.h"

namespace mnemosyne {

absl::Status OfflineFolder::Drop(const Findings& findings, const RepairOptions& options,
                                 std::vector<std::string>* done) {
  rocksdb::WriteBatch batch;
  std::vector<std::string> said;
  if (findings.is_next_session_bad) {
    batch.Put(Slice(kNextSessionKey), EncodeNextSession(findings.max_number + 1));
    said.push_back(absl::StrCat("the next session's number is ", findings.max_number + 1, " now"));
  }
  for (const std::string& key : findings.bad_marks) {
    batch.Delete(key);
    said.emplace_back("dropped a damaged mark of an unfinished import or erasure");
  }
  for (const uint64_t number : findings.imports) {
    DropBranch(*database_, {number, 1}, &batch);
    batch.Delete(MarkKey(kImportMark, number));
    said.push_back(absl::StrCat("dropped the unfinished import of session number ", number));
  }
  for (const Findings::BadKey& bad : findings.bad_keys) {
    batch.Delete(bad.is_log ? database_->log() : database_->snapshots(), bad.key);
    said.emplace_back(bad.is_log ? "dropped a log record without a place" : "dropped a snapshot without a place");
  }
  for (const auto& [branch, found] : findings.branches) {
    if (findings.imports.contains(branch.number)) continue;
    for (const auto& [offset, what] : found.bad_snapshots) {
      batch.Delete(database_->snapshots(), HeaderKey({branch, offset}));
      batch.Delete(database_->snapshots(), StateKey({branch, offset}));
      said.push_back(absl::StrCat("dropped the damaged ", SnapshotName({branch, offset})));
    }
  }
  for (const Findings::Orphans& orphans : findings.orphans) {
    const BranchId& branch = orphans.branch;
    uint64_t records = 0;
    for (const auto& [first, end] : orphans.records) {
      batch.DeleteRange(database_->log(), LogKey(branch.number, branch.epoch, first),
                        end == kEndless ? BranchEnd(branch) : LogKey(branch.number, branch.epoch, end));
      records += end - first;
    }
    for (const int64_t offset : orphans.snapshots) {
      batch.Delete(database_->snapshots(), HeaderKey({branch, offset}));
      batch.Delete(database_->snapshots(), StateKey({branch, offset}));
    }
    said.push_back(absl::StrCat("dropped orphans of ", BranchName(branch), ": ", records, " log records, ",
                                orphans.snapshots.size(), " snapshots"));
  }
  if (options.drop_sessions) {
    for (const uint64_t number : findings.bad_sessions) {
      batch.Delete(database_->sessions(), SessionKey(number));
      said.push_back(absl::StrCat("deleted session number ", number, ", whose metadata was damaged"));
    }
    if (!findings.bad_sessions.empty()) batch.Put(Slice(kNextSessionKey), EncodeNextSession(findings.max_number + 1));
  }
  if (batch.Count() > 0) RETURN_IF_ERROR(database_->Write(&batch));
  done->insert(done->end(), said.begin(), said.end());
  return absl::OkStatus();
}

// Each such session goes on in a new epoch, from the records before the first bad one and the snapshots up to there.
absl::Status OfflineFolder::Truncate(Findings& findings, std::vector<std::string>* done) {
  for (const SessionReport& session : findings.report.sessions) {
    if (!session.first_bad_record) continue;
    const SessionMetadata& former = session.metadata;
    const uint64_t cut = *session.first_bad_record;
    int64_t bound = -1;  // offset of the newest snapshot that knows nothing behind the cut
    std::vector<SnapshotSource> sources = {{former.own_branch(), std::numeric_limits<int64_t>::max()}};
    sources.insert(sources.end(), former.snapshot_sources.begin(), former.snapshot_sources.end());
    for (const auto& [branch, max_offset] : sources) {
      for (const auto& [offset, header] : findings.branches[branch].snapshots) {
        const bool is_before = header.replay_index < cut || (header.replay_index == cut &&
                                                             header.replay_skip_bytes + header.replay_skip_tokens == 0);
        const bool is_good = header.replay_index >= former.log_begin && header.fingerprint == former.fingerprint;
        if (offset <= max_offset && is_before && is_good) bound = std::max(bound, offset);
      }
    }
    if (former.log_begin > 0 && bound < 0) continue;  // nothing to go on from: it stays in the damage that is left
    SessionMetadata next = Continuation(former, {former.number, former.epoch + 1}, cut, std::max<int64_t>(bound, 0));
    next.update_time = absl::Now();
    findings.table.Set(next);
    rocksdb::WriteBatch batch;
    DropBranch(*database_, next.own_branch(), &batch);
    batch.Put(database_->sessions(), SessionKey(next.number), EncodeSession(next));
    for (const BranchId& branch : BranchesOf(former)) DropRest(*database_, findings.table.KeptOf(branch), &batch);
    RETURN_IF_ERROR(database_->Write(&batch));
    done->push_back(absl::StrCat("cut session '", former.id, "' before log record ", cut, ": ", session.log_end - cut,
                                 " records are lost, ", cut - former.log_begin, " are left"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RepairReport> OfflineFolder::Repair(const RepairOptions& options) {
  RepairReport report;
  ASSIGN_OR_RETURN(Findings findings, Find());
  if (findings.is_unreadable) {
    return absl::DataLossError(
        absl::StrCat("nothing was done, as files of the database are damaged: ", findings.report.damage.back()));
  }
  RETURN_IF_ERROR(Drop(findings, options, &report.done));
  ASSIGN_OR_RETURN(findings, Find());
  if (options.drop_sessions) {  // what only the deleted ones read
    RETURN_IF_ERROR(Drop(findings, {}, &report.done));
    ASSIGN_OR_RETURN(findings, Find());
  }
  if (options.truncate) {
    RETURN_IF_ERROR(Truncate(findings, &report.done));
    ASSIGN_OR_RETURN(findings, Find());
  }
  report.left = std::move(findings.report.damage);
  return report;
}

}  // namespace mnemosyne
