// What the model tests share: model folders read into tensors, random weights, and comparisons that say how far off.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/model/config.h"
#include "core/model/parameters.h"
#include "core/model/titans.h"

namespace mnemosyne {

// The seed of a property test: MNEMOSYNE_TEST_SEED, or a new one each run; always printed.
inline uint64_t TestSeed() {
  const char* given = std::getenv("MNEMOSYNE_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("seed %llu (repeat with MNEMOSYNE_TEST_SEED)\n", static_cast<unsigned long long>(seed));
  return seed;
}

struct LoadedParameters {
  ModelConfig config;
  std::map<std::string, at::Tensor> tensors;
};

inline LoadedParameters ReadModelFolder(const std::string& folder) {
  LoadedParameters out;
  const auto text = ReadFile(folder + "/config.json");
  EXPECT_TRUE(text.ok()) << text.status();
  const auto config = ParseModelConfig(*text);
  EXPECT_TRUE(config.ok()) << folder << ": " << config.status();
  out.config = *config;
  const auto bytes = ReadFile(folder + "/model.safetensors");
  const auto parameters = LoadParameters(out.config, *bytes);
  EXPECT_TRUE(parameters.ok()) << parameters.status();
  for (const NamedTensor& one : *parameters) out.tensors[one.name] = at::tensor(one.values).view(one.shape).clone();
  return out;
}

// Random weights that neither explode nor vanish, in the manner of tests/reference/make_goldens.py.
inline std::map<std::string, at::Tensor> RandomParameters(const ModelConfig& config, uint64_t seed,
                                                          at::ScalarType dtype = at::kFloat) {
  at::manual_seed(seed);
  std::map<std::string, at::Tensor> out;
  for (const ParameterShape& one : ParameterShapes(config)) {
    at::Tensor value = at::randn(one.shape, at::TensorOptions().dtype(at::kDouble));
    if (one.name.find("norm") != std::string::npos) {
      value = 1.0 + 0.2 * value;
    } else if (one.name.ends_with("gates.bias")) {
      const int64_t heads = config.memory.heads;
      value = 0.3 * value + at::cat({at::full({heads}, -2.0), at::full({heads}, 0.5), at::full({heads}, -5.0)});
    } else if (one.name != "embed.weight") {
      value = value * (one.shape.size() > 1 ? 1.0 / std::sqrt(static_cast<double>(one.shape.back())) : 0.1);
    }
    out[one.name] = value.to(dtype);
  }
  return out;
}

// max |a - b| / max(1, max |b|)
inline double RelativeError(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return std::numeric_limits<double>::infinity();
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const double error = (x - y).abs().max().item<double>() / std::max(1.0, y.abs().max().item<double>());
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

}  // namespace mnemosyne
