#include "core/kernels/product.h"

#include <cstring>
#include <new>

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

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(MultiplyPacked);

PackedMatrix::PackedMatrix(const float* values, int64_t outputs, int64_t inputs)
    : outputs_(outputs), inputs_(inputs), panels_(hwy::AllocateAligned<float>(RoundUpToPanel(outputs) * inputs)) {
  if (panels_ == nullptr) throw std::bad_alloc();
  std::memset(panels_.get(), 0, RoundUpToPanel(outputs) * inputs * sizeof(float));
  for (int64_t o = 0; o < outputs; ++o) {
    float* const to = panels_.get() + o / kPanelColumns * inputs * kPanelColumns + o % kPanelColumns;
    for (int64_t i = 0; i < inputs; ++i) to[i * kPanelColumns] = values[o * inputs + i];
  }
}

void Multiply(const float* x, int64_t x_stride, const PackedMatrix& weight, int64_t rows, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(MultiplyPacked)(x, x_stride, weight, rows, y, y_stride);
}

}  // namespace mnemosyne
#endif
