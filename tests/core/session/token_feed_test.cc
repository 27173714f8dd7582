#include "core/session/token_feed.h"

#include <random>

#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

// A token a piece of up to three letters; pieces end before a space that follows a letter, as sentencepiece's do.
class WordTokenizer final : public Tokenizer {
 public:
  std::optional<size_t> NextPiece(absl::string_view text) const override {
    for (size_t i = 1; i < text.size(); ++i) {
      if (text[i] == ' ' && text[i - 1] != ' ') return i;
    }
    return std::nullopt;
  }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view piece) const override {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < piece.size(); i += 3) {
      int32_t token = static_cast<int32_t>(piece.size());  // tokens depend on the whole piece, as merges do
      for (const char c : piece.substr(i, 3)) token = token * 131 + c;
      tokens.push_back(token);
    }
    return tokens;
  }
  std::string Decode(absl::Span<const int32_t>) const override { return ""; }
  std::optional<int32_t> end_of_answer() const override { return std::nullopt; }
  std::optional<int32_t> question() const override { return std::nullopt; }
};

uint64_t TestSeed() {
  const char* given = std::getenv("MNEMOSYNE_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("seed %llu (repeat with MNEMOSYNE_TEST_SEED)\n", static_cast<unsigned long long>(seed));
  return seed;
}

struct Record {
  bool is_text;
  std::string text;
  std::vector<int32_t> ids;
};

std::vector<int32_t> Add(TokenFeed& feed, uint64_t index, const Record& record, int64_t skipped = 0) {
  const auto tokens = record.is_text ? feed.AddText(index, absl::string_view(record.text).substr(skipped), skipped)
                                     : feed.AddTokens(index, record.ids);
  EXPECT_OK(tokens);
  return *tokens;
}

std::string RandomText(std::mt19937_64& random, int64_t bytes) {
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += random() % 4 == 0 ? ' ' : static_cast<char>('a' + random() % 3);
  return text;
}

TEST(TokenFeed, TokensDoNotDependOnCuts) {
  std::mt19937_64 random(TestSeed());
  const WordTokenizer tokenizer;
  for (int round = 0; round < 200; ++round) {
    const std::string text = RandomText(random, 1 + random() % 80);
    TokenFeed whole(&tokenizer, {});
    const std::vector<int32_t> expected = Add(whole, 0, {true, text, {}});
    TokenFeed cut(&tokenizer, {});
    std::vector<int32_t> tokens;
    for (size_t done = 0, index = 0; done < text.size(); ++index) {
      const size_t size = 1 + random() % 7;
      const std::vector<int32_t> more = Add(cut, index, {true, text.substr(done, size), {}});
      tokens.insert(tokens.end(), more.begin(), more.end());
      done += size;
    }
    EXPECT_EQ(tokens, expected) << text;
    EXPECT_EQ(*cut.WaitingTokens(), *whole.WaitingTokens()) << text;
  }
}

TEST(TokenFeed, ReadingOnFromAnyPositionGivesTheSameTokens) {
  std::mt19937_64 random(TestSeed());
  const WordTokenizer tokenizer;
  for (int round = 0; round < 200; ++round) {
    std::vector<Record> records;
    TokenFeed feed(&tokenizer, {});
    std::vector<int32_t> tokens;
    const uint64_t count = 1 + random() % 12;
    for (uint64_t index = 0; index < count; ++index) {
      Record record = {random() % 4 != 0, RandomText(random, 1 + random() % 15), {}};
      if (!record.is_text) record.ids.assign(1 + random() % 5, static_cast<int32_t>(index));
      const std::vector<int32_t> more = Add(feed, index, record);
      tokens.insert(tokens.end(), more.begin(), more.end());
      records.push_back(std::move(record));
    }
    ASSERT_EQ(feed.offset(), static_cast<int64_t>(tokens.size()));
    for (int64_t offset = 0; offset <= feed.offset(); ++offset) {
      const TokenFeed::Position position = feed.PositionAt(offset);
      TokenFeed again(&tokenizer, position);
      std::vector<int32_t> rest;
      for (uint64_t index = position.record_index; index < count; ++index) {
        const std::vector<int32_t> more =
            Add(again, index, records[index], index == position.record_index ? position.skip_bytes : 0);
        rest.insert(rest.end(), more.begin(), more.end());
      }
      ASSERT_GE(static_cast<int64_t>(rest.size()), position.skip_tokens);
      rest.erase(rest.begin(), rest.begin() + position.skip_tokens);
      EXPECT_EQ(rest, std::vector<int32_t>(tokens.begin() + offset, tokens.end())) << "offset " << offset;
    }
  }
}

TEST(TokenFeed, ForgettingKeepsWhatIsStillAskedFor) {
  const WordTokenizer tokenizer;
  TokenFeed feed(&tokenizer, {});
  Add(feed, 0, {true, "aa bb cc dd ee ", {}});
  const TokenFeed::Position before = feed.PositionAt(3);
  feed.ForgetBefore(3);
  const TokenFeed::Position after = feed.PositionAt(3);
  EXPECT_EQ(after.record_index, before.record_index);
  EXPECT_EQ(after.skip_bytes, before.skip_bytes);
  EXPECT_EQ(after.offset, before.offset);
}

}  // namespace
}  // namespace mnemosyne
