// A session's tokens in order, read from its log a stretch at a time: what waits in memory is at most a record's
// tokens.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<TokenReader> reader, history.TokensFrom(past));
//   ASSIGN_OR_RETURN(std::vector<int32_t> tokens, reader->Next(64));
//
// Thread-compatible; does not outlive the storage or the tokenizer. Calls wait for the disk.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/session/token_feed.h"
#include "core/storage/storage.h"

namespace mnemosyne {

class TokenReader {
 public:
  // `log` begins with the record that `from` names. tokenizer: not owned.
  TokenReader(const Tokenizer* tokenizer, std::unique_ptr<LogReader> log, const TokenFeed::Position& from);

  // The next `count` tokens; fewer only where the log ends. Errors as of LogReader::Next; none of the tokens is lost.
  absl::StatusOr<std::vector<int32_t>> Next(int64_t count);

 private:
  const std::unique_ptr<LogReader> log_;
  const TokenFeed::Position from_;
  TokenFeed feed_;
  int64_t to_skip_;             // tokens
  std::vector<int32_t> ready_;  // from used_ on not given out
  size_t used_ = 0;
};

}  // namespace mnemosyne
