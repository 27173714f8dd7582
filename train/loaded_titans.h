// A model's folder as the network alone: no sessions, logits and keys of every token. For evaluation beside training.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/config.h"
#include "core/model/titans.h"
#include "train/recall_tasks.h"

namespace mnemosyne {

struct LoadedTitans {
  ModelConfig config;
  std::unique_ptr<const Titans> titans;
};
absl::StatusOr<LoadedTitans> LoadTitans(const std::string& folder);

at::Tensor AsBatch(const std::vector<int32_t>& tokens);  // [1, T]

// Mean nats a byte of `samples` pieces of the haystack of `bytes` bytes, each read by a new session; e to its power is
// the perplexity. The model's tokenizer must be `bytes`.
double TextLoss(const LoadedTitans& model, const Haystack& haystack, int64_t samples, int64_t bytes, uint64_t seed);

}  // namespace mnemosyne
