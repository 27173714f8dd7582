#include "core/storage/branch_drop.h"

#include <limits>

#include "core/storage/record_codec.h"
#include "core/storage/record_names.h"

namespace mnemosyne {

void DropBranch(const Database& database, const BranchId& branch, rocksdb::WriteBatch* batch) {
  for (rocksdb::ColumnFamilyHandle* family : {database.log(), database.snapshots()}) {
    batch->DeleteRange(family, BranchBegin(branch), BranchEnd(branch));
  }
}

// Deletes all of the branch that is not kept.
void DropRest(const Database& database, const KeptOfBranch& kept, rocksdb::WriteBatch* batch) {
  const BranchId& branch = kept.branch;
  const auto key = [&](uint64_t index) { return LogKey(branch.number, branch.epoch, index); };
  uint64_t from = 0;
  for (const auto& [first, end] : kept.records) {
    if (from < first) batch->DeleteRange(database.log(), key(from), key(first));
    from = end;
  }
  if (from < kEndless) batch->DeleteRange(database.log(), key(from), BranchEnd(branch));
  if (kept.max_snapshot_offset == std::numeric_limits<int64_t>::max()) return;
  for (const SnapshotPart part : {SnapshotPart::kHeader, SnapshotPart::kState}) {
    batch->DeleteRange(database.snapshots(),
                       SnapshotKey(branch.number, branch.epoch, part, kept.max_snapshot_offset + 1),
                       part == SnapshotPart::kHeader ? SnapshotKey(branch.number, branch.epoch, SnapshotPart::kState, 0)
                                                     : BranchEnd(branch));
  }
}

}  // namespace mnemosyne
