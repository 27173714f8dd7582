// A session's past, brought back from storage: its state at an offset, its tokens, and where its log is to be cut.
//
//   History history(&storage, metadata, model);
//   ASSIGN_OR_RETURN(Session::Recovered past, history.StateAt(offset));  // of the newest good snapshot up to there
//   ASSIGN_OR_RETURN(std::unique_ptr<TokenReader> tokens, history.TokensFrom(past));
//
// FAILED_PRECONDITION: the offset lies before what a trimmed log still covers. DATA_LOSS names a damaged record.
// Thread-compatible; calls wait for the disk.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/model.h"
#include "core/session/session.h"
#include "core/session/token_reader.h"
#include "core/storage/storage.h"

namespace mnemosyne {

class History {
 public:
  // storage, model: not owned. The metadata as it is now: what was trimmed since is missing.
  History(Storage* storage, SessionMetadata metadata, const Model* model)
      : storage_(storage), metadata_(std::move(metadata)), model_(model) {}

  // The newest good snapshot's state whose offset is not above `offset`; without one, the initial state. A damaged
  // snapshot is passed over: the one before it and a longer replay give the same state.
  absl::StatusOr<Session::Recovered> StateAt(int64_t offset) const;
  absl::StatusOr<Session::Recovered> NewestState() const { return StateAt(std::numeric_limits<int64_t>::max()); }
  // What Session::Checkpoint told, as the state to go on from.
  static Session::Recovered FromCheckpoint(const SnapshotHeader& header, StatePtr state);

  // The log's tokens from the state on, as the log is now.
  absl::StatusOr<std::unique_ptr<TokenReader>> TokensFrom(const Session::Recovered& past) const;

  // Where the log has to be cut so that `offset` tokens stay.
  struct Cut {
    uint64_t record_index = 0;
    int64_t bytes = 0;       // of that record's payload, that stay
    bool ends_text = false;  // text goes on behind it: something must end it there
  };
  // OUT_OF_RANGE: the log does not reach so far. INVALID_ARGUMENT: inside a piece of text that was tokenized as one.
  absl::StatusOr<Cut> FindCut(int64_t offset) const;

  absl::StatusOr<uint64_t> LogEnd() const;  // index after the log's last record

 private:
  absl::Status CheckCovered(int64_t offset) const;
  // A place at or before `offset` from where the log can be tokenized.
  absl::StatusOr<TokenFeed::Position> ReadingStart(int64_t offset) const;
  bool has_pieces() const { return model_->config().tokenizer.kind == TokenizerKind::kSentencePiece; }

  Storage* const storage_;
  const SessionMetadata metadata_;
  const Model* const model_;
};

// Of a branch's snapshots (offsets, newest first): those to delete. The newest two stay, also of those up to each of
// the bounds, so that there is one to fall back on; with `keep_past`, of the older ones the oldest in each power of two
// of tokens back, so that going back costs a replay in proportion to how far back it is.
std::vector<int64_t> SnapshotsToDrop(const std::vector<int64_t>& offsets, const SnapshotNeeds& needs, bool keep_past);

}  // namespace mnemosyne
