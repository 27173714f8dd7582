// A checkpoint's table of contents: every weight's name and shape, by config (model.md; the oracle's parameter_shapes).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.h"
#include "core/model/safetensors.h"

namespace mnemosyne {

struct ParameterShape {
  std::string name;
  std::vector<int64_t> shape;
};

// In the order of the checkpoint.
std::vector<ParameterShape> ParameterShapes(const ModelConfig& config);

// Reads model.safetensors' bytes and checks it against the config: INVALID_ARGUMENT names a tensor that is missing,
// extra, misshapen or not finite. The result is in the order of ParameterShapes.
absl::StatusOr<std::vector<NamedTensor>> LoadParameters(const ModelConfig& config, absl::string_view file);

}  // namespace mnemosyne
