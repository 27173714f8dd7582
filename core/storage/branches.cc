#include "core/storage/branches.h"

#include <algorithm>
#include <limits>
#include <set>

namespace mnemosyne {

namespace {

constexpr uint64_t kEndless = std::numeric_limits<uint64_t>::max();
constexpr int64_t kAllSnapshots = std::numeric_limits<int64_t>::max();

// Sorts ranges and joins those that touch.
std::vector<std::pair<uint64_t, uint64_t>> Joined(std::vector<std::pair<uint64_t, uint64_t>> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<std::pair<uint64_t, uint64_t>> joined;
  for (const auto& range : ranges) {
    if (!joined.empty() && range.first <= joined.back().second) {
      joined.back().second = std::max(joined.back().second, range.second);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

// What the session needs of each branch.
std::map<BranchId, KeptOfBranch> Needs(const SessionMetadata& metadata) {
  std::map<BranchId, KeptOfBranch> needs;
  const auto of = [&](const BranchId& branch) -> KeptOfBranch& {
    KeptOfBranch& need = needs[branch];
    need.branch = branch;
    return need;
  };
  of(metadata.own_branch()) = {metadata.own_branch(), {{metadata.own_first, kEndless}}, kAllSnapshots};
  for (const LogExtent& extent : metadata.extents) {
    of(extent.branch).records.emplace_back(extent.first, extent.first + extent.count);
  }
  for (const SnapshotSource& source : metadata.snapshot_sources) {
    KeptOfBranch& need = of(source.branch);
    need.max_snapshot_offset = std::max(need.max_snapshot_offset, source.max_offset);
  }
  for (auto& [branch, need] : needs) need.records = Joined(std::move(need.records));
  return needs;
}

}  // namespace

uint64_t ExtentsEnd(const SessionMetadata& metadata) {
  uint64_t end = metadata.log_begin;
  for (const LogExtent& extent : metadata.extents) end += extent.count;
  return end;
}

std::vector<LogExtent> LogExtents(const SessionMetadata& metadata, uint64_t first, uint64_t end) {
  std::vector<LogExtent> cut;
  uint64_t at = metadata.log_begin;
  const auto add = [&](const LogExtent& whole) {
    const uint64_t from = std::max(first, at), to = std::min(end, at + whole.count);
    if (from < to) cut.push_back({whole.branch, whole.first + (from - at), to - from, whole.offset_shift});
    at += whole.count;
  };
  for (const LogExtent& extent : metadata.extents) add(extent);
  if (end > at) add({metadata.own_branch(), metadata.own_first, end - at, 0});
  return cut;
}

void AddExtents(SessionMetadata& metadata, const std::vector<LogExtent>& extents, int64_t offset_shift) {
  for (LogExtent extent : extents) {
    extent.offset_shift += offset_shift;
    if (!metadata.extents.empty()) {
      LogExtent& last = metadata.extents.back();
      if (last.branch == extent.branch && last.first + last.count == extent.first &&
          last.offset_shift == extent.offset_shift) {
        last.count += extent.count;
        continue;
      }
    }
    metadata.extents.push_back(extent);
  }
}

SessionMetadata Continuation(const SessionMetadata& metadata, BranchId branch, uint64_t index, int64_t offset) {
  SessionMetadata next = metadata;
  next.number = branch.number;
  next.epoch = branch.epoch;
  next.extents.clear();
  next.snapshot_sources.clear();
  if (offset == 0) {
    next.log_begin = next.own_first = 0;
    next.earliest_offset = next.trimmed_bytes = 0;
    return next;
  }
  AddExtents(next, LogExtents(metadata, metadata.log_begin, index), 0);
  next.own_first = index;
  const auto add = [&](const BranchId& of, int64_t max_offset) {
    if (max_offset > 0) next.snapshot_sources.push_back({of, std::min(max_offset, offset)});
  };
  add(metadata.own_branch(), offset);
  for (const SnapshotSource& source : metadata.snapshot_sources) add(source.branch, source.max_offset);
  return next;
}

void TrimLog(SessionMetadata& metadata, uint64_t index, int64_t earliest_offset, int64_t bytes) {
  const uint64_t end = ExtentsEnd(metadata);
  std::vector<LogExtent> left = index < end ? LogExtents(metadata, index, end) : std::vector<LogExtent>();
  metadata.extents = std::move(left);
  metadata.log_begin = index;
  metadata.own_first = std::max(metadata.own_first, index);
  metadata.earliest_offset = earliest_offset;
  metadata.trimmed_bytes = bytes;
}

std::vector<BranchId> BranchesOf(const SessionMetadata& metadata) {
  std::vector<BranchId> branches = {metadata.own_branch()};
  for (const auto& [branch, need] : Needs(metadata)) {
    if (branch != metadata.own_branch()) branches.push_back(branch);
  }
  return branches;
}

void BranchTable::Set(const SessionMetadata& metadata) {
  Remove(metadata.number);
  Owner& owner = owners_[metadata.number];
  owner.epoch = metadata.epoch;
  owner.own_first = metadata.own_first;
  owner.earliest_offset = metadata.earliest_offset;
  if (metadata.extents.empty() && metadata.snapshot_sources.empty()) return;  // most sessions: nothing more to keep
  for (const auto& [branch, need] : Needs(metadata)) {
    readers_[branch][metadata.number] = need;
    owner.others.push_back(branch);
  }
}

void BranchTable::Remove(uint64_t number) {
  const auto found = owners_.find(number);
  if (found == owners_.end()) return;
  for (const BranchId& branch : found->second.others) {
    const auto readers = readers_.find(branch);
    readers->second.erase(number);
    if (readers->second.empty()) readers_.erase(readers);
  }
  owners_.erase(found);
}

KeptOfBranch BranchTable::KeptOf(const BranchId& branch) const {
  KeptOfBranch kept = {branch, {}, -1};
  const auto owner = owners_.find(branch.number);
  if (owner != owners_.end() && owner->second.epoch == branch.epoch) {
    kept.records.emplace_back(owner->second.own_first, kEndless);
    kept.max_snapshot_offset = kAllSnapshots;
  }
  if (const auto readers = readers_.find(branch); readers != readers_.end()) {
    for (const auto& [number, need] : readers->second) {
      kept.records.insert(kept.records.end(), need.records.begin(), need.records.end());
      kept.max_snapshot_offset = std::max(kept.max_snapshot_offset, need.max_snapshot_offset);
    }
  }
  kept.records = Joined(std::move(kept.records));
  return kept;
}

SnapshotNeeds BranchTable::NeedsOfSnapshots(const BranchId& branch) const {
  SnapshotNeeds needs;
  const auto add_earliest = [&](int64_t offset) {
    if (offset > 0) needs.offsets.push_back(offset);
  };
  const auto owner = owners_.find(branch.number);
  if (owner != owners_.end() && owner->second.epoch == branch.epoch) add_earliest(owner->second.earliest_offset);
  if (const auto readers = readers_.find(branch); readers != readers_.end()) {
    for (const auto& [number, need] : readers->second) {
      if (need.max_snapshot_offset < 0 || need.max_snapshot_offset == kAllSnapshots) continue;
      needs.bounds.push_back(need.max_snapshot_offset);
      add_earliest(owners_.at(number).earliest_offset);
    }
  }
  return needs;
}

std::vector<uint64_t> BranchTable::OtherReadersBehind(const SessionMetadata& session, int64_t offset) const {
  std::set<uint64_t> others;
  for (const auto& [branch, need] : Needs(session)) {
    if (need.max_snapshot_offset <= offset) continue;
    if (const auto readers = readers_.find(branch); readers != readers_.end()) {
      for (const auto& [reader, of_reader] : readers->second) {
        if (of_reader.max_snapshot_offset > offset) others.insert(reader);
      }
    }
    const auto owner = owners_.find(branch.number);
    if (owner != owners_.end() && owner->second.epoch == branch.epoch) others.insert(branch.number);
  }
  others.erase(session.number);
  return {others.begin(), others.end()};
}

std::vector<uint64_t> BranchTable::OtherReaders(uint64_t number, const BranchId& branch, uint64_t first,
                                                uint64_t end) const {
  std::vector<uint64_t> others;
  if (const auto readers = readers_.find(branch); readers != readers_.end()) {
    for (const auto& [reader, need] : readers->second) {
      const bool reads = std::any_of(need.records.begin(), need.records.end(),
                                     [&](const auto& range) { return range.first < end && first < range.second; });
      if (reader != number && reads) others.push_back(reader);
    }
  }
  const auto owner = owners_.find(branch.number);
  const bool owner_reads = owner != owners_.end() && branch.number != number && owner->second.epoch == branch.epoch &&
                           owner->second.own_first < end;
  if (owner_reads && std::find(others.begin(), others.end(), branch.number) == others.end()) {
    others.push_back(branch.number);
  }
  return others;
}

}  // namespace mnemosyne
