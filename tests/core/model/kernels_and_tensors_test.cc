// A model computed by core/kernels (float32, no gradients) against the same model computed by LibTorch's operators in
// double precision: what it reads, what it is surprised by, what it keeps; however its tokens are cut.
#include "core/model/tensor_ops.h"
#include "core/model/titans.h"
#include "tests/core/model/model_fixture.h"
#include "tests/core/model/random_model.h"

namespace mnemosyne {
namespace {

using at::Tensor;

// Wide enough for several vectors and panels, and of odd sizes.
ModelConfig RandomWideConfig(std::mt19937_64& random) {
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % (high - low + 1));
  };
  ModelConfig config = RandomConfig(random);
  config.heads = between(1, 4);
  config.dim = 2 * config.heads * between(4, 24);
  config.ff_dim = between(10, 150);
  config.window = between(1, 150);
  config.memory.chunk = between(1, 70);
  config.segment = config.memory.chunk * between(1, 2);
  config.memory.head_dim = between(1, 80);
  config.memory.hidden = between(1, 100);
  config.memory.conv = between(1, 33);
  return config;
}

// Steps so small that rounding does not grow: what is compared is the arithmetic, not two ways into chaos.
ModelConfig Tamed(ModelConfig config) {
  config.memory.max_grad_norm = 1;
  config.memory.theta_max = 0.2 / config.memory.chunk;
  return config;
}

struct Reading {
  Tensor logits, surprise, write;
  BatchState state;
};

Reading Read(const Titans& titans, const Tensor& tokens, const std::vector<int64_t>& sizes) {
  const at::NoGradGuard no_grad;
  Reading reading;
  reading.state = titans.InitialState(tokens.size(0));
  std::vector<Tensor> logits, surprise, write;
  int64_t done = 0;
  for (const int64_t size : sizes) {
    const Titans::Output out = titans.Forward(tokens.narrow(1, done, size), &reading.state, Titans::Logits::kAll);
    logits.push_back(out.logits);
    surprise.push_back(out.surprise);
    write.push_back(out.write);
    done += size;
  }
  reading.logits = at::cat(logits, 1);
  reading.surprise = at::cat(surprise, 1);
  reading.write = at::cat(write, 1);
  return reading;
}

std::vector<int64_t> Cuts(int64_t tokens, int64_t longest, std::mt19937_64& random) {
  std::vector<int64_t> sizes;
  for (int64_t rest = tokens; rest > 0; rest -= sizes.back()) {
    sizes.push_back(std::min<int64_t>(rest, 1 + random() % longest));
  }
  return sizes;
}

TEST(KernelsAndTensors, MatricesThatLieAcrossComeInOrder) {
  const at::NoGradGuard no_grad;
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 50; ++round) {
    const auto below = [&](int64_t n) { return 1 + static_cast<int64_t>(random() % n); };
    const Tensor across = at::randn({below(4), below(70), below(70)}).transpose(1, 2);
    const Tensor in_order = InOrder(across);
    EXPECT_TRUE(in_order.is_contiguous());
    EXPECT_TRUE(at::equal(in_order, across));
  }
}

TEST(KernelsAndTensors, AgreeOnRandomModels) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 40; ++round) {
    const ModelConfig config = Tamed(round % 2 == 0 ? RandomConfig(random) : RandomWideConfig(random));
    SCOPED_TRACE(FormatModelConfig(config));
    const auto exact_weights = RandomParameters(config, seed + round, at::kDouble);
    std::map<std::string, Tensor> weights;
    for (const auto& [name, tensor] : exact_weights) weights[name] = tensor.to(at::kFloat);
    const int64_t tokens = 1 + random() % 200, sessions = 1 + random() % 3;
    const Tensor ids = at::randint(256, {sessions, tokens}, at::kLong);

    const Titans exact(config, exact_weights);
    const Reading expected = Read(exact, ids, {tokens});
    const at::NoGradGuard no_grad;  // Titans made here uses kernels
    const Titans titans(config, weights);
    for (const auto& sizes :
         {std::vector<int64_t>{tokens}, std::vector<int64_t>(tokens, 1), Cuts(tokens, 100, random)}) {
      const Reading got = Read(titans, ids, sizes);
      EXPECT_LE(RelativeError(got.logits, expected.logits), 1e-3);
      EXPECT_LE(RelativeError(got.surprise, expected.surprise), 1e-3);
      EXPECT_LE(RelativeError(got.write, expected.write), 1e-3);
      for (size_t i = 0; i < config.blocks.size(); ++i) {
        const BlockState& is = got.state.blocks[i];
        const BlockState& should = expected.state.blocks[i];
        if (should.window.keys.defined() && should.window.keys.numel() > 0 && tokens >= config.window) {
          EXPECT_LE(RelativeError(is.window.keys, should.window.keys), 1e-3);
          EXPECT_LE(RelativeError(is.window.values, should.window.values), 1e-3);
        }
        if (!HasMemory(config.blocks[i])) continue;
        if (config.memory.conv > 1) {
          EXPECT_LE(RelativeError(is.memory.conv_tail, should.memory.conv_tail), 1e-3);
        }
        EXPECT_EQ(is.memory.open.tokens, should.memory.open.tokens);
        const MemoryState closed = titans.Memory(got.state, i), closed_exact = exact.Memory(expected.state, i);
        for (int64_t l = 0; l < config.memory.depth; ++l) {
          EXPECT_LE(RelativeError(closed.weights[l], closed_exact.weights[l]), 1e-3);
          EXPECT_LE(RelativeError(closed.velocity[l], closed_exact.velocity[l]), 1e-3);
        }
      }
      if (HasFailure()) return;
    }
  }
}

// What a served session's state relies on: the same bits whoever else is in the call.
TEST(KernelsAndTensors, ASessionsBitsDoNotDependOnTheOthers) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const at::NoGradGuard no_grad;
  for (int round = 0; round < 20; ++round) {
    ModelConfig config = Tamed(RandomWideConfig(random));
    std::erase(config.blocks, BlockKind::kMac);  // its segments go through LibTorch's products
    if (config.blocks.empty()) config.blocks = {BlockKind::kMag};
    SCOPED_TRACE(FormatModelConfig(config));
    const Titans titans(config, RandomParameters(config, seed + round));
    const int64_t tokens = 1 + random() % 150;
    const Tensor ids = at::randint(256, {4, tokens}, at::kLong);
    BatchState together = titans.InitialState(4);
    const Tensor logits = titans.Forward(ids, &together, Titans::Logits::kAll).logits;
    for (int64_t n = 0; n < 4; ++n) {
      BatchState alone = titans.InitialState(1);
      EXPECT_TRUE(at::equal(titans.Forward(ids.narrow(0, n, 1), &alone, Titans::Logits::kAll).logits[0], logits[n]));
    }
  }
}

}  // namespace
}  // namespace mnemosyne
