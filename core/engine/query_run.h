// One query on its way: waits for its fork point, reads, decodes a few tokens a turn.
//
// Its turns are taken by one worker at a time; Finish and Close may come from any thread.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"
#include "core/engine/writer_seat.h"
#include "core/model/decoder.h"
#include "core/session/session_manager.h"
#include "core/session/token_reader.h"

namespace mnemosyne {

class QueryRun {
 public:
  // `prompt`: its tokens, with the model's question token.
  QueryRun(uint64_t id, QueryOptions options, std::vector<int32_t> prompt, SessionHandle session,
           std::shared_ptr<QueryObserver> observer);

  uint64_t id() const { return id_; }
  const QueryOptions& options() const { return options_; }
  const std::shared_ptr<Session>& session() const { return session_; }

  // Its caller has gone, or its session: the worker that has it, if one does, ends it with this. The first counts.
  void Stop(const absl::Status& reason);
  absl::Status stopped() const;
  bool finished() const { return finished_; }

  void SetForkPoint(Session::ForkPoint point) { fork_point_ = std::move(point); }
  // Of a state that is past: `tokens` are those after it, of which the query memorizes and reads those up to the
  // offset.
  void SetPast(Session::ForkPoint point, std::unique_ptr<TokenReader> tokens) {
    fork_point_ = std::move(point);
    past_tokens_ = std::move(tokens);
  }

  using End = absl::StatusOr<QuerySummary>;
  // One turn of each: what is to be read one after another, then the answers of those that have read all, together.
  // nullopt: there is more to do; else how it ended.
  static std::vector<std::optional<End>> Turns(absl::Span<const std::shared_ptr<QueryRun>> queries);

  // Question and answer as content of the session, for `remember`.
  Content Remembered() const;

  // Gives the session's pin back and tells the end, once.
  void Finish(const absl::StatusOr<QuerySummary>& summary);
  void Close() { gate_.Close(); }  // the handle is destroyed

 private:
  absl::Status ReadPast();
  absl::Status Begin();
  absl::Status Read(size_t max_tokens);
  bool is_answering() const { return decoder_ != nullptr && read_ == to_read_.size() && !decoder_->stop_reason(); }
  void Gather(Decoder::Piece piece);  // and tells what has been gathered, when it is time
  void TellGathered();
  QuerySummary Summarize();

  const uint64_t id_;
  const QueryOptions options_;
  const std::vector<int32_t> prompt_;
  const std::shared_ptr<QueryObserver> observer_;
  const absl::Time asked_;
  ObserverGate gate_;
  std::atomic<bool> finished_ = false;
  const std::shared_ptr<Session> session_;
  SessionHandle pin_;  // of session_, until the end
  mutable absl::Mutex stop_mutex_;
  absl::Status stopped_ ABSL_GUARDED_BY(stop_mutex_);
  Session::ForkPoint fork_point_;
  std::unique_ptr<TokenReader> past_tokens_;  // null: the fork point has all that the query may know
  int tries_ = 0;                             // to read them while the folder is being opened again
  std::vector<int32_t> to_read_;
  size_t read_ = 0;
  std::unique_ptr<Decoder> decoder_;
  QueryPiece gathered_;                        // not told yet
  absl::Time told_at_ = absl::InfinitePast();  // a piece
  QuerySummary summary_;
};

}  // namespace mnemosyne
