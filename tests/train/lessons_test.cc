#include "train/lessons.h"

#include <gtest/gtest.h>

#include "tests/status_matchers.h"
#include "tests/train/babi_reader.h"
#include "tests/train/train_folder.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

class LessonsTest : public TrainFolderTest {
 protected:
  void SetUp() override {
    TrainFolderTest::SetUp();
    ModelConfig config;
    config.tokenizer.kind = TokenizerKind::kBytes;
    config.vocab_size = 258;
    data_.emplace(LessonData{Words(), English(), Haystack::Noise(), *Tokenizer::Create(config, "")});
  }
  std::string Text(const std::vector<int32_t>& tokens, int64_t begin, int64_t end) const {
    return data_->tokenizer->Decode(absl::MakeConstSpan(tokens).subspan(begin, end - begin));
  }
  std::optional<LessonData> data_;
  Random random_{6};
};

TEST_F(LessonsTest, AStorysAnswersFollowFromWhatWasRead) {
  int asked = 0, after_rest = 0;
  for (int i = 0; i < 200; ++i) {
    LessonOptions options;
    options.documents = {.min_tokens = 512, .max_tokens = 4096, .step = 256, .facts = {}};
    options.babi[i % kBabiTasks] = 1;
    const Lesson lesson = MakeLesson(options, *data_, random_);
    const int64_t size = lesson.tokens.size();
    EXPECT_EQ(size % 256, 0);
    for (int64_t read = 256; read <= size; read += 256) {
      const std::optional<Exercise> exercise = lesson.ask(read, 256, random_);
      if (!exercise) continue;
      ++asked;
      const int64_t rest =
          std::find(exercise->tokens.begin(), exercise->tokens.end(), kByteQuestion) - exercise->tokens.begin();
      if (rest > 0) ++after_rest;
      EXPECT_TRUE(std::equal(exercise->tokens.begin(), exercise->tokens.begin() + rest, lesson.tokens.begin() + read));
      BabiReader reader;
      for (const Told& told : lesson.told) {
        EXPECT_FALSE(told.begin < read + rest && read + rest < told.end) << "cut inside a statement";
        if (told.end > read + rest) break;
        reader.Read(Text(lesson.tokens, told.begin + 1, told.end));
      }
      EXPECT_EQ(" " + reader.Answer(Text(exercise->tokens, rest, exercise->answer_begin)),
                Text(exercise->tokens, exercise->answer_begin, exercise->tokens.size()));
      EXPECT_EQ(exercise->tokens.back(), kByteEndOfAnswer);
    }
    EXPECT_TRUE(lesson.ask(size, 256, random_)) << "a story ends with something to ask";
  }
  EXPECT_GT(asked, 200);
  EXPECT_GT(after_rest, 50);
}

TEST_F(LessonsTest, QuestionsInsideAStoryAreAnsweredByWhatComesBefore) {
  int answered = 0;
  for (int i = 0; i < 300; ++i) {
    LessonOptions options;
    options.documents = {.min_tokens = 512, .max_tokens = 4096, .step = 256, .facts = {}};
    options.babi[i % kBabiTasks] = 1;
    options.inline_questions = 0.5;
    const Lesson lesson = MakeLesson(options, *data_, random_);
    EXPECT_EQ(lesson.tokens.size() % 256, 0);
    BabiReader reader;
    size_t told = 0;
    for (size_t a = 0; a < lesson.answers.size();) {
      const int64_t begin = lesson.answers[a];
      int64_t end = begin;
      while (a < lesson.answers.size() && lesson.answers[a] == end) ++a, ++end;
      while (told < lesson.told.size() && lesson.told[told].end <= begin) {
        reader.Read(Text(lesson.tokens, lesson.told[told].begin + 1, lesson.told[told].end));
        ++told;
      }
      const std::string question = Text(lesson.tokens, lesson.told[told - 1].end + 1, begin);
      EXPECT_EQ(" " + reader.Answer(question), Text(lesson.tokens, begin, end)) << question;
      ++answered;
    }
  }
  EXPECT_GT(answered, 300) << "of 300 stories";
}

TEST_F(LessonsTest, FactsAreAskedAsTheyWereTold) {
  LessonOptions options;
  options.documents = {.min_tokens = 512, .max_tokens = 2048, .min_facts = 3, .max_facts = 6};
  for (int i = 0; i < 50; ++i) {
    const Lesson lesson = MakeLesson(options, *data_, random_);
    const std::optional<Exercise> exercise = lesson.ask(lesson.tokens.size(), 256, random_);
    ASSERT_TRUE(exercise);
    ASSERT_GE(exercise->told, 0);
    const Told& told = lesson.told[exercise->told];
    EXPECT_EQ(Text(lesson.tokens, told.value, told.value + told.length),
              Text(exercise->tokens, exercise->value, exercise->value + told.length));
  }
}

TEST_F(LessonsTest, TasksAreDrawnByTheirWeights) {
  LessonOptions options;
  options.documents = {.min_tokens = 512, .max_tokens = 512, .facts = {.number = 1}};
  options.babi[3] = 3;
  int stories = 0;
  for (int i = 0; i < 400; ++i) {
    const Lesson lesson = MakeLesson(options, *data_, random_);
    if (lesson.told[0].length == 0) ++stories;
  }
  EXPECT_NEAR(stories, 300, 45);
}

TEST_F(LessonsTest, ATokenizerThatDoesNotFitIsNamed) {
  LessonOptions options;
  ModelConfig config;
  config.tokenizer.kind = TokenizerKind::kSentencePiece;
  EXPECT_THAT(CheckLessons(options, config), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'bytes'")));
  options.documents.facts = {};
  EXPECT_OK(CheckLessons(options, config));
  config.tokenizer.kind = TokenizerKind::kNone;
  EXPECT_THAT(CheckLessons(options, config), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stories need")));
}

}  // namespace
}  // namespace mnemosyne
