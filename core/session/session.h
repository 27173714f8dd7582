// One resident session: its state, the tokens that wait to be memorized, and its writer's and queries' places.
//
// The state is immutable and replaced whole; everything else is guarded by one mutex that is never held across a disk
// access, a model's step or an observer. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/model/model.h"
#include "core/session/surprise_history.h"
#include "core/session/token_feed.h"
#include "core/storage/storage.h"

namespace mnemosyne {

class Session {
 public:
  struct Marks {  // offsets, design: accepted >= durable, accepted >= memorized
    int64_t accepted = 0, durable = 0, memorized = 0, accepted_bytes = 0;
    uint64_t next_sequence = 1, durable_sequence = 0;
    uint64_t memorized_sequence = 0;  // whose whole blocks are in the state
    // Crc32 of the content of the writer's append next_sequence - 1; nullopt: not known, as it was not looked up.
    std::optional<uint32_t> last_append_crc;
    absl::Time update_time = absl::UnixEpoch();
    std::string failure;
  };

  // What loading found: a state, and where in the log the tokens after it begin.
  struct Recovered {
    StatePtr state;
    TokenFeed::Position position;  // of the state's offset
    int64_t accepted_bytes = 0;    // of the records before position.record_index
    uint64_t next_sequence = 1;
    int64_t snapshot_offset = 0;              // of the newest snapshot; 0: none
    std::optional<uint32_t> last_append_crc;  // as in Marks
  };
  struct Limits {
    int64_t max_backlog_tokens = 0;  // accepted and not memorized
    int64_t max_log_bytes = 0;       // content bytes in the log
  };
  Session(SessionMetadata metadata, const Model* model, const Limits& limits, Recovered recovered);

  // As it was when the session was loaded: labels, settings and what was trimmed since are the manager's to know.
  const SessionMetadata& metadata() const { return metadata_; }
  const Model& model() const { return *model_; }
  uint64_t number() const { return metadata_.number; }
  Marks marks() const;

  // Replays a record of the log, in order; only before anyone else has the session. When as many tokens as a backlog
  // may have are in memory, those that follow are counted and stay in the log, however many they are, for ReadOn.
  absl::Status Replay(const LogRecord& record);
  absl::Status CheckReplayed() const;  // DATA_LOSS: the log lacks tokens that the recovered state has
  // The log's record with which to go on reading before the next block is taken; nullopt: none is needed yet.
  std::optional<uint64_t> RecordToReadOn() const;
  // Takes that record's tokens into memory. True: the one after it can be taken too. DATA_LOSS: it is not that record,
  // or it ends the log with other tokens than Replay counted.
  absl::StatusOr<bool> ReadOn(const LogRecord& record);

  // Takes content into the session's order and hands its record to `log`, under the session's lock so that records
  // reach the log in their order: `log` must only queue it.
  struct Accepted {
    LogRecord record;
    int64_t end_offset = 0;  // tokens accepted with it
  };
  // `sequence`: the writer's; nullopt for an append of the engine's own (remember), which repeats the last.
  // False: the backlog is full, nothing was taken. OUT_OF_RANGE: not the next sequence. RESOURCE_EXHAUSTED: the log may
  // not grow so far. FAILED_PRECONDITION: the session failed.
  absl::StatusOr<bool> Accept(std::optional<uint64_t> sequence, LogContent kind, std::string payload, absl::Time now,
                              absl::FunctionRef<void(Accepted)> log);
  void SetLimits(const Limits& limits);
  void Trimmed(int64_t bytes);  // content bytes that the log has no more, since the session's beginning

  // The record is fsynced. True: whole blocks wait, the session is ready for a worker.
  bool Durable(uint64_t index, uint64_t sequence, int64_t end_offset);
  bool HasWholeBlock() const;
  // The log did not take what waits for it, and never will: queries are answered from what is durable. True: it is the
  // first to say so, and the queries that wait for more are the caller's to end.
  bool LogFailed();

  // The next block, when there is one to step (durable, no failure).
  struct Block {
    StatePtr state;
    std::vector<int32_t> tokens;
  };
  std::optional<Block> NextBlock() const;

