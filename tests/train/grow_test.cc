#include "train/grow.h"

#include <gtest/gtest.h>

#include "core/model/parameters.h"
#include "core/model/titans.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "train/initial_weights.h"

namespace mnemosyne {
namespace {

using at::Tensor;
using testing::HasSubstr;

std::vector<NamedTensor> Named(const ModelConfig& config, const std::map<std::string, Tensor>& weights) {
  std::vector<NamedTensor> out;
  for (const ParameterShape& one : ParameterShapes(config)) {
    const Tensor value = weights.at(one.name).contiguous();
    out.push_back({one.name, one.shape, {value.data_ptr<float>(), value.data_ptr<float>() + value.numel()}});
  }
  return out;
}

Tensor Logits(const ModelConfig& config, const std::map<std::string, Tensor>& weights, const Tensor& tokens) {
  const Titans titans(config, weights);
  BatchState state = titans.InitialState(tokens.size(0));
  return titans.Forward(tokens, &state, Titans::Logits::kAll).logits;
}

TEST(Grow, TheLargerModelComputesTheSame) {
  const ModelConfig small = SmallConfig();  // swa lmm mag
  at::manual_seed(5);
  const auto trained = InitialWeights(small, -3, /*echo=*/false, {});
  const Tensor tokens = at::randint(small.vocab_size, {3, 40});
  const Tensor expected = Logits(small, trained, tokens);
  ModelConfig large = small;
  large.ff_dim = 40;
  using enum BlockKind;
  for (const std::vector<BlockKind>& blocks : std::vector<std::vector<BlockKind>>{
           {kSwa, kLmm, kMag}, {kSwa, kSwa, kLmm, kMag, kMal}, {kMac, kSwa, kLmm, kLmm, kMag, kMag}}) {
    large.blocks = blocks;
    auto weights = InitialWeights(large, -3, /*echo=*/false, {});
    ASSERT_OK(GrowWeights(small, Named(small, trained), large, &weights));
    const Tensor grown = Logits(large, weights, tokens);
    EXPECT_LT((grown - expected).abs().max().item<double>(), 1e-5);
  }
}

TEST(Grow, PersistentTokensCanBeDropped) {
  const ModelConfig with = SmallConfig();
  ASSERT_GT(with.persistent, 0);
  ModelConfig without = with;
  without.persistent = 0;
  const auto trained = InitialWeights(with, -3, /*echo=*/false, {});
  auto weights = InitialWeights(without, -3, /*echo=*/false, {});
  ASSERT_OK(GrowWeights(with, Named(with, trained), without, &weights));
  for (const auto& [name, weight] : weights) EXPECT_TRUE(weight.equal(trained.at(name))) << name;
}

TEST(Grow, ErrorsNameWhatDiffers) {
  const ModelConfig small = SmallConfig();
  const auto trained = Named(small, InitialWeights(small, -3, /*echo=*/false, {}));
  const auto refused = [&](const ModelConfig& large, const std::string& what) {
    auto weights = InitialWeights(large, -3, /*echo=*/false, {});
    EXPECT_THAT(GrowWeights(small, trained, large, &weights),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what)));
  };
  ModelConfig large = small;
  large.blocks = {BlockKind::kSwa, BlockKind::kMag, BlockKind::kLmm};
  refused(large, "block 2, mag");
  large = small;
  large.window += 1;
  refused(large, "'ff_dim'");
  large = small;
  large.persistent += 1;
  refused(large, "'persistent'");
  large = small;
  large.ff_dim -= 1;
  refused(large, "'ff_dim'");
}

}  // namespace
}  // namespace mnemosyne
