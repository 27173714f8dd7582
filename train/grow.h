// A model that begins with another's weights, to be trained on: mostly a larger one that computes the same.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/model/config.h"
#include "core/model/safetensors.h"

namespace mnemosyne {

// Puts the weights of a model of config `from` into `weights`, random ones of config `to`. `to` may have more blocks
// (those of `from`, each in the first place that is left, have their kinds in the same order) and a larger ff_dim: what
// is new keeps its random weights but adds nothing to the output. It may have no persistent tokens where `from` has
// some: those are dropped, and the output is another. INVALID_ARGUMENT names what else differs.
absl::Status GrowWeights(const ModelConfig& from, const std::vector<NamedTensor>& trained, const ModelConfig& to,
                         std::map<std::string, at::Tensor>* weights);

}  // namespace mnemosyne
