// Single-precision matrix products on a CPU.
//
//   PackedMatrix weight(values, outputs, inputs);         // once
//   Multiply(x, inputs, weight, rows, y, outputs);        // y [rows, outputs] = x [rows, inputs] weight^T
//
// A row of a result is summed in one order, whatever the number of rows: a token has the same bits in a block, alone
// and beside other sessions' tokens. The instruction set is chosen when the program runs. Thread-safe.
#pragma once

#include <hwy/aligned_allocator.h>
#include <hwy/base.h>

#include <cstdint>

#include "core/kernels/weight_type.h"

namespace mnemosyne {

// Columns that lie side by side in a panel, on every machine.
constexpr int64_t kPanelColumns = 32;
constexpr int64_t RoundUpToPanel(int64_t columns) {
  return (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
}

// A stride for rows of `columns` that are read to the next panel, and no multiple of a large power of two: columns of
// such matrices would all fall into the same few sets of a cache.
constexpr int64_t PaddedStride(int64_t columns) { return RoundUpToPanel(columns) + 16; }

// A weight [outputs, inputs] in panels of kPanelColumns outputs, each [inputs, kPanelColumns], the last one filled up
// with zeros; or in the order of tile_product.h. kBFloat16Products needs HasTiles().
class PackedMatrix {
 public:
  PackedMatrix(const float* values, int64_t outputs, int64_t inputs, WeightType type = WeightType::kFloat32);

  int64_t outputs() const { return outputs_; }
  int64_t inputs() const { return inputs_; }
  WeightType type() const { return type_; }
  // Of the matrix's type, one of these.
  const float* panel(int64_t index) const { return panels_.get() + index * inputs_ * kPanelColumns; }
  const hwy::bfloat16_t* narrow_panel(int64_t index) const {
    return narrow_panels_.get() + index * inputs_ * kPanelColumns;
  }
  const hwy::bfloat16_t* tiles() const { return narrow_panels_.get(); }

 private:
  int64_t outputs_ = 0, inputs_ = 0;
  WeightType type_;
  hwy::AlignedFreeUniquePtr<float[]> panels_;
  hwy::AlignedFreeUniquePtr<hwy::bfloat16_t[]> narrow_panels_;
};

// y [rows, outputs] = x [rows, inputs] weight^T; strides are those of rows.
void Multiply(const float* x, int64_t x_stride, const PackedMatrix& weight, int64_t rows, float* y, int64_t y_stride);

}  // namespace mnemosyne
