// A session's content as tokens, whatever the cuts it came in, and where in the log a token came from.
//
//   TokenFeed feed(&tokenizer, TokenFeed::Position{});
//   ASSIGN_OR_RETURN(std::vector<int32_t> tokens, feed.AddText(/*record_index=*/0, "In the begin"));
//   feed.PositionAt(7);   // where to start reading the log so that the next token is number 7
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/model/tokenizer.h"
#include "core/storage/records.h"

namespace mnemosyne {

class TokenFeed {
 public:
  // A place in the log between two pieces of content, and the tokens before it.
  struct Position {
    uint64_t record_index = 0;
    int64_t skip_bytes = 0;   // payload bytes of that record that are before it
    int64_t offset = 0;       // tokens before it
    int64_t skip_tokens = 0;  // PositionAt only: tokens after it and before the one asked for
  };

  // Content begins at `start` (skip_tokens is not used). `tokenizer`: not owned.
  TokenFeed(const Tokenizer* tokenizer, const Position& start);

  // The tokens that a log record's text completes; the rest waits. `skipped_bytes`: bytes of the record before `text`.
  absl::StatusOr<std::vector<int32_t>> AddText(uint64_t record_index, absl::string_view text,
                                               int64_t skipped_bytes = 0);
  // Token ids end the text before them: its tokens come first.
  absl::StatusOr<std::vector<int32_t>> AddTokens(uint64_t record_index, absl::Span<const int32_t> ids);
  // A record's content as one of the two; `skipped_bytes` of its text came before. DATA_LOSS: it has fewer.
  absl::StatusOr<std::vector<int32_t>> AddRecord(const LogRecord& record, int64_t skipped_bytes = 0);
  // Tokens of the text that still waits, were it to end here.
  absl::StatusOr<std::vector<int32_t>> WaitingTokens() const;

  int64_t offset() const { return offset_; }  // tokens given out, counted from the session's beginning
  // `offset` in [the last offset forgotten, offset()].
  Position PositionAt(int64_t offset) const;
  void ForgetBefore(int64_t offset);  // PositionAt will not be asked for less

 private:
  absl::Status EmitPiece(size_t bytes, std::vector<int32_t>* tokens);
  void AddBoundary(const Position& position);

  const Tokenizer* const tokenizer_;
  int64_t offset_;
  absl::string_view waiting() const { return absl::string_view(waiting_).substr(head_); }

  std::string waiting_;  // text; from head_ on not yet tokenized
  size_t head_ = 0;
  struct Span {
    uint64_t record_index;
    int64_t from, to;
  };
  std::deque<Span> spans_;           // where waiting_'s bytes came from: payload bytes [from, to) of records, in order
  std::deque<Position> boundaries_;  // in order; never empty
};

}  // namespace mnemosyne
