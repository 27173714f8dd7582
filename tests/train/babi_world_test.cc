#include "train/babi_world.h"

#include <algorithm>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/train/babi_reader.h"
#include "tests/train/train_folder.h"

namespace mnemosyne {
namespace {

TEST(BabiWorld, EveryAnswerFollowsFromTheStatements) {
  const uint64_t seed = std::random_device()();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Random random(seed);
  for (int task = 1; task <= kBabiTasks; ++task) {
    size_t questions = 0, longest = 0;
    for (int i = 0; i < 300; ++i) {
      const BabiStory story = MakeBabiStory(task, random);
      ASSERT_FALSE(story.questions.empty());
      EXPECT_EQ(story.questions.back().after, story.statements.size());
      BabiReader reader;
      size_t read = 0;
      for (const BabiStory::Question& question : story.questions) {
        ASSERT_GE(question.after, read);
        while (read < question.after) reader.Read(story.statements[read++]);
        EXPECT_EQ(reader.Answer(question.text), question.answer)
            << question.text << " after\n"
            << absl::StrJoin(story.statements.begin(), story.statements.begin() + read, "\n");
      }
      EXPECT_FALSE(reader.is_broken());
      questions += story.questions.size();
      longest = std::max(longest, story.statements.size());
    }
    std::printf("qa%d: %zu questions, up to %zu statements\n", task, questions, longest);
  }
}

TEST(BabiWorld, TheLastQuestionIsAnyThatCanBeAsked) {
  Random random(4);
  std::set<std::string> forms;
  for (int i = 0; i < 200; ++i) {
    const std::string text = MakeBabiStory(5, random).questions.back().text;
    const bool has_to = text.find(" to") != std::string::npos;
    forms.insert(text.substr(0, text.find(' ', 5)) + (has_to ? " to" : ""));
  }
  EXPECT_EQ(forms.size(), 5) << absl::StrJoin(forms, ", ");
}

class ScatterTest : public TrainFolderTest {};

TEST_F(ScatterTest, KeepsTheOrderAndTheSize) {
  Random random(5);
  const Haystack english = English();
  for (int i = 0; i < 50; ++i) {
    const BabiStory story = MakeBabiStory(1 + i % kBabiTasks, random);
    for (const int64_t bytes : {0, 4096, 20000}) {
      const std::string text = ScatterStory(story, english, bytes, random);
      size_t at = 0;
      for (const std::string& statement : story.statements) {
        at = text.find(statement, at);
        ASSERT_NE(at, std::string::npos) << statement;
        EXPECT_TRUE(at == 0 || text[at - 1] == ' ');
        at += statement.size();
        EXPECT_TRUE(at == text.size() || text[at] == ' ');
      }
      const std::string alone = absl::StrJoin(story.statements, " ");
      if (bytes <= static_cast<int64_t>(alone.size())) {
        EXPECT_EQ(text, alone);
      } else {
        EXPECT_LE(std::abs(static_cast<int64_t>(text.size()) - bytes), 1);
      }
    }
  }
}

}  // namespace
}  // namespace mnemosyne
