// A model folder with random weights, for tests of what happens around a model.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <random>
#include <string>

#include "core/base/file.h"
#include "core/model/config.h"
#include "core/model/parameters.h"
#include "core/model/safetensors.h"

namespace mnemosyne {

// Small, with the tokenizer `bytes` and every kind of state: a window, a memory with convolutions, a second memory.
inline ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 258;
  config.dim = 16;
  config.blocks = {BlockKind::kSwa, BlockKind::kLmm, BlockKind::kMag};
  config.heads = 2;
  config.ff_dim = 24;
  config.window = 8;
  config.segment = 8;
  config.persistent = 2;
  config.tie_embeddings = false;
  config.memory = {.heads = 2,
                   .head_dim = 8,
                   .depth = 2,
                   .hidden = 12,
                   .chunk = 8,
                   .conv = 3,
                   .theta_max = 0.05,
                   .momentum = true,
                   .decay = true,
                   .residual = true,
                   .max_grad_norm = 2.0};
  return config;
}

// Small, of any shape and with any step size, with the tokenizer `bytes`. `bounded`: with a max_grad_norm, so that no
// stream makes it diverge.
inline ModelConfig RandomConfig(std::mt19937_64& random, bool bounded = true) {
  const auto one_of = [&](std::initializer_list<int64_t> values) { return values.begin()[random() % values.size()]; };
  const auto between = [&](double low, double high) { return low * std::pow(high / low, (random() >> 11) * 0x1p-53); };
  constexpr BlockKind kKinds[] = {BlockKind::kSwa, BlockKind::kLmm, BlockKind::kMag, BlockKind::kMal, BlockKind::kMac};
  ModelConfig config;
  config.vocab_size = 258;
  config.blocks = {kKinds[1 + random() % 4]};  // one with a memory, and others around it
  while (random() % 2 == 0 && config.blocks.size() < 4) {
    config.blocks.insert(config.blocks.begin() + random() % (config.blocks.size() + 1), kKinds[random() % 5]);
  }
  config.heads = one_of({1, 2, 3});
  config.dim = 2 * config.heads * one_of({2, 3, 4, 6});
  config.ff_dim = one_of({8, 24, 40});
  config.window = one_of({1, 2, 8, 31, 64, 100});
  config.memory.chunk = one_of({2, 4, 7, 8, 16, 32, 64});
  config.segment = config.memory.chunk * one_of({1, 2, 3});
  config.persistent = one_of({0, 1, 4});
  config.gate = random() % 2 == 0 ? GateKind::kMultiply : GateKind::kMix;
  config.tie_embeddings = random() % 2 == 0;
  config.memory.heads = one_of({1, 2, 3});
  config.memory.head_dim = one_of({4, 5, 8, 16});
  config.memory.depth = one_of({1, 2, 3});
  config.memory.hidden = one_of({4, 12, 16});
  config.memory.conv = one_of({1, 2, 4, 9});
  config.memory.theta_max = between(0.01, 2);
  config.memory.momentum = random() % 2 == 0;
  config.memory.decay = random() % 2 == 0;
  config.memory.residual = random() % 2 == 0;
  config.memory.max_grad_norm = bounded ? between(0.3, 8) : 0;
  return config;
}

// `gate_bias_scale`: how far the biases of the memory's gates lie from 0; at 4 some heads hardly forget, others at
// once.
inline void WriteRandomModel(const std::string& folder, const ModelConfig& config, uint64_t seed,
                             float memory_value_scale = 1, float gate_bias_scale = 0.1f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<NamedTensor> tensors;
  for (const ParameterShape& one : ParameterShapes(config)) {
    NamedTensor tensor = {one.name, one.shape, {}};
    int64_t elements = 1;
    for (const int64_t size : one.shape) elements *= size;
    const bool is_norm = one.name.find("norm") != std::string::npos;
    const bool is_value = one.name.find("memory.v.weight") != std::string::npos;
    const bool is_gate_bias = one.name.find("gates.bias") != std::string::npos;
    const float scale = (is_value ? memory_value_scale : 1.0f) *
                        (one.shape.size() > 1 ? 1.0f / std::sqrt(static_cast<float>(one.shape.back()))
                         : is_gate_bias       ? gate_bias_scale
                                              : 0.1f);
    for (int64_t i = 0; i < elements; ++i) tensor.values.push_back(is_norm ? 1.0f : scale * normal(random));
    tensors.push_back(std::move(tensor));
  }
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(WriteFileAtomically(folder + "/model.safetensors", FormatSafetensors(tensors)).ok());
  ASSERT_TRUE(WriteFileAtomically(folder + "/config.json", FormatModelConfig(config)).ok());
}

}  // namespace mnemosyne
