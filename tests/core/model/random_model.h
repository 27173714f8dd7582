// A model folder with random weights, for tests of what happens around a model.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
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

inline void WriteRandomModel(const std::string& folder, const ModelConfig& config, uint64_t seed,
                             float memory_value_scale = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<NamedTensor> tensors;
  for (const ParameterShape& one : ParameterShapes(config)) {
    NamedTensor tensor = {one.name, one.shape, {}};
    int64_t elements = 1;
    for (const int64_t size : one.shape) elements *= size;
    const bool is_norm = one.name.find("norm") != std::string::npos;
    const bool is_value = one.name.find("memory.v.weight") != std::string::npos;
    const float scale = (is_value ? memory_value_scale : 1.0f) *
                        (one.shape.size() > 1 ? 1.0f / std::sqrt(static_cast<float>(one.shape.back())) : 0.1f);
    for (int64_t i = 0; i < elements; ++i) tensor.values.push_back(is_norm ? 1.0f : scale * normal(random));
    tensors.push_back(std::move(tensor));
  }
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(WriteFileAtomically(folder + "/model.safetensors", FormatSafetensors(tensors)).ok());
  ASSERT_TRUE(WriteFileAtomically(folder + "/config.json", FormatModelConfig(config)).ok());
}

}  // namespace mnemosyne
