// Where training starts from.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/model/config.h"

namespace mnemosyne {

inline constexpr int64_t kCenteringTokens = 8192;

// Random weights for every name of ParameterShapes(config), by LibTorch's generator. `gate_bias`: theta's. `echo`: the
// queries of every lmm block begin aligned with its keys, and both blind to what the tokens of `centering`
// (kCenteringTokens of any text) have in common; needs a convolution of 3 or more taps.
std::map<std::string, at::Tensor> InitialWeights(const ModelConfig& config, double gate_bias, bool echo,
                                                 const std::vector<int32_t>& centering);

// Whether a parameter makes keys or queries: those that begin well are soon spoiled at the pace at which the rest has
// to learn, so they have their own.
bool IsOfKeys(const std::string& name);

}  // namespace mnemosyne
