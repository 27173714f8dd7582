#include "train/side_evaluation.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_split.h"
#include "tests/core/model/random_model.h"
#include "tests/train/train_folder.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

class SideEvaluationTest : public TrainFolderTest {
 protected:
  void SetUp() override {
    TrainFolderTest::SetUp();
    const auto recipe = ParseRecipe(R"({
      "seed": 3, "rows": 2, "segment_tokens": 256, "questions": 1, "learning_rate": 0.003, "warmup_steps": 4,
      "weight_decay": 0.01, "clip_norm": 1.0, "gate_bias": -3.0, "echo_init": 0,
      "stages": [{"steps": 6, "write_cost": 0, "keys_pace": 1, "match_cost": 0, "drill_facts": 0, "drill_cost": 0,
        "spread_cost": 0, "key_cost": 0, "min_tokens": 256, "max_tokens": 256, "min_facts": 1, "max_facts": 1,
        "noise_share": 0.5, "two_digit_share": 0, "distractor_share": 0, "echo_share": 0,
        "tasks": {"number": 1, "qa1": 1}, "inline_questions": 0, "carried_share": 0, "text_weight": 1, "answer_weight": 2, "first_weight": 1}]})");
    ASSERT_OK(recipe);
    const ModelConfig config = SmallConfig();
    ASSERT_OK(Trainer::Check(config, *recipe));
    trainer_ = std::make_unique<Trainer>(
        config, *recipe, LessonData{Words(), English(), Haystack::Noise(), *Tokenizer::Create(config, "")},
        Trainer::Options());
    log_ = *TrainingLog::Open(folder_.File("log"), /*append=*/false);
  }
  std::vector<nlohmann::json> Lines() {
    std::vector<nlohmann::json> lines;
    const std::string text = *ReadFile(folder_.File("log"));
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<TrainingLog> log_;
};

TEST_F(SideEvaluationTest, MeasuresACopyWhileTrainingGoesOnAndKeepsTheBest) {
  const Vocabulary words = Words();
  const Haystack english = English();
  SideEvaluation evaluation(folder_.path(), /*resumes=*/false,
                            {.tasks = {"number", "qa1", "text"}, .bytes = {512, 1024}, .facts = {1, 2}, .samples = 2},
                            &words, &english, log_.get());
  trainer_->Step();
  ASSERT_OK(evaluation.Begin(*trainer_));
  ASSERT_OK(trainer_->ExportModel(folder_.path()));
  const std::string weights = *ReadFile(folder_.File("model.safetensors"));
  for (int i = 0; i < 4; ++i) trainer_->Step();
  ASSERT_OK(evaluation.Wait());
  EXPECT_EQ(*ReadFile(folder_.File("best/model.safetensors")), weights) << "of the step at which it began";
  EXPECT_EQ(evaluation.no_better(), 0);

  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_EQ(lines.size(), 2 * 2 + 2 + 2);  // numbers, stories, text
  for (const nlohmann::json& line : lines) EXPECT_EQ(line["step"], 1);
  EXPECT_EQ(lines[1]["questions"], 4);
  EXPECT_EQ(lines[4]["task"], "qa1");
  EXPECT_GT(lines[7]["nats_a_byte"], 0.5);

  // An untrained model answers nothing, now as before.
  ASSERT_OK(evaluation.Begin(*trainer_));
  ASSERT_OK(evaluation.Wait());
  EXPECT_EQ(evaluation.no_better(), 1);
  EXPECT_EQ(*ReadFile(folder_.File("best/model.safetensors")), weights);

  const EvaluationPlan plan = {.tasks = {"number"}, .bytes = {512}, .facts = {1}, .samples = 1};
  SideEvaluation resumed(folder_.path(), /*resumes=*/true, plan, &words, &english, log_.get());
  ASSERT_OK(resumed.Begin(*trainer_));
  ASSERT_OK(resumed.Wait());
  EXPECT_EQ(resumed.no_better(), 1) << "a resumed run knows the best";
  EXPECT_EQ(*ReadFile(folder_.File("best/model.safetensors")), weights);
  SideEvaluation anew(folder_.path(), /*resumes=*/false, plan, &words, &english, log_.get());
  ASSERT_OK(anew.Begin(*trainer_));
  ASSERT_OK(anew.Wait());
  EXPECT_NE(*ReadFile(folder_.File("best/model.safetensors")), weights);
}

TEST_F(SideEvaluationTest, ItsErrorComesBack) {
  const Vocabulary words = Words();
  const Haystack english = English();
  SideEvaluation evaluation(folder_.path(), /*resumes=*/false, {.tasks = {"riddle"}, .bytes = {512}, .facts = {1}},
                            &words, &english, log_.get());
  ASSERT_OK(evaluation.Begin(*trainer_));
  EXPECT_THAT(evaluation.Wait(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'riddle'")));
}

}  // namespace
}  // namespace mnemosyne
