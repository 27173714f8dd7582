#include "train/trainer.h"

#include <gtest/gtest.h>

#include <map>

#include "core/base/file.h"
#include "core/model/model.h"
#include "core/model/parameters.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"
#include "tests/train/word_files.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

constexpr char kRecipe[] = R"({
  "seed": 3, "rows": 6, "segment_tokens": 256, "questions": 2, "learning_rate": 0.003, "warmup_steps": 4,
  "weight_decay": 0.01, "clip_norm": 1.0, "gate_bias": -3.0, "echo_init": 1,
  "stages": [
    {"steps": 6, "write_cost": 0.0, "keys_pace": 0.3, "match_cost": 0.1, "drill_facts": 0, "drill_cost": 0.0, "spread_cost": 0.5, "key_cost": 0.0, "min_tokens": 256, "max_tokens": 256, "min_facts": 1, "max_facts": 1,
     "noise_share": 0.5, "two_digit_share": 0.5, "distractor_share": 0.5, "echo_share": 0.5, "carried_share": 0, "tasks": {"number": 0.5, "word": 0.1, "everyday": 0.2, "uuid": 0.2}, "inline_questions": 0, "text_weight": 1.0, "answer_weight": 2.0, "first_weight": 3.0},
    {"steps": 10, "write_cost": 0.1, "keys_pace": 0.3, "match_cost": 0.1, "drill_facts": 6, "drill_cost": 0.02, "spread_cost": 0.5, "key_cost": 0.5, "min_tokens": 256, "max_tokens": 1024, "min_facts": 1, "max_facts": 4,
     "noise_share": 0.5, "two_digit_share": 0.5, "distractor_share": 0.5, "echo_share": 0.5, "carried_share": 0.6, "tasks": {"number": 0.5, "word": 0.1, "everyday": 0.2, "uuid": 0.1, "qa1": 0.3}, "inline_questions": 0.5, "text_weight": 0.5, "answer_weight": 2.0, "first_weight": 3.0}
  ]
})";

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteWordFiles(folder_.path());
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += "the quick brown fox number " + std::to_string(i * 7919) + " jumps over the lazy dog. ";
    ASSERT_OK(WriteFileAtomically(folder_.File("text.txt"), text));
  }
  std::unique_ptr<Trainer> NewTrainer(int threads = 2, const std::vector<std::string>& only = {},
                                      double first_carried_share = 0) {
    auto recipe = ParseRecipe(kRecipe);
    EXPECT_OK(recipe);
    recipe->stages[0].carried_share = first_carried_share;
    auto vocabulary = Vocabulary::Load(folder_.path());
    EXPECT_OK(vocabulary);
    auto english = Haystack::FromFiles({folder_.File("text.txt")});
    EXPECT_OK(english);
    return std::make_unique<Trainer>(
        SmallConfig(), *recipe,
        LessonData{*vocabulary, *english, Haystack::Noise(), *Tokenizer::Create(SmallConfig(), "")},
        Trainer::Options{.only = only, .threads = threads});
  }
  TempFolder folder_;
};

TEST_F(TrainerTest, AResumedRunGoesOnToTheBit) {
  const auto whole = NewTrainer();
  std::vector<double> losses;
  for (int i = 0; i < 14; ++i) losses.push_back(whole->Step().text_loss);
  for (const int cut : {3, 9}) {
    const auto first = NewTrainer();
    for (int i = 0; i < cut; ++i) EXPECT_EQ(first->Step().text_loss, losses[i]);
    ASSERT_OK(first->SaveCheckpoint(folder_.File("checkpoint")));
    const auto second = NewTrainer();
    ASSERT_OK(second->LoadCheckpoint(folder_.File("checkpoint")));
    for (int i = cut; i < 14; ++i) EXPECT_EQ(second->Step().text_loss, losses[i]) << "step " << i << " after " << cut;
    ASSERT_OK(whole->ExportModel(folder_.path()));
    const auto expected = ReadFile(folder_.File("model.safetensors"));
    ASSERT_OK(second->ExportModel(folder_.path()));
    EXPECT_EQ(*ReadFile(folder_.File("model.safetensors")), *expected);
  }
}

TEST_F(TrainerTest, TheNumberOfThreadsChangesNoBit) {
  const auto one = NewTrainer(1), three = NewTrainer(3);
  for (int i = 0; i < 10; ++i) {
    const Trainer::StepReport a = one->Step(), b = three->Step();
    EXPECT_EQ(a.text_loss, b.text_loss) << "step " << i;
    EXPECT_EQ(a.answer_loss, b.answer_loss) << "step " << i;
    EXPECT_EQ(a.gradient_norm, b.gradient_norm) << "step " << i;
  }
}

