#include "core/kernels/product.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/product.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

void MultiplyPacked(const float* x, int64_t x_stride, const PackedMatrix& weight, int64_t rows, float* y,
                    int64_t y_stride) {
  for (int64_t begin = 0; begin < weight.outputs(); begin += kPanelColumns) {
    Product<Into::kSet>({x, x_stride}, rows, weight.inputs(), weight.panel(begin / kPanelColumns), kPanelColumns,
                        std::min(kPanelColumns, weight.outputs() - begin), y + begin, y_stride);
  }
}

void MultiplyStridedInto(const Strided& a, int64_t rows, int64_t depth, const float* b, int64_t b_stride,
                         int64_t columns, Into into, float* c, int64_t c_stride) {
  switch (into) {
    case Into::kSet:
      return Product<Into::kSet>(a, rows, depth, b, b_stride, columns, c, c_stride);
    case Into::kAdd:
      return Product<Into::kAdd>(a, rows, depth, b, b_stride, columns, c, c_stride);
    case Into::kSubtract:
      return Product<Into::kSubtract>(a, rows, depth, b, b_stride, columns, c, c_stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(MultiplyPacked);
HWY_EXPORT(MultiplyStridedInto);

PackedMatrix::PackedMatrix(const float* values, int64_t outputs, int64_t inputs)
    : outputs_(outputs), inputs_(inputs), panels_(hwy::AllocateAligned<float>(RoundUpToPanel(outputs) * inputs)) {
  std::memset(panels_.get(), 0, RoundUpToPanel(outputs) * inputs * sizeof(float));
  for (int64_t o = 0; o < outputs; ++o) {
    float* const to = panels_.get() + o / kPanelColumns * inputs * kPanelColumns + o % kPanelColumns;
    for (int64_t i = 0; i < inputs; ++i) to[i * kPanelColumns] = values[o * inputs + i];
  }
}

void Multiply(const float* x, int64_t x_stride, const PackedMatrix& weight, int64_t rows, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(MultiplyPacked)(x, x_stride, weight, rows, y, y_stride);
}

void MultiplyStrided(const Strided& a, int64_t rows, int64_t depth, const float* b, int64_t b_stride, int64_t columns,
                     Into into, float* c, int64_t c_stride) {
  HWY_DYNAMIC_DISPATCH(MultiplyStridedInto)(a, rows, depth, b, b_stride, columns, into, c, c_stride);
}

}  // namespace mnemosyne
#endif
