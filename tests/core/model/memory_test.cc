// The chunk form of the memory against the plain recurrence, one token at a time with every weight formed, in double
// precision; and its derivatives against finite differences.
#include "core/model/memory.h"

#include "core/model/convolution.h"
#include "core/model/tensor_ops.h"
#include "tests/core/model/model_fixture.h"

namespace mnemosyne {
namespace {

using at::Tensor;

ModelConfig RandomMemoryConfig(std::mt19937_64& random, int64_t depth, int64_t chunk) {
  ModelConfig config;
  config.dim = 12;
  config.norm_eps = 1e-6;
  config.memory = {.heads = 1 + static_cast<int64_t>(random() % 3),
                   .head_dim = 4 + static_cast<int64_t>(random() % 5),
                   .depth = depth,
                   .hidden = 3 + static_cast<int64_t>(random() % 8),
                   .chunk = chunk,
                   .conv = 1 + static_cast<int64_t>(random() % 4),
                   .theta_max = 0.05,
                   .momentum = random() % 4 != 0,
                   .decay = random() % 4 != 0,
                   .residual = random() % 2 == 0,
                   .max_grad_norm = random() % 2 == 0 ? 0.0 : 0.7};
  return config;
}

MemoryParameters RandomMemoryParameters(const ModelConfig& config) {
  const MemoryConfig& m = config.memory;
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const auto normal = [&](at::IntArrayRef shape, double scale) { return scale * at::randn(shape, options); };
  MemoryParameters p;
  const double in_scale = 1.0 / std::sqrt(static_cast<double>(config.dim));
  p.in_weight = normal({4 * m.inner() + 3 * m.heads, config.dim}, in_scale);
  p.gates_bias = at::cat(
      {at::full({m.heads}, -1.0, options), at::full({m.heads}, 0.5, options), at::full({m.heads}, -3.0, options)});
  p.conv_weight = normal({3 * m.inner(), m.conv}, 0.7);
  p.conv_bias = normal({3 * m.inner()}, 0.1);
  for (int64_t l = 0; l < m.depth; ++l) {
    p.init.push_back(normal({m.heads, m.out(l), m.in(l)}, 1.0 / std::sqrt(static_cast<double>(m.in(l)))));
  }
  p.norm = 1.0 + normal({m.head_dim}, 0.2);
  p.out = normal({config.dim, m.inner()}, 1.0 / std::sqrt(static_cast<double>(m.inner())));
  p.q_context = normal({m.inner(), config.dim}, in_scale);
  return p;
}

// Equations 13 to 15 as they stand, for one session and one head: every token's weights are formed.
struct Recurrence {
  std::vector<Tensor> weights, velocity;  // [out, in] a layer
  std::vector<Tensor> read;               // [d] a token
  std::vector<double> surprise;
};

Tensor Mlp(const std::vector<Tensor>& weights, Tensor x, bool residual) {
  const Tensor input = x;
  for (size_t l = 0; l < weights.size(); ++l) {
    x = weights[l].matmul(x);
    if (l + 1 < weights.size()) x = at::silu(x);
  }
  return residual ? x + input : x;
}

Recurrence RunRecurrence(const MemoryConfig& config, const std::vector<Tensor>& init, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& theta, const Tensor& eta, const Tensor& alpha) {
  Recurrence run;
  run.weights = init;
  for (const Tensor& w : init) run.velocity.push_back(at::zeros_like(w));
  std::vector<Tensor> frozen;
  for (int64_t t = 0; t < k.size(0); ++t) {
    if (t % config.chunk == 0) frozen = run.weights;
    // The gradient comes from autograd, not from a formula of ours.
    std::vector<Tensor> leaves;
    for (const Tensor& w : frozen) leaves.push_back(w.detach().clone().requires_grad_(true));
    const Tensor error = Mlp(leaves, k[t], config.residual) - v[t];
    const Tensor loss = error.dot(error);
    loss.backward();
    run.surprise.push_back(loss.item<double>());
    double squares = 0;
    for (const Tensor& leaf : leaves) squares += leaf.grad().pow(2).sum().item<double>();
    double step = theta[t].item<double>();
    if (config.max_grad_norm > 0) step *= std::min(1.0, config.max_grad_norm / std::sqrt(squares));
    for (size_t l = 0; l < leaves.size(); ++l) {
      run.velocity[l] = eta[t] * run.velocity[l] - step * leaves[l].grad();
      run.weights[l] = (1 - alpha[t]) * run.weights[l] + run.velocity[l];
    }
    run.read.push_back(Mlp(run.weights, q[t], config.residual));
  }
  return run;
}

TEST(NeuralMemory, ChunkFormIsTheRecurrence) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  at::manual_seed(seed);
  for (const int64_t depth : {1, 2, 3}) {
    for (const int64_t chunk : {1, 2, 3, 8, 16, 33, 64}) {
      const ModelConfig config = RandomMemoryConfig(random, depth, chunk);
      const MemoryConfig& m = config.memory;
      const MemoryParameters p = RandomMemoryParameters(config);
      const NeuralMemory memory(config, p);
      const int64_t tokens = 40 + random() % 60, heads = m.heads, d = m.head_dim, inner = m.inner();
      const Tensor x = at::randn({1, tokens, config.dim}, at::kDouble);

      MemoryState state = memory.InitialState(1);
      NeuralMemory::Output out;
      Tensor read, surprise;
      {
        const at::NoGradGuard no_grad;
        out = memory.Forward(x, &state);
        state = memory.Closed(state);
      }

      // The projections, by the formulas of model.md, straight.
      const Tensor projected = x[0].matmul(p.in_weight.t());
      const Tensor padded =
          at::cat({at::zeros({m.conv - 1, 3 * inner}, at::kDouble), projected.narrow(1, 0, 3 * inner)});
      std::vector<Tensor> rows;
      for (int64_t t = 0; t < tokens; ++t) {
        rows.push_back((padded.narrow(0, t, m.conv).t() * p.conv_weight).sum(1) + p.conv_bias);
      }
      const Tensor convolved = at::silu(at::stack(rows)).view({tokens, 3, heads, d});
      const Tensor gates =
          (projected.narrow(1, 4 * inner, 3 * heads) + p.gates_bias).view({tokens, 3, heads}).sigmoid();
      std::vector<Tensor> reads;
      for (int64_t h = 0; h < heads; ++h) {
        const auto unit = [](const Tensor& t) { return t / t.norm(2, {-1}, true).clamp_min(1e-12); };
        std::vector<Tensor> init;
        for (const Tensor& w : p.init) init.push_back(w[h]);
        const Tensor zero = at::zeros({tokens}, at::kDouble);
        const Recurrence run = RunRecurrence(
            m, init, unit(convolved.select(1, 0).select(1, h)), unit(convolved.select(1, 1).select(1, h)),
            convolved.select(1, 2).select(1, h), m.theta_max * gates.select(1, 0).select(1, h),
            m.momentum ? gates.select(1, 1).select(1, h) : zero, m.decay ? gates.select(1, 2).select(1, h) : zero);
        for (int64_t l = 0; l < depth; ++l) {
          EXPECT_LE(RelativeError(state.weights[l][h], run.weights[l]), 1e-11)
              << "depth " << depth << " chunk " << chunk;
          EXPECT_LE(RelativeError(state.velocity[l][h], run.velocity[l]), 1e-11)
              << "depth " << depth << " chunk " << chunk;
        }
        EXPECT_LE(RelativeError(out.surprise[0].select(1, h), at::tensor(run.surprise, at::kDouble)), 1e-11);
        reads.push_back(RmsNorm(at::stack(run.read), p.norm, config.norm_eps));
      }
      const Tensor gated = at::cat(reads, 1) * projected.narrow(1, 3 * inner, inner).sigmoid();
      EXPECT_LE(RelativeError(out.read[0], gated.matmul(p.out.t())), 1e-11) << "depth " << depth << " chunk " << chunk;
    }
  }
}

TEST(NeuralMemory, DerivativesAreThoseOfFiniteDifferences) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  at::manual_seed(seed);
  for (const int64_t depth : {1, 2, 3}) {
    for (const int64_t chunk : {1, 5, 16}) {
      const ModelConfig config = RandomMemoryConfig(random, depth, chunk);
      MemoryParameters p = RandomMemoryParameters(config);
      const Tensor x = at::randn({2, 23, config.dim}, at::kDouble);
      const Tensor weight_of_read = at::randn({2, 23, config.dim}, at::kDouble);
      std::vector<Tensor*> leaves = {&p.in_weight, &p.gates_bias, &p.conv_weight, &p.conv_bias, &p.norm, &p.out};
      for (Tensor& init : p.init) leaves.push_back(&init);
      // A number that everything contributes to: reads, surprises, and the memory that is left.
      const auto value = [&] {
        const NeuralMemory memory(config, p);
        MemoryState state = memory.InitialState(2);
        const NeuralMemory::Output out = memory.Forward(x, &state);
        Tensor total = (out.read * weight_of_read).sum() + 0.1 * out.surprise.sum();
        for (const Tensor& w : memory.Closed(state).weights) total = total + (w * w).sum();
        return total;
      };
      for (Tensor* leaf : leaves) leaf->requires_grad_(true);
      value().backward();
      const at::NoGradGuard no_grad;
      for (Tensor* leaf : leaves) {
        for (int probe = 0; probe < 4; ++probe) {
          Tensor flat = leaf->view({-1});
          const int64_t i = random() % flat.numel();
          const double at_i = flat[i].item<double>(), h = 1e-6;
          flat[i] = at_i + h;
          const double above = value().item<double>();
          flat[i] = at_i - h;
          const double below = value().item<double>();
          flat[i] = at_i;
          const double expected = (above - below) / (2 * h), got = leaf->grad().view({-1})[i].item<double>();
          EXPECT_NEAR(got, expected, 2e-5 * std::max(1.0, std::abs(expected)))
              << "depth " << depth << " chunk " << chunk;
        }
      }
    }
  }
}

