#include "train/recall_tasks.h"

#include <set>

#include "core/base/file.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"
#include "train/recall_evaluation.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

// WordNet's index format, with words of our own.
void WriteWords(const std::string& folder) {
  std::string adjectives = "  1 a licence line\n", nouns = adjectives;
  for (int i = 0; i < 300; ++i) {
    const std::string word = {static_cast<char>('a' + i % 26), static_cast<char>('a' + i / 26), 'o', 'n', 'y'};
    adjectives += word + " a 4 1 & 4 1 00000000\n";
    nouns += word + " n 4 1 @ 4 1 00000000\n";
  }
  ASSERT_OK(WriteFileAtomically(folder + "/index.adj", adjectives));
  ASSERT_OK(WriteFileAtomically(folder + "/index.noun", nouns));
}

class RecallTasksTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteWords(folder_.path());
    auto loaded = Vocabulary::Load(folder_.path());
    ASSERT_OK(loaded);
    vocabulary_ = *std::move(loaded);
  }
  TempFolder folder_;
  absl::StatusOr<Vocabulary> vocabulary_ = absl::UnknownError("not loaded");
  Random random_{3};
};

TEST_F(RecallTasksTest, RulersWordsComeFirst) {
  const Fact fact = {ValueKind::kNumber, "lively-panda", "1234567"};
  EXPECT_EQ(Statement(fact, 0), "One of the special magic numbers for lively-panda is: 1234567.");
  EXPECT_EQ(Question(fact, 0),
            "What is the special magic number for lively-panda mentioned in the provided text? "
            "The special magic number for lively-panda mentioned in the provided text is");
}

TEST_F(RecallTasksTest, EveryWordingNamesTheKeyAndOnlyStatementsTheValue) {
  const Fact fact = {ValueKind::kWord, "odd-bird", "harbour"};
  std::set<std::string> all;
  for (int i = 0; i < kStatementWordings; ++i) {
    EXPECT_THAT(Statement(fact, i), testing::AllOf(HasSubstr("odd-bird"), HasSubstr("harbour")));
    all.insert(Statement(fact, i));
  }
  for (int i = 0; i < kQuestionWordings; ++i) {
    EXPECT_THAT(Question(fact, i), testing::AllOf(HasSubstr("odd-bird"), testing::Not(HasSubstr("harbour"))));
    all.insert(Question(fact, i));
  }
  EXPECT_EQ(all.size(), kStatementWordings + kQuestionWordings);
}

TEST_F(RecallTasksTest, WhatIsHeldOutIsNeverDrawnForTraining) {
  std::set<std::string> seen[2];
  for (int i = 0; i < 4000; ++i) {
    for (const Split split : {Split::kTrain, Split::kHeldOut}) {
      const Fact fact = vocabulary_->Draw(i % 2 == 0 ? ValueKind::kNumber : ValueKind::kWord, split, random_);
      std::set<std::string>& mine = seen[static_cast<int>(split)];
      mine.insert(fact.value);
      mine.insert(fact.key.substr(0, fact.key.find('-')));
      mine.insert(fact.key.substr(fact.key.find('-') + 1));
    }
  }
  for (const std::string& word : seen[1]) EXPECT_FALSE(seen[0].contains(word)) << word;
}

TEST_F(RecallTasksTest, UuidsLookLikeUuids) {
  for (int i = 0; i < 50; ++i) {
    EXPECT_THAT(vocabulary_->Draw(ValueKind::kUuid, Split::kTrain, random_).value,
                testing::MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
  }
}

TEST_F(RecallTasksTest, ASampleHasTheSizeAskedForAndHidesItsNeedleOnce) {
  const Haystack noise = Haystack::Noise();
  for (int64_t i = 0; i < 40; ++i) {
    const RecallSample sample = MakeRecallSample({.bytes = 4096}, i, *vocabulary_, noise);
    EXPECT_EQ(sample.text.size(), 4096);
    const size_t at = sample.text.find(Statement(sample.facts[0], 0));
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(sample.text.find(sample.facts[0].key, at + 60), std::string::npos);
  }
}

TEST_F(RecallTasksTest, ASampleOfSeveralFactsTellsEachOnceAndAsksForEach) {
  const Haystack noise = Haystack::Noise();
  for (int64_t i = 0; i < 20; ++i) {
    const RecallSample sample = MakeRecallSample({.bytes = 4096, .facts = 7}, i, *vocabulary_, noise);
    EXPECT_EQ(sample.text.size(), 4096);
    ASSERT_EQ(sample.facts.size(), 7);
    ASSERT_EQ(sample.questions.size(), 7);
    for (size_t f = 0; f < 7; ++f) {
      const size_t at = sample.text.find(Statement(sample.facts[f], 0));
      ASSERT_NE(at, std::string::npos);
      EXPECT_EQ(sample.text.find(Statement(sample.facts[f], 0), at + 1), std::string::npos);
      EXPECT_THAT(sample.questions[f], HasSubstr(sample.facts[f].key));
    }
    RecallScore score;
    score.Add(sample, {sample.facts[0].value, " " + sample.facts[1].value + "\n", "7"});
    EXPECT_EQ(score.questions, 3);
    EXPECT_EQ(score.right, 2);
  }
}

TEST_F(RecallTasksTest, MissingWordsAreNamed) {
  EXPECT_THAT(Vocabulary::Load(folder_.path() + "/nothing"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("index.adj")));
  EXPECT_THAT(Haystack::FromFiles({folder_.path() + "/none.txt"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.txt")));
}

}  // namespace
}  // namespace mnemosyne
