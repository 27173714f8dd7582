// What errors and reports call the records of a data folder, and where a branch's keys lie.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/storage/record_codec.h"
#include "core/storage/records.h"

namespace mnemosyne {

inline constexpr uint64_t kEndless = std::numeric_limits<uint64_t>::max();

inline std::string BranchName(const BranchId& branch) {
  return absl::StrCat("session number ", branch.number, ", epoch ", branch.epoch);
}
inline std::string LogName(const BranchId& branch, uint64_t index) {
  return absl::StrCat("log record ", index, " of ", BranchName(branch));
}
inline std::string SnapshotName(const SnapshotId& id) {
  return absl::StrCat("snapshot at offset ", id.offset, " of ", BranchName(id.branch));
}

inline std::string HeaderKey(const SnapshotId& id) {
  return SnapshotKey(id.branch.number, id.branch.epoch, SnapshotPart::kHeader, id.offset);
}
inline std::string StateKey(const SnapshotId& id) {
  return SnapshotKey(id.branch.number, id.branch.epoch, SnapshotPart::kState, id.offset);
}
// All keys of a branch, [begin, end).
inline std::string BranchBegin(const BranchId& branch) { return EpochKey(branch.number, branch.epoch); }
inline std::string BranchEnd(const BranchId& branch) {
  return branch.epoch == kEndless ? SessionKey(branch.number + 1) : EpochKey(branch.number, branch.epoch + 1);
}

}  // namespace mnemosyne
