#include "bench/engine_bench.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/kernels/product.h"
#include "core/model/memory.h"
#include "core/model/model.h"
#include "core/model/parameters.h"
#include "core/model/titans.h"

namespace mnemosyne {

namespace {

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// G, FLOP/s.
class Reference {
 public:
  double Measure() const {
    const double seconds = Seconds([&] { at::mm_out(product_, left_, right_); });
    return 2.0 * kSize * kSize * kSize / seconds;
  }

 private:
  static constexpr int64_t kSize = 1024;
  const at::Tensor left_ = at::randn({kSize, kSize}), right_ = at::randn({kSize, kSize});
  mutable at::Tensor product_ = at::empty({kSize, kSize});
};

// Measures and tells how fast `step` is, which does `tokens` tokens, if `what` is asked for.
absl::Status Tell(const EngineBenchOptions& options, const std::string& what, int64_t tokens, double flops_a_token,
                  const std::function<void()>& step, ResultFile* results) {
  if (!absl::StrContains(what, options.only)) return absl::OkStatus();
  const Reference reference;
  std::vector<double> tokens_per_second, percent_of_g;
  step();
  const int steps = std::max(1, static_cast<int>(options.seconds / Seconds(step)));
  reference.Measure();
  for (int i = 0; i < options.repeats; ++i) {
    const double before = reference.Measure();
    const double seconds = Seconds([&] {
      for (int s = 0; s < steps; ++s) step();
    });
    const double g = (before + reference.Measure()) / 2;
    tokens_per_second.push_back(static_cast<double>(steps * tokens) / seconds);
    percent_of_g.push_back(100 * tokens_per_second.back() * flops_a_token / g);
  }
  const auto [least, most] = std::minmax_element(tokens_per_second.begin(), tokens_per_second.end());
  const double median = Median(tokens_per_second), share = Median(percent_of_g);
  std::printf("%-62s %9.0f tokens/s (%.0f to %.0f)  %5.2f MFLOP/token  %5.1f%% of G\n", what.c_str(), median, *least,
              *most, flops_a_token / 1e6, share);
  std::fflush(stdout);
  return results->Add({{"what", what}}, {{"tokens_per_second", median},
                                         {"least_tokens_per_second", *least},
                                         {"most_tokens_per_second", *most},
                                         {"flops_a_token", flops_a_token},
                                         {"percent_of_g", share}});
}

// Of one token in one memory layer, products alone: the projections; and per head and MLP layer the key's and the
// query's way through M, the query's through S, the updates of both, the error's way back (11 times the weights, taken
// alike for all depths), and the products inside a chunk.
double MemoryFlops(const ModelConfig& config) {
  const MemoryConfig& memory = config.memory;
  double flops = 2.0 * config.dim * (5 * memory.inner() + 3 * memory.heads);
  for (int64_t l = 0; l < memory.depth; ++l) {
    const double weights = memory.in(l)*memory.out(l);
    flops += memory.heads * (11 * weights + 2 * memory.chunk * (memory.in(l) + memory.out(l)));
  }
  return flops;
}

// Without the head, which a block step does not need, and the convolutions, which are no products.
double ModelFlops(const ModelConfig& config) {
  double flops = 0;
  for (const BlockKind kind : config.blocks) {
    flops += 2.0 * 3 * config.dim * config.ff_dim;
    if (HasMemory(kind)) flops += MemoryFlops(config);
    if (HasAttention(kind)) {
      const int64_t keys = (kind == BlockKind::kMac ? 2 * config.segment : config.window) + config.persistent;
      flops += 2.0 * 4 * config.dim * config.dim + 4.0 * keys * config.dim;
    }
    if (kind == BlockKind::kMac) {
      flops += 2.0 * (2 * config.dim * config.dim + 3 * config.dim * config.memory.inner());
      for (int64_t l = 0; l < config.memory.depth; ++l) {
        flops += 2.0 * config.memory.heads * config.memory.in(l)*config.memory.out(l);
      }
    }
    if (HasMemory(kind) && HasAttention(kind) && config.gate == GateKind::kMix && kind != BlockKind::kMal) {
      flops += 4.0 * config.dim * config.dim;
    }
  }
  return flops;
}

MemoryParameters RandomMemory(const ModelConfig& config) {
  const MemoryConfig& memory = config.memory;
  const auto random = [](at::IntArrayRef shape, double scale) { return scale * at::randn(shape); };
  const double in_scale = 1.0 / std::sqrt(static_cast<double>(config.dim));
  MemoryParameters p;
  p.in_weight = random({4 * memory.inner() + 3 * memory.heads, config.dim}, in_scale);
  p.gates_bias = at::full({3 * memory.heads}, -4.0);
  p.conv_weight = random({3 * memory.inner(), memory.conv}, 0.5);
  p.conv_bias = at::zeros({3 * memory.inner()});
  for (int64_t l = 0; l < memory.depth; ++l) {
    p.init.push_back(
        random({memory.heads, memory.out(l), memory.in(l)}, 1.0 / std::sqrt(static_cast<double>(memory.in(l)))));
  }
  p.norm = at::ones({memory.head_dim});
  p.out = random({config.dim, memory.inner()}, 1.0 / std::sqrt(static_cast<double>(memory.inner())));
  return p;
}

// What models/recall multiplies by, our way and the BLAS's; a token is a row.
absl::Status BenchProducts(const EngineBenchOptions& options, ResultFile* results) {
  struct Shape {
    int64_t rows, inputs, outputs;
  };
  for (const Shape& shape :
       {Shape{64, 128, 3072}, Shape{64, 128, 384}, Shape{64, 1024, 128}, Shape{1, 128, 3072}, Shape{1, 1024, 128}}) {
    const at::Tensor x = at::randn({shape.rows, shape.inputs}), weight = at::randn({shape.outputs, shape.inputs});
    const PackedMatrix packed(weight.data_ptr<float>(), shape.outputs, shape.inputs);
    at::Tensor y = at::empty({shape.rows, shape.outputs});
    const double flops = 2.0 * shape.inputs * shape.outputs;
    const std::string what = absl::StrCat("product, ", shape.rows, " rows, ", shape.inputs, " to ", shape.outputs);
    const auto ours = [&] {
      Multiply(x.data_ptr<float>(), shape.inputs, packed, shape.rows, y.data_ptr<float>(), shape.outputs);
    };
    const auto by_blas = [&] { at::mm_out(y, x, weight.t()); };
    RETURN_IF_ERROR(Tell(options, what, shape.rows, flops, ours, results));
    RETURN_IF_ERROR(Tell(options, absl::StrCat(what, ", by the BLAS"), shape.rows, flops, by_blas, results));
  }
  return absl::OkStatus();
}

absl::Status BenchMemory(const EngineBenchOptions& options, ResultFile* results) {
  struct Shape {
    int64_t depth, hidden, chunk;
  };
  for (const Shape& shape :
       {Shape{2, 256, 64}, Shape{2, 128, 64}, Shape{1, 64, 64}, Shape{2, 256, 16}, Shape{1, 64, 16}}) {
    for (const int64_t sessions : {1, 8}) {
      ModelConfig config;
      config.dim = 256;
      config.memory = {.heads = 4,
                       .head_dim = 64,
                       .depth = shape.depth,
                       .hidden = shape.hidden,
                       .chunk = shape.chunk,
                       .conv = 4,
                       .theta_max = 0.01,
                       .max_grad_norm = 1};
      const NeuralMemory memory(config, RandomMemory(config));
      const at::Tensor x = at::randn({sessions, 64, config.dim});
      MemoryState state = memory.InitialState(sessions);
      const std::string what = absl::StrCat("memory, depth ", shape.depth, ", hidden ", shape.hidden, ", chunk ",
                                            shape.chunk, ", sessions ", sessions);
      const auto step = [&] { memory.Forward(x, &state); };
      RETURN_IF_ERROR(Tell(options, what, sessions * 64, MemoryFlops(config), step, results));
    }
  }
  return absl::OkStatus();
}

// Whole models with weights drawn at random, every block of one kind: depth 2 and twice the head's width in the memory,
// 64 tokens a chunk, a segment and a window.
absl::Status BenchKinds(const EngineBenchOptions& options, ResultFile* results) {
  struct Size {
    int64_t dim, blocks;
  };
  for (const Size& size : {Size{256, 4}, Size{512, 8}}) {
    for (const BlockKind kind : {BlockKind::kLmm, BlockKind::kMag, BlockKind::kMal, BlockKind::kMac}) {
      ModelConfig config;
      config.dim = size.dim;
      config.blocks.assign(size.blocks, kind);
      config.heads = size.dim / 64;
      config.ff_dim = 2 * size.dim;
      config.window = config.segment = 64;
      config.persistent = 4;
      config.memory = {.heads = size.dim / 64,
                       .head_dim = 64,
                       .depth = 2,
                       .hidden = 128,
                       .chunk = 64,
                       .conv = 4,
                       .theta_max = 0.01,
                       .max_grad_norm = 1};
      std::map<std::string, at::Tensor> weights;
      for (const ParameterShape& one : ParameterShapes(config)) {
        const double scale = one.shape.size() > 1 ? 1.0 / std::sqrt(static_cast<double>(one.shape.back())) : 0.1;
        const bool is_norm = one.name.find("norm") != std::string::npos;
        weights[one.name] = is_norm ? at::ones(one.shape) : scale * at::randn(one.shape);
      }
      const Titans titans(config, weights);
      for (const int64_t sessions : {1, 8}) {
        BatchState state = titans.InitialState(sessions);
        const at::Tensor tokens = at::randint(config.vocab_size, {sessions, config.block_tokens()}, at::kLong);
        const std::string what =
            absl::StrCat(BlockKindName(kind), ", width ", size.dim, ", ", size.blocks, " blocks, sessions ", sessions);
        const auto step = [&] { titans.Forward(tokens, &state, Titans::Logits::kNone); };
        RETURN_IF_ERROR(Tell(options, what, tokens.numel(), ModelFlops(config), step, results));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status BenchModel(const EngineBenchOptions& options, const std::string& folder, const Model* model,
                        ResultFile* results) {
  const int64_t block = model->config().block_tokens();
  std::mt19937_64 random(1);
  std::vector<int32_t> tokens(block);
  StatePtr state = model->InitialState();
  absl::Status status;
  const double flops = ModelFlops(model->config());
  const auto step_block = [&] {
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % model->config().vocab_size);
    const BlockResult result = model->StepBlocks({{state, tokens}})[0];
    status.Update(result.status);
    if (result.status.ok()) state = result.state;
  };
  RETURN_IF_ERROR(Tell(options, absl::StrCat(folder, ", blocks of ", block), block, flops, step_block, results));
  RETURN_IF_ERROR(status);

  const double decoding_flops = flops + 2.0 * model->config().dim * model->config().vocab_size;
  for (const int64_t queries : {1, 8, 32}) {
    std::vector<std::unique_ptr<Fork>> owners;
    std::vector<Fork*> forks;
    for (int64_t i = 0; i < queries; ++i) forks.push_back(owners.emplace_back(model->NewFork(state)).get());
    std::vector<int32_t> next(queries);
    const auto step_token = [&] {
      for (int32_t& token : next) token = static_cast<int32_t>(random() % model->config().vocab_size);
      for (const absl::Status& one : model->FeedTogether(forks, next)) status.Update(one);
    };
    const std::string what = absl::StrCat(folder, ", decoding ", queries);
    RETURN_IF_ERROR(Tell(options, what, queries, decoding_flops, step_token, results));
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunEngineBench(const EngineBenchOptions& options, ResultFile* results) {
  EnterWorkerThread();
  const c10::InferenceMode inference;
  std::vector<std::unique_ptr<Model>> models;  // first: what cannot be loaded is said before minutes of measuring
  for (const std::string& folder : options.models) {
    ASSIGN_OR_RETURN(models.emplace_back(), Model::Load(folder, {.weights = options.weights}));
  }
  std::printf("%s; G %.1f GFLOP/s\n", BlasDescription().c_str(), Reference().Measure() / 1e9);
  RETURN_IF_ERROR(BenchProducts(options, results));
  RETURN_IF_ERROR(BenchMemory(options, results));
  if (options.kinds) RETURN_IF_ERROR(BenchKinds(options, results));
  for (size_t i = 0; i < models.size(); ++i) {
    RETURN_IF_ERROR(BenchModel(options, options.models[i], models[i].get(), results));
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
