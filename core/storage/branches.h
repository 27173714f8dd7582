// Which branches make up a session's log, and what of a branch is still somebody's.
//
//   SessionMetadata fork = Continuation(metadata, {8, 1}, /*index=*/120, /*offset=*/30000);
//   table.Set(fork);
//   table.Remove(metadata.number);
//   table.KeptOf(metadata.own_branch()).records;   // {{0, 120}}: the fork's
//
// BranchTable is thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/storage/records.h"

namespace mnemosyne {

// `metadata` as the beginning of a log of `branch`, which goes on at record `index`. The records before it stay, and
// the snapshots up to `offset`.
SessionMetadata Continuation(const SessionMetadata& metadata, BranchId branch, uint64_t index, int64_t offset);
// The records [first, end) of the session's log, those of its own branch among them. `first` >= log_begin.
std::vector<LogExtent> LogExtents(const SessionMetadata& metadata, uint64_t first, uint64_t end);
// Takes the records before `index`, which have `bytes` of content, from the session's log.
void TrimLog(SessionMetadata& metadata, uint64_t index, int64_t earliest_offset, int64_t bytes);
void AddExtents(SessionMetadata& metadata, const std::vector<LogExtent>& extents, int64_t offset_shift);
uint64_t ExtentsEnd(const SessionMetadata& metadata);  // index after the last record of the extents

// What stays of a branch; all else of it goes.
struct KeptOfBranch {
  BranchId branch;
  std::vector<std::pair<uint64_t, uint64_t>> records;  // [first, end) each, in order, apart
  int64_t max_snapshot_offset = -1;                    // -1: no snapshot
  bool operator==(const KeptOfBranch&) const = default;
};

// Which of a branch's snapshots must stay for the sake of what sessions can go back to.
struct SnapshotNeeds {
  std::vector<int64_t> bounds;   // where forks parted from it: they read the snapshots up to there
  std::vector<int64_t> offsets;  // where trimmed logs begin, the owner's among them: nothing else brings these back
};

// Every branch that a session reads, its own first.
std::vector<BranchId> BranchesOf(const SessionMetadata& metadata);

// Who needs what of which branch.
class BranchTable {
 public:
  void Set(const SessionMetadata& metadata);  // adds a session, or replaces what it needs
  void Remove(uint64_t number);
  KeptOfBranch KeptOf(const BranchId& branch) const;
  SnapshotNeeds NeedsOfSnapshots(const BranchId& branch) const;
  // Other sessions that have tokens behind `offset` of the session's past in theirs, by the branches that both grew
  // from.
  std::vector<uint64_t> OtherReadersBehind(const SessionMetadata& session, int64_t offset) const;
  // Sessions besides `number` that read a record of the branch in [first, end).
  std::vector<uint64_t> OtherReaders(uint64_t number, const BranchId& branch, uint64_t first, uint64_t end) const;

 private:
  struct Owner {
    uint64_t epoch = 1;
    uint64_t own_first = 0;
    int64_t earliest_offset = 0;
    std::vector<BranchId> others;  // branches besides its own that it reads
  };
  absl::flat_hash_map<uint64_t, Owner> owners_;                   // by session number
  std::map<BranchId, std::map<uint64_t, KeptOfBranch>> readers_;  // by branch, then session number
};

}  // namespace mnemosyne
