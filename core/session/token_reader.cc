#include "core/session/token_reader.h"

#include <algorithm>
#include <optional>

#include "core/base/status_macros.h"

namespace mnemosyne {

TokenReader::TokenReader(const Tokenizer* tokenizer, std::unique_ptr<LogReader> log, const TokenFeed::Position& from)
    : log_(std::move(log)), from_(from), feed_(tokenizer, from), to_skip_(from.skip_tokens) {}

absl::StatusOr<std::vector<int32_t>> TokenReader::Next(int64_t count) {
  while (static_cast<int64_t>(ready_.size() - used_) < count) {
    ASSIGN_OR_RETURN(const std::optional<LogRecord> record, log_->Next());
    if (!record) break;
    const int64_t skipped_bytes = record->index == from_.record_index ? from_.skip_bytes : 0;
    ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, feed_.AddRecord(*record, skipped_bytes));
    feed_.ForgetBefore(feed_.offset());
    const int64_t skipped = std::min<int64_t>(to_skip_, tokens.size());
    to_skip_ -= skipped;
    ready_.erase(ready_.begin(), ready_.begin() + used_);  // once a record, not once a call
    used_ = 0;
    ready_.insert(ready_.end(), tokens.begin() + skipped, tokens.end());
  }
  const auto first = ready_.begin() + used_;
  const int64_t given = std::min<int64_t>(count, ready_.size() - used_);
  used_ += given;
  return std::vector<int32_t>(first, first + given);
}

}  // namespace mnemosyne