TEST_F(TrainerTest, OnlyTheNamedWeightsChange) {
  const auto trainer = NewTrainer(2, {"memory.gates", "head.weight"});
  const auto weights = [&] {
    EXPECT_OK(trainer->ExportModel(folder_.path()));
    const std::string file = *ReadFile(folder_.File("model.safetensors"));
    std::map<std::string, std::vector<float>> values;
    const absl::StatusOr<std::vector<NamedTensor>> tensors = LoadParameters(SmallConfig(), file);
    EXPECT_OK(tensors);
    for (const NamedTensor& one : *tensors) values[one.name] = one.values;
    return values;
  };
  const auto before = weights();
  for (int i = 0; i < 8; ++i) trainer->Step();  // into the second stage, which has drills
  for (const auto& [name, values] : weights()) {
    const bool is_named = name.find("memory.gates") != std::string::npos || name == "head.weight";
    EXPECT_EQ(values != before.at(name), is_named) << name;
  }
}

TEST_F(TrainerTest, LossFallsAndTheModelLoads) {
  const auto trainer = NewTrainer();
  const double first = trainer->Step().text_loss;
  double last = first;
  for (int i = 0; i < 15; ++i) last = trainer->Step().text_loss;
  EXPECT_LT(last, first - 0.3);
  ASSERT_OK(trainer->ExportModel(folder_.path()));
  EXPECT_OK(Model::Load(folder_.path(), {}));
}

TEST_F(TrainerTest, ACarriedLessonBeginsWhereTheLastOneEnded) {
  const auto fresh = NewTrainer(), carried = NewTrainer(2, {}, 1);
  // Lessons of a step each: the first begins anew, the second reads the same text in another state.
  EXPECT_EQ(fresh->Step().text_loss, carried->Step().text_loss);
  EXPECT_NE(fresh->Step().text_loss, carried->Step().text_loss);
}

TEST_F(TrainerTest, ADamagedCheckpointIsRefused) {
  const auto trainer = NewTrainer();
  ASSERT_OK(trainer->SaveCheckpoint(folder_.File("checkpoint")));
  const std::string bytes = *ReadFile(folder_.File("checkpoint"));
  ASSERT_OK(WriteFileAtomically(folder_.File("checkpoint"), bytes.substr(0, bytes.size() / 2)));
  EXPECT_THAT(trainer->LoadCheckpoint(folder_.File("checkpoint")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("checkpoint")));
}

TEST(TrainerCheck, ErrorsNameTheKey) {
  const Recipe recipe = *ParseRecipe(kRecipe);
  EXPECT_OK(Trainer::Check(SmallConfig(), recipe));
  const auto refused = [](const ModelConfig& config, const Recipe& with, const std::string& what) {
    EXPECT_THAT(Trainer::Check(config, with), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what)));
  };
  ModelConfig config = SmallConfig();
  config.memory.conv = 2;
  refused(config, recipe, "'memory.conv' is 2");
  config = SmallConfig();
  config.tokenizer.kind = TokenizerKind::kNone;
  refused(config, recipe, "'bytes'");
  Recipe odd = recipe;
  odd.segment_tokens += 1;
  refused(SmallConfig(), odd, "'segment_tokens' is 257");
  Recipe narrow = recipe;
  narrow.segment_tokens = 128;
  refused(SmallConfig(), narrow, "'drill_facts' is not 0");
  config = SmallConfig();
  config.blocks = {BlockKind::kSwa, BlockKind::kMac};
  refused(config, recipe, "'drill_facts' is not 0");
  EXPECT_THAT(Trainer::Check(SmallConfig(), recipe, {"memory.gates", "memory.doors"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'memory.doors'")));
}

TEST(Recipe, ErrorsNameTheKey) {
  const auto change = [](const std::string& from, const std::string& to) {
    std::string text = kRecipe;
    text.replace(text.find(from), from.size(), to);
    return ParseRecipe(text).status();
  };
  EXPECT_THAT(change("\"rows\": 6,", ""), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'rows'")));
  EXPECT_THAT(change("\"rows\": 6", "\"rows\": 0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'rows' is 0")));
  EXPECT_THAT(change("\"rows\": 6", "\"rows\": 6, \"cols\": 2"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'cols'")));
  EXPECT_THAT(change("\"min_facts\"", "\"few_facts\""),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stages[0].")));
  EXPECT_THAT(change("\"uuid\": 0.2", "\"uuid\": -1"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stages[0].tasks.uuid")));
  EXPECT_THAT(change("\"uuid\"", "\"qa9\""),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tasks.qa9' is unknown")));
  EXPECT_THAT(ParseRecipe("[]"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("object")));
}

}  // namespace
}  // namespace mnemosyne