  // A query waits for the block boundary below what was accepted when it was asked; then it gets that state.
  struct ForkPoint {
    StatePtr state;
    std::vector<int32_t> pending;  // tokens after it which the query may know
    int64_t offset = 0;            // tokens it may know
  };
  using QueryId = uint64_t;
  struct Published {
    bool ready = false;  // another whole block waits
    std::vector<std::pair<QueryId, ForkPoint>> forks;
    std::vector<QueryId> failed;  // of queries that waited for a state that will not come
  };
  // Publishes a step's result; `result.status` not OK records the failure.
  Published Publish(const BlockResult& result);

  // A fork point when the state is there already; nullopt: Publish will give it.
  absl::StatusOr<std::optional<ForkPoint>> RequestFork(QueryId query);
  void CancelFork(QueryId query);
  std::vector<QueryId> CancelAllForks();

  // Mean surprise over the blocks since the last call; nullopt when there were none.
  std::optional<float> TakeSurprise();
  std::vector<SurprisePoint> SurprisePoints() const;  // since the session came into memory

  // Everything accepted so far, and whether it is durable and its whole blocks memorized (or never will be: the session
  // failed).
  struct FlushPoint {
    uint64_t index = 0;
    int64_t offset = 0;
  };
  FlushPoint CurrentFlushPoint() const;
  bool IsFlushed(const FlushPoint& point) const;
  bool IsDurable(const FlushPoint& point) const;
  // Nothing is on its way to the log or to the state: it may be unloaded.
  bool IsQuiet() const;
  bool HasRoom() const;

  // What a snapshot of the current state says, and the state.
  std::pair<SnapshotHeader, StatePtr> Checkpoint() const;
  // At least `min_tokens` and one were memorized since the newest snapshot.
  bool IsSnapshotDue(int64_t min_tokens) const;
  void Snapshotted(int64_t offset);

 private:
  struct WaitingFork {
    QueryId query;
    int64_t boundary;              // the state's offset to wait for
    std::vector<int32_t> pending;  // tokens after it
    int64_t offset;
  };
  struct RecordStart {  // what is before a record
    uint64_t index;
    int64_t bytes;           // of content
    uint64_t next_sequence;  // the writer's
  };
  // Records of the log whose tokens are not in memory. While there are any, nothing is accepted, and a block is.
  struct Unread {
    RecordStart next;           // the first of them
    TokenFeed feed;             // of the log's end
    std::vector<int32_t> tail;  // the log's tokens behind its last whole block
  };
  bool HasBlock() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tokens in memory enough to leave others in the log.
  int64_t MaxReadTokens() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t PendingTokens() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return pending_.size(); }
  void AdvanceMemorizedSequence() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t block() const { return model_->config().block_tokens(); }

  const SessionMetadata metadata_;
  const Model* const model_;
  mutable absl::Mutex mutex_;
  StatePtr state_ ABSL_GUARDED_BY(mutex_);
  Marks marks_ ABSL_GUARDED_BY(mutex_);
  TokenFeed feed_ ABSL_GUARDED_BY(mutex_);
  std::deque<int32_t> pending_ ABSL_GUARDED_BY(mutex_);  // tokens [memorized, accepted), up to those unread
  std::optional<Unread> unread_ ABSL_GUARDED_BY(mutex_);
  int64_t replay_skip_tokens_ ABSL_GUARDED_BY(mutex_);  // tokens of the log that the recovered state has already
  const uint64_t replay_index_;
  const int64_t replay_skip_bytes_;
  uint64_t next_index_ ABSL_GUARDED_BY(mutex_);
  uint64_t durable_index_ ABSL_GUARDED_BY(mutex_);                 // records before it are durable
  std::deque<RecordStart> record_starts_ ABSL_GUARDED_BY(mutex_);  // of the records that a snapshot may name
  std::deque<std::pair<uint64_t, int64_t>> unmemorized_ ABSL_GUARDED_BY(mutex_);  // [sequence, end offset] of appends
  bool log_failed_ ABSL_GUARDED_BY(mutex_) = false;
  Limits limits_ ABSL_GUARDED_BY(mutex_);
  int64_t trimmed_bytes_ ABSL_GUARDED_BY(mutex_);
  int64_t snapshot_offset_ ABSL_GUARDED_BY(mutex_);
  std::vector<WaitingFork> waiting_forks_ ABSL_GUARDED_BY(mutex_);
  double surprise_sum_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t surprise_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
  SurpriseHistory surprise_history_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne
