// What a data folder's records say (docs/formats/storage.md). Values.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace mnemosyne {

// What one session wrote in one epoch: its log records and its snapshots. Once written they never change, so that
// other sessions and later epochs may go on from any place in them (docs/formats/storage.md).
struct BranchId {
  uint64_t number = 0;  // the session's that wrote it
  uint64_t epoch = 1;
  friend auto operator<=>(const BranchId&, const BranchId&) = default;
};

// Records of another branch that are part of a session's log, in its order.
struct LogExtent {
  BranchId branch;
  uint64_t first = 0;        // index in the branch
  uint64_t count = 0;        // at least 1
  int64_t offset_shift = 0;  // what is taken from the records' first_offset: tokens before them that were erased
};

// A branch whose snapshots up to an offset are a session's too.
struct SnapshotSource {
  BranchId branch;
  int64_t max_offset = 0;
};

enum class Retention : uint8_t {
  kKeep = 1,  // the whole log stays
  kTrim = 2,  // what the session's older snapshot covers goes
};

struct SessionSettings {
  Retention retention = Retention::kKeep;
  absl::Duration ttl = absl::InfiniteDuration();       // since the creation
  absl::Duration idle_ttl = absl::InfiniteDuration();  // since the last use
  int64_t max_backlog_tokens = 0;                      // 0: the engine's
  int64_t max_log_bytes = 0;                           // content bytes in the log; 0: the engine's
};

struct SessionMetadata {
  uint64_t number = 0;  // names the session in every key; from NextSessionNumber
  uint64_t epoch = 1;   // counted up by a reset and by an erasure: each begins a branch
  std::string id;
  std::string model;
  std::string fingerprint;      // the model's
  uint64_t first_sequence = 1;  // no append of this epoch has a lower sequence number
  std::map<std::string, std::string> labels;
  absl::Time create_time = absl::UnixEpoch();  // times are kept to the nanosecond
  absl::Time update_time = absl::UnixEpoch();  // of this metadata
  SessionSettings settings;

  // The log: `extents`, then the session's own branch from `own_first` on, where an index in the branch is one in the
  // log. The log's first record has index `log_begin`; it is not 0 when records were trimmed.
  std::vector<LogExtent> extents;
  uint64_t log_begin = 0, own_first = 0;
  // Of a trimmed log: the earliest offset that it can bring back, and the content bytes of the records that are gone.
  int64_t earliest_offset = 0, trimmed_bytes = 0;
  std::vector<SnapshotSource> snapshot_sources;  // besides its own branch

  BranchId own_branch() const { return {number, epoch}; }
};

enum class LogContent : uint8_t { kText = 1, kTokenIds = 2 };

struct LogRecord {
  uint64_t session_number = 0;
  uint64_t epoch = 1;
  uint64_t index = 0;         // 0, 1, 2, ... in the log, without a gap
  uint64_t sequence = 0;      // the writer's
  int64_t first_offset = -1;  // token offset where its tokens begin; -1 when not known
  absl::Time time = absl::UnixEpoch();
  LogContent kind = LogContent::kText;
  std::string payload;  // text as it came, or little-endian int32 token ids
};

struct SnapshotHeader {
  uint64_t session_number = 0;
  uint64_t epoch = 1;
  int64_t offset = 0;              // tokens in the state
  std::string fingerprint;         // the model's
  uint64_t replay_index = 0;       // first log record that is not wholly in the state
  int64_t replay_skip_bytes = 0;   // payload bytes of that record that are in the state as whole pieces
  int64_t replay_skip_tokens = 0;  // tokens after those bytes that are in the state
  uint64_t next_sequence = 1;      // after the records before replay_index
  int64_t accepted_bytes = 0;      // content bytes of the records before replay_index
  int64_t state_bytes = 0;         // set by PutSnapshot
};

struct Snapshot {
  SnapshotHeader header;
  std::string state;
};

// Which snapshot: the branch that has it, and its offset.
struct SnapshotId {
  BranchId branch;
  int64_t offset = 0;
  friend auto operator<=>(const SnapshotId&, const SnapshotId&) = default;
};

}  // namespace mnemosyne
