#include "train/recall_tasks.h"

#include <set>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"
#include "tests/train/word_files.h"
#include "train/recall_evaluation.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

class RecallTasksTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteWordFiles(folder_.path());
    auto loaded = Vocabulary::Load(folder_.path());
    ASSERT_OK(loaded);
    vocabulary_ = *std::move(loaded);
  }
  TempFolder folder_;
  absl::StatusOr<Vocabulary> vocabulary_ = absl::UnknownError("not loaded");
  Random random_{3};
};

TEST_F(RecallTasksTest, RulersWordsComeFirst) {
  const Fact fact = {FactKind::kNumber, "lively-panda", "1234567"};
  EXPECT_EQ(Statement(fact, 0), "One of the special magic numbers for lively-panda is: 1234567.");
  EXPECT_EQ(Question(fact, 0),
            "What is the special magic number for lively-panda mentioned in the provided text? "
            "The special magic number for lively-panda mentioned in the provided text is");
}

TEST_F(RecallTasksTest, EveryWordingNamesTheKeyAndOnlyStatementsTheValue) {
  const Fact fact = {FactKind::kWord, "odd-bird", "harbour"};
  std::set<std::string> all;
  for (int i = 0; i < StatementWordings(fact); ++i) {
    EXPECT_THAT(Statement(fact, i), testing::AllOf(HasSubstr("odd-bird"), HasSubstr("harbour")));
    all.insert(Statement(fact, i));
  }
  for (int i = 0; i < QuestionWordings(fact); ++i) {
    EXPECT_THAT(Question(fact, i), testing::AllOf(HasSubstr("odd-bird"), testing::Not(HasSubstr("harbour"))));
    all.insert(Question(fact, i));
  }
  EXPECT_EQ(all.size(), StatementWordings(fact) + QuestionWordings(fact));
}

TEST_F(RecallTasksTest, WhatIsHeldOutIsNeverDrawnForTraining) {
  std::set<std::string> seen[2];
  for (int i = 0; i < 4000; ++i) {
    for (const Split split : {Split::kTrain, Split::kHeldOut}) {
      const FactKind kinds[] = {FactKind::kNumber, FactKind::kWord, FactKind::kEveryday};
      const Fact fact = vocabulary_->Draw(kinds[i % 3], split, random_);
      std::set<std::string>& mine = seen[static_cast<int>(split)];
      mine.insert(fact.value);
      for (const absl::string_view word : absl::StrSplit(fact.key, absl::ByAnyChar("- "))) mine.emplace(word);
    }
  }
  for (const std::string& word : seen[1]) EXPECT_FALSE(seen[0].contains(word)) << word;
}

TEST_F(RecallTasksTest, EverydayFactsAreSentencesOfTheirFamily) {
  std::set<int> families[2];
  for (int i = 0; i < 2000; ++i) {
    const bool is_taught = i % 2 == 0;
    const Fact fact = vocabulary_->Draw(is_taught ? FactKind::kEveryday : FactKind::kUntaught, Split::kTrain, random_);
    families[is_taught].insert(fact.family);
    const EverydayFamily& family = EverydayFamilies()[fact.family];
    const char* forms[] = {"[A-Z][a-p]na [A-Z][a-p]naby", "[A-Z][a-p]naville", "[a-z][a-p]ony [a-z][a-p]ony",
                           "[0-9]+ [A-Z][a-z]+ [0-9]{4}", "[A-Z][0-9]-[0-9]{4}"};
    EXPECT_THAT(fact.key, testing::MatchesRegex(forms[static_cast<int>(family.key)])) << family.name;
    EXPECT_THAT(fact.value, testing::MatchesRegex(forms[static_cast<int>(family.value)])) << family.name;
    std::set<std::string> all;
    for (int w = 0; w < StatementWordings(fact); ++w) {
      const std::string told = Statement(fact, w);
      EXPECT_EQ(told.back(), '.');
      EXPECT_LT(told.find(fact.key), told.rfind(fact.value)) << told;
      all.insert(told);
    }
    for (int w = 0; w < QuestionWordings(fact); ++w) {
      EXPECT_THAT(Question(fact, w), testing::AllOf(testing::EndsWith("?"), HasSubstr(fact.key)));
      all.insert(Question(fact, w));
    }
    EXPECT_EQ(all.size(), StatementWordings(fact) + QuestionWordings(fact)) << family.name;
  }
  EXPECT_EQ(families[1].size(), kTaughtFamilies);
  EXPECT_EQ(families[0].size(), EverydayFamilies().size() - kTaughtFamilies);
  for (const int family : families[0]) EXPECT_GE(family, kTaughtFamilies);
}

TEST_F(RecallTasksTest, UuidsLookLikeUuids) {
  for (int i = 0; i < 50; ++i) {
    EXPECT_THAT(vocabulary_->Draw(FactKind::kUuid, Split::kTrain, random_).value,
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
    score.Add(sample, {sample.facts[0].value, " " + sample.facts[1].value + "\n", "7", sample.facts[3].value + " and"});
    EXPECT_EQ(score.questions, 4);
    EXPECT_EQ(score.right, 2);
    EXPECT_EQ(score.contained, 3);
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
