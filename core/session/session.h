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
#include "core/session/token_feed.h"
#include "core/storage/storage.h"

namespace mnemosyne {

class Session {
 public:
  struct Marks {  // offsets, design: accepted >= durable, accepted >= memorized
    int64_t accepted = 0, durable = 0, memorized = 0, accepted_bytes = 0;
    uint64_t next_sequence = 1, durable_sequence = 0;
    absl::Time update_time = absl::UnixEpoch();
    std::string failure;
  };

  // What loading found: a state, and where in the log the tokens after it begin.
  struct Recovered {
    StatePtr state;
    TokenFeed::Position position;  // of the state's offset
    int64_t accepted_bytes = 0;    // of the records before position.record_index
    uint64_t next_sequence = 1;
    int64_t snapshot_offset = 0;  // of the newest snapshot; 0: none
  };
  Session(SessionMetadata metadata, const Model* model, Recovered recovered);

  const SessionMetadata& metadata() const { return metadata_; }
  const Model& model() const { return *model_; }
  uint64_t number() const { return metadata_.number; }
  Marks marks() const;

  // Replays a record of the log, in order; only before anyone else has the session.
  absl::Status Replay(const LogRecord& record);
  absl::Status CheckReplayed() const;  // DATA_LOSS: the log lacks tokens that the recovered state has

  // Takes content into the session's order and hands its record to `log`, under the session's lock so that records
  // reach the log in their order: `log` must only queue it.
  struct Accepted {
    LogRecord record;
    int64_t end_offset = 0;  // tokens accepted with it
  };
  // `sequence`: the writer's; nullopt for an append of the engine's own (remember), which repeats the last.
  // OUT_OF_RANGE: not the next one. RESOURCE_EXHAUSTED: the backlog is full. FAILED_PRECONDITION: the session failed.
  absl::Status Accept(std::optional<uint64_t> sequence, LogContent kind, std::string payload,
                      int64_t max_backlog_tokens, absl::Time now, absl::FunctionRef<void(Accepted)> log);

  // The record is fsynced. True: whole blocks wait, the session is ready for a worker.
  bool Durable(uint64_t index, uint64_t sequence, int64_t end_offset);
  bool HasWholeBlock() const;

  // The next block, when there is one to step (durable, no failure).
  struct Block {
    StatePtr state;
    std::vector<int32_t> tokens;
  };
  std::optional<Block> NextBlock() const;

  // A query waits for the block boundary below what was accepted when it was asked; then it gets that state.
  struct ForkPoint {
    StatePtr state;
    std::vector<int32_t> pending;  // tokens after the state that the query may know
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

  // Everything accepted so far, and whether it is durable and its whole blocks memorized (or never will be: the session
  // failed).
  struct FlushPoint {
    uint64_t index = 0;
    int64_t offset = 0;
  };
  FlushPoint CurrentFlushPoint() const;
  bool IsFlushed(const FlushPoint& point) const;
  // Nothing is on its way to the log or to the state: it may be unloaded.
  bool IsQuiet() const;
  bool HasRoom(int64_t max_backlog_tokens) const;

  // What a snapshot of the current state says, and the state. nullopt when the newest snapshot has it already.
  std::optional<std::pair<SnapshotHeader, StatePtr>> SnapshotDue(int64_t min_tokens) const;
  void Snapshotted(int64_t offset);

 private:
  struct WaitingFork {
    QueryId query;
    int64_t boundary;              // the state's offset to wait for
    std::vector<int32_t> pending;  // tokens after it
    int64_t offset;
  };
  absl::StatusOr<std::vector<int32_t>> Feed(uint64_t index, LogContent kind, absl::string_view payload,
                                            int64_t skipped_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasBlock() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t block() const { return model_->config().block_tokens(); }

  const SessionMetadata metadata_;
  const Model* const model_;
  mutable absl::Mutex mutex_;
  StatePtr state_ ABSL_GUARDED_BY(mutex_);
  Marks marks_ ABSL_GUARDED_BY(mutex_);
  TokenFeed feed_ ABSL_GUARDED_BY(mutex_);
  std::deque<int32_t> pending_ ABSL_GUARDED_BY(mutex_);  // tokens [memorized, accepted)
  int64_t replay_skip_tokens_ ABSL_GUARDED_BY(mutex_);   // tokens of the log that the recovered state has already
  const uint64_t replay_index_;
  const int64_t replay_skip_bytes_;
  uint64_t next_index_ ABSL_GUARDED_BY(mutex_);
  uint64_t durable_index_ ABSL_GUARDED_BY(mutex_);  // records before it are durable
  // Content bytes before each record that a snapshot may name: [record index, bytes].
  std::deque<std::pair<uint64_t, int64_t>> record_bytes_ ABSL_GUARDED_BY(mutex_);
  int64_t snapshot_offset_ ABSL_GUARDED_BY(mutex_);
  std::vector<WaitingFork> waiting_forks_ ABSL_GUARDED_BY(mutex_);
  double surprise_sum_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t surprise_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne
