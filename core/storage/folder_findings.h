// What a look through a data folder found, as folder_check.cc and folder_repair.cc share it. Internal to core/storage.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/storage/branches.h"
#include "core/storage/folder_check.h"

namespace mnemosyne {

struct OfflineFolder::Findings {
  struct Branch {
    std::vector<std::pair<uint64_t, uint64_t>> present;  // [first, end) of its records' indexes, in order, apart
    std::map<uint64_t, std::string> bad;                 // records, and what is wrong with them
    std::map<uint64_t, std::vector<int64_t>> ends;  // by a range's start: content bytes of it up to each record's end
    int64_t last_offset = 0;                        // where the last record begins, as far as it is known
    std::map<int64_t, SnapshotHeader> snapshots;    // good ones, by offset
    std::map<int64_t, std::string> bad_snapshots;
  };
  struct BadKey {
    bool is_log = false;  // else of the snapshots
    std::string key;
  };
  struct Orphans {
    BranchId branch;
    std::vector<std::pair<uint64_t, uint64_t>> records;
    std::vector<int64_t> snapshots;
  };

  FolderReport report;
  std::map<BranchId, Branch> branches;
  BranchTable table;
  std::set<uint64_t> bad_sessions;     // numbers of those whose own record is damaged
  std::set<uint64_t> imports;          // unfinished
  std::vector<std::string> bad_marks;  // keys of damaged markers
  std::vector<BadKey> bad_keys;
  std::vector<Orphans> orphans;
  bool is_next_session_bad = false;
  bool is_unreadable = false;  // a file of the database is damaged
  uint64_t max_number = 0;     // in any key
};

}  // namespace mnemosyne
