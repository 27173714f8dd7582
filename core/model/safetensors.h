// The safetensors file format (docs/formats/model.md), strictly: nothing missing, overlapping, altered or left over.
//
//   ASSIGN_OR_RETURN(std::vector<TensorView> tensors, ParseSafetensors(bytes));
//   tensors[0].name  // "embed.weight"
//
// DATA_LOSS for a file that is truncated, overlaps or has gaps; INVALID_ARGUMENT for a header that says something we
// do not read. The message names the tensor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace mnemosyne {

enum class TensorDtype { kF32, kF16, kBF16 };

// A tensor inside a file's bytes. Does not own them.
struct TensorView {
  std::string name;
  TensorDtype dtype = TensorDtype::kF32;
  std::vector<int64_t> shape;
  absl::string_view bytes;  // row-major, little-endian; may be unaligned

  int64_t elements() const;
  std::vector<float> ToFloats() const;  // F16 and BF16 are widened
};

// Tensors in the order of their bytes. `file` must outlive the views.
absl::StatusOr<std::vector<TensorView>> ParseSafetensors(absl::string_view file);

// Float32 tensors to one file's bytes.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::string FormatSafetensors(absl::Span<const NamedTensor> tensors);

}  // namespace mnemosyne