// The kernels' convolution and its derivative, against LibTorch's in double.
TEST(NeuralMemory, ConvolutionInFloatAgreesWithDouble) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  at::manual_seed(seed);
  for (int round = 0; round < 20; ++round) {
    const int64_t sessions = 1 + random() % 3, tokens = 1 + random() % 90, kinds = 1 + random() % 3,
                  heads = 1 + random() % 3, width = 1 + random() % 70, taps = 1 + random() % 33,
                  channels = kinds * heads * width;
    const Tensor history = at::randn({sessions, taps - 1 + tokens, channels}, at::kDouble),
                 weight = at::randn({channels, taps}, at::kDouble), bias = at::randn({channels}, at::kDouble),
                 by_out = at::randn({kinds, sessions * heads, tokens, width}, at::kDouble);
    const auto run = [&](at::ScalarType type) {
      std::vector<Tensor> leaves;
      for (const Tensor& one : {history, weight, bias}) leaves.push_back(one.to(type).detach().requires_grad_(true));
      const Tensor out = CausalConvolution(leaves[0], leaves[1], leaves[2], heads, width);
      (out * by_out.to(type)).sum().backward();
      return std::vector<Tensor>{out.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
    };
    const std::vector<Tensor> got = run(at::kFloat), expected = run(at::kDouble);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].sizes(), expected[i].sizes());
      EXPECT_LE(RelativeError(got[i].to(at::kDouble), expected[i]), 1e-5) << "of " << i << ", taps " << taps;
    }
  }
}

