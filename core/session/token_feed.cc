#include "core/session/token_feed.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

TokenFeed::TokenFeed(const Tokenizer* tokenizer, const Position& start) : tokenizer_(tokenizer), offset_(start.offset) {
  boundaries_.push_back({start.record_index, start.skip_bytes, start.offset, 0});
}

void TokenFeed::AddBoundary(const Position& position) {
  // Of two places with no token between them the later one is the better to start from.
  if (boundaries_.back().offset == position.offset) boundaries_.pop_back();
  boundaries_.push_back(position);
}

// Tokenizes the first `bytes` of the waiting text.
absl::Status TokenFeed::EmitPiece(size_t bytes, std::vector<int32_t>* tokens) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> piece, tokenizer_->Encode(waiting().substr(0, bytes)));
  tokens->insert(tokens->end(), piece.begin(), piece.end());
  offset_ += piece.size();
  head_ += bytes;
  Position end = {0, 0, offset_, 0};
  for (int64_t left = bytes; left > 0;) {
    Span& span = spans_.front();
    const int64_t taken = std::min(left, span.to - span.from);
    span.from += taken;
    left -= taken;
    end.record_index = span.record_index;
    end.skip_bytes = span.from;
    if (span.from == span.to) {
      end = {span.record_index + 1, 0, offset_, 0};
      spans_.pop_front();
    }
  }
  AddBoundary(end);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> TokenFeed::AddText(uint64_t record_index, absl::string_view text,
                                                        int64_t skipped_bytes) {
  std::vector<int32_t> tokens;
  waiting_.append(text.data(), text.size());
  if (!text.empty()) {
    spans_.push_back({record_index, skipped_bytes, skipped_bytes + static_cast<int64_t>(text.size())});
  }
  while (!waiting().empty()) {
    const std::optional<size_t> piece = tokenizer_->NextPiece(waiting());
    if (!piece) break;
    RETURN_IF_ERROR(EmitPiece(*piece, &tokens));
  }
  waiting_.erase(0, head_);  // once an append, not once a piece
  head_ = 0;
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> TokenFeed::AddTokens(uint64_t record_index, absl::Span<const int32_t> ids) {
  std::vector<int32_t> tokens;
  if (!waiting_.empty()) RETURN_IF_ERROR(EmitPiece(waiting_.size(), &tokens));
  waiting_.clear();
  head_ = 0;
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  offset_ += ids.size();
  AddBoundary({record_index + 1, 0, offset_, 0});
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> TokenFeed::AddRecord(const LogRecord& record, int64_t skipped_bytes) {
  if (skipped_bytes > static_cast<int64_t>(record.payload.size())) {
    return absl::DataLossError(absl::StrCat("log record ", record.index, " has ", record.payload.size(),
                                            " bytes; the snapshot before it has read ", skipped_bytes));
  }
  if (record.kind == LogContent::kText) {
    return AddText(record.index, absl::string_view(record.payload).substr(skipped_bytes), skipped_bytes);
  }
  std::vector<int32_t> ids(record.payload.size() / sizeof(int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), record.payload.data(), record.payload.size());
  return AddTokens(record.index, ids);
}

absl::StatusOr<std::vector<int32_t>> TokenFeed::WaitingTokens() const {
  if (waiting_.empty()) return std::vector<int32_t>();
  return tokenizer_->Encode(waiting_);
}

TokenFeed::Position TokenFeed::PositionAt(int64_t offset) const {
  auto after = std::upper_bound(boundaries_.begin(), boundaries_.end(), offset,
                                [](int64_t value, const Position& one) { return value < one.offset; });
  Position position = after == boundaries_.begin() ? boundaries_.front() : *std::prev(after);
  position.skip_tokens = offset - position.offset;
  return position;
}

void TokenFeed::ForgetBefore(int64_t offset) {
  while (boundaries_.size() > 1 && boundaries_[1].offset <= offset) boundaries_.pop_front();
}

}  // namespace mnemosyne
