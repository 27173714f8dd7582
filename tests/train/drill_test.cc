#include "train/drill.h"

#include <gtest/gtest.h>

#include "core/base/file.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "tests/train/train_folder.h"
#include "train/initial_weights.h"

namespace mnemosyne {
namespace {

using at::Tensor;

class DrillTest : public TrainFolderTest {
 protected:
  Drill Make(const DocumentOptions& options, int64_t facts) {
    return MakeDrill(options, facts, 256, Words(), English(), Haystack::Noise(), random_);
  }
  // The block before the memory sees far enough for names, so that there is something to find.
  static ModelConfig Config() {
    ModelConfig config = SmallConfig();
    config.window = 32;
    config.memory.conv = 8;
    return config;
  }
  Random random_{7};
};

TEST_F(DrillTest, AsksForWhatIsTold) {
  for (const double numbers : {1.0, 0.0}) {
    for (int i = 0; i < 10; ++i) {
      const Drill drill = Make({.facts = {.number = numbers, .word = 0.5}}, 12);
      ASSERT_EQ(drill.told.size(0), 12);
      ASSERT_EQ(drill.asked.size(0), 12);
      EXPECT_EQ(drill.tokens.size(1), 256);
      EXPECT_EQ(drill.fact.max().item<int64_t>(), 11);
      const Tensor tokens = drill.tokens.flatten();
      const Tensor told = tokens.index_select(0, drill.told.index_select(0, drill.fact) + drill.place);
      const Tensor asked = tokens.index_select(0, drill.asked.index_select(0, drill.fact) + drill.place);
      EXPECT_TRUE(told.equal(asked));
      EXPECT_GE((drill.told % 256).min().item<int64_t>(), kDrillReach);
    }
  }
}

TEST_F(DrillTest, ScoresTheKeysThatReadingWrites) {
  const ModelConfig config = Config();
  at::manual_seed(3);
  const Titans titans(config, InitialWeights(config, -3, /*echo=*/true, std::vector<int32_t>(kCenteringTokens, 'x')));
  const Drill drill = Make({.facts = {.number = 0.8, .word = 0.2}}, 20);
  const DrillScore score = ScoreDrill(titans, config.memory.conv, drill);

  BatchState state = titans.InitialState(drill.tokens.size(0));
  const Titans::Output read = titans.Forward(drill.tokens, &state, Titans::Logits::kAll);
  const auto flat = [](const Tensor& vectors) { return vectors.permute({1, 0, 2, 3}).flatten(1, 2); };  // [H, N T, d]
  const Tensor told = drill.told.index_select(0, drill.fact) + drill.place;
  const Tensor asked = drill.asked.index_select(0, drill.fact) + drill.place - 1;
  const Tensor common = flat(read.queries[0])
                            .index_select(1, asked)
                            .bmm(flat(read.keys[0]).index_select(1, told).transpose(1, 2))
                            .mean(0);
  const int64_t n = common.size(0);
  double found = 0, noise = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double own = common[i][i].item<double>();
    double others = 0;
    for (int64_t j = 0; j < n; ++j) {
      if (j != i) others += std::pow(common[i][j].item<double>(), 2);  // 20 facts: each counts once
    }
    noise += others / std::pow(std::max(0.1, own), 2) / static_cast<double>(n);
    found += common[i].argmax().item<int64_t>() == i ? 1.0 / static_cast<double>(n) : 0;
  }
  EXPECT_GT(score.confused, 0);
  EXPECT_NEAR(score.found, found, 1e-5);
  EXPECT_NEAR(score.noise, noise, 1e-3 * noise);
  EXPECT_GT(score.loss.item<double>(), noise + score.confused);
}

TEST_F(DrillTest, ItsGradientLowersTheLoss) {
  const ModelConfig config = Config();
  at::manual_seed(4);
  auto weights = InitialWeights(config, -3, /*echo=*/true, std::vector<int32_t>(kCenteringTokens, 'x'));
  const Drill drill = Make({.facts = {.number = 1}}, 8);
  for (auto& [name, weight] : weights) weight.requires_grad_(true);
  const Tensor before = ScoreDrill(Titans(config, weights), config.memory.conv, drill).loss;
  before.backward();
  const at::NoGradGuard no_grad;
  for (auto& [name, weight] : weights) {
    if (weight.grad().defined()) weight.sub_(1e-4 * weight.grad() / weight.grad().norm().clamp_min(1e-12));
  }
  EXPECT_LT(ScoreDrill(Titans(config, weights), config.memory.conv, drill).loss.item<double>(), before.item<double>());
}

}  // namespace
}  // namespace mnemosyne