// Against Forward: what it says it used, and for the values the loss before anything was written, |M_0(k) - v|^2.
TEST(NeuralMemory, QueriesKeysAndValuesAreThoseOfForward) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  at::manual_seed(seed);
  for (int i = 0; i < 20; ++i) {
    const int64_t tokens = 1 + random() % 12, sessions = 1 + random() % 3;
    ModelConfig config = RandomMemoryConfig(random, /*depth=*/1, /*chunk=*/tokens);
    config.memory.residual = false;
    MemoryParameters parameters = RandomMemoryParameters(config);
    parameters.init[0].zero_();
    const NeuralMemory memory(config, parameters);
    const Tensor x = at::randn({sessions, tokens, config.dim}, at::kDouble);
    const Tensor padded = at::cat({at::zeros({sessions, config.memory.conv - 1, config.dim}, at::kDouble), x}, 1);
    MemoryState state = memory.InitialState(sessions);
    const NeuralMemory::Output out = memory.Forward(x, &state);
    EXPECT_TRUE(memory.Queries(padded).allclose(out.queries, 1e-9, 1e-12));
    EXPECT_TRUE(memory.Keys(padded).allclose(out.keys, 1e-9, 1e-12));
    const Tensor lengths = memory.Values(padded).pow(2).sum(-1).transpose(1, 2);  // [N, T, H]
    EXPECT_TRUE(lengths.allclose(out.surprise, 1e-9, 1e-12));
  }
}

TEST(NeuralMemory, AStateIsNeverChangedInPlace) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  at::manual_seed(seed);
  const at::NoGradGuard no_grad;
  const ModelConfig config = RandomMemoryConfig(random, 2, 4);
  const NeuralMemory memory(config, RandomMemoryParameters(config));
  const MemoryState first = memory.InitialState(1);
  const Tensor weights = first.weights[0].clone(), velocity = first.velocity[0].clone();
  MemoryState next = first;
  memory.Forward(at::randn({1, 11, config.dim}, at::kDouble), &next);
  EXPECT_TRUE(at::equal(first.weights[0], weights));
  EXPECT_TRUE(at::equal(first.velocity[0], velocity));
  EXPECT_FALSE(at::equal(next.weights[0], weights));
}

}  // namespace
}  // namespace mnemosyne
