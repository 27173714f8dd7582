#include "train/document.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/base/file.h"
#include "core/model/tokenizer.h"
#include "tests/status_matchers.h"
#include "tests/train/train_folder.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

class DocumentTest : public TrainFolderTest {
 protected:
  Document Make(const DocumentOptions& options) {
    return MakeDocument(options, Words(), English(), Haystack::Noise(), random_);
  }
  static std::string Text(const std::vector<int32_t>& tokens, int64_t begin, int64_t end) {
    return std::string(tokens.begin() + begin, tokens.begin() + end);
  }
  Random random_{5};
};

TEST_F(DocumentTest, TellsEveryFactWhereItSays) {
  for (int i = 0; i < 50; ++i) {
    const Document document =
        Make({.min_tokens = 256, .max_tokens = 2048, .min_facts = 1, .max_facts = 8, .distractor_share = 0.5});
    EXPECT_EQ(document.tokens.size() % 256, 0);
    ASSERT_FALSE(document.facts.empty());
    int64_t done = 0;
    for (const ToldFact& told : document.facts) {
      EXPECT_GE(told.begin, done);
      done = told.end;
      EXPECT_THAT(Text(document.tokens, told.begin, told.end), HasSubstr(told.fact.key));
      EXPECT_EQ(Text(document.tokens, told.value, told.value + told.fact.value.size()), told.fact.value);
      EXPECT_LE(told.value + static_cast<int64_t>(told.fact.value.size()), told.end);
    }
  }
}

TEST_F(DocumentTest, NumbersAreMadeOfTheDigitsGiven) {
  for (int i = 0; i < 20; ++i) {
    const std::string digits = TwoDigits(random_);
    EXPECT_NE(digits[0], '0');
    const Document document = Make({.min_tokens = 512,
                                    .max_tokens = 512,
                                    .min_facts = 4,
                                    .max_facts = 4,
                                    .digits = digits,
                                    .facts = {.number = 1}});
    ASSERT_FALSE(document.facts.empty());
    for (const ToldFact& told : document.facts) {
      EXPECT_EQ(told.fact.value.find_first_not_of(digits), std::string::npos) << told.fact.value;
    }
  }
}

TEST_F(DocumentTest, DistractorsAreNumbersThatNoFactTells) {
  const auto digits_outside = [&](double share) {
    const Document document =
        Make({.min_tokens = 2048, .max_tokens = 2048, .noise_share = 0, .distractor_share = share});
    const ToldFact& told = document.facts[0];
    const std::string outside = Text(document.tokens, 0, told.begin) + Text(document.tokens, told.end, 2048);
    return std::count_if(outside.begin(), outside.end(), [](char c) { return '0' <= c && c <= '9'; });
  };
  EXPECT_EQ(digits_outside(0), 0);
  EXPECT_GT(digits_outside(1), 20);
}

TEST_F(DocumentTest, AnExerciseEndsWithTheValueAndTheEndOfTheAnswer) {
  const Vocabulary vocabulary = Words();
  for (int i = 0; i < 50; ++i) {
    const Fact fact = vocabulary.Draw(FactKind::kNumber, Split::kTrain, random_);
    const Exercise exercise = MakeExercise(fact, 0.3, random_);
    EXPECT_EQ(exercise.tokens.front(), kByteQuestion);
    EXPECT_EQ(exercise.tokens.back(), kByteEndOfAnswer);
    EXPECT_EQ(Text(exercise.tokens, exercise.value, exercise.tokens.size() - 1), fact.value);
    EXPECT_LE(exercise.value - exercise.answer_begin, 1);
    EXPECT_THAT(Text(exercise.tokens, 1, exercise.answer_begin), HasSubstr(fact.key));
  }
}

}  // namespace
}  // namespace mnemosyne
