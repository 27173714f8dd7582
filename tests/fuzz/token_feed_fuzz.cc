// A session's content as it comes: records of text, cut anywhere, and of token ids. From the input's end: which
// tokenizer, then for each record its size and kind.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>

#include "core/session/token_feed.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/tokenizers.h"

namespace mnemosyne {
namespace {

struct Record {
  bool is_text;
  std::string text;
  std::vector<int32_t> ids;
};

using Tokens = std::vector<int32_t>;

void Append(const absl::StatusOr<Tokens>& more, Tokens* tokens) {
  Require(more.ok(), "content has tokens");
  tokens->insert(tokens->end(), more->begin(), more->end());
}

void Add(const Record& record, uint64_t index, int64_t skipped, TokenFeed* feed, Tokens* tokens) {
  Append(record.is_text ? feed->AddText(index, absl::string_view(record.text).substr(skipped), skipped)
                        : feed->AddTokens(index, record.ids),
         tokens);
}

std::vector<Record> ReadRecords(FuzzedDataProvider* input) {
  std::vector<Record> records;
  while (input->remaining_bytes() > 0 && records.size() < 64) {
    if (input->ConsumeIntegralInRange(0, 7) == 0) {
      records.push_back({false, {}, {static_cast<int32_t>(records.size())}});
    } else {
      records.push_back({true, input->ConsumeBytesAsString(input->ConsumeIntegralInRange<size_t>(0, 255)), {}});
    }
  }
  return records;
}

// All of it, with text between token ids in one record.
Tokens WholeTokens(const Tokenizer& tokenizer, const std::vector<Record>& records) {
  TokenFeed feed(&tokenizer, {});
  Tokens tokens;
  std::string text;
  uint64_t index = 0;
  for (const Record& record : records) {
    text += record.text;
    if (record.is_text) continue;
    Append(feed.AddText(index++, text), &tokens);
    Append(feed.AddTokens(index++, record.ids), &tokens);
    text.clear();
  }
  Append(feed.AddText(index, text), &tokens);
  Append(feed.WaitingTokens(), &tokens);
  return tokens;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const auto& tokenizers = FuzzedTokenizers();
  const Tokenizer& tokenizer = *tokenizers[input.ConsumeIntegralInRange<size_t>(0, tokenizers.size() - 1)].tokenizer;
  const uint32_t place = input.ConsumeIntegral<uint16_t>();
  const std::vector<Record> records = ReadRecords(&input);

  TokenFeed feed(&tokenizer, {});
  Tokens tokens;
  for (size_t i = 0; i < records.size(); ++i) Add(records[i], i, 0, &feed, &tokens);
  Require(feed.offset() == static_cast<int64_t>(tokens.size()), "the offset counts the tokens");
  Tokens all = tokens;
  Append(feed.WaitingTokens(), &all);
  Require(all == WholeTokens(tokenizer, records), "tokens do not depend on cuts");

  const int64_t offset = place % (feed.offset() + 1);
  feed.ForgetBefore(offset);
  const TokenFeed::Position position = feed.PositionAt(offset);
  Require(position.offset + position.skip_tokens == offset, "a position leads to its token");
  TokenFeed again(&tokenizer, position);
  Tokens rest;
  for (size_t i = position.record_index; i < records.size(); ++i) {
    Add(records[i], i, i == position.record_index ? position.skip_bytes : 0, &again, &rest);
  }
  Require(static_cast<int64_t>(rest.size()) >= position.skip_tokens, "the tokens to skip come");
  rest.erase(rest.begin(), rest.begin() + position.skip_tokens);
  Require(rest == Tokens(tokens.begin() + offset, tokens.end()), "reading on from a position gives the same tokens");
  return 0;
}

}  // namespace mnemosyne
