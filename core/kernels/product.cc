#include "core/kernels/product.h"

#include <cassert>
#include <cstring>
#include <new>

#include "core/kernels/bfloat16.h"
#include "core/kernels/tile_product.h"

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
  const auto multiply = [&](const auto* panels) {
    const int64_t depth = weight.inputs(), panel_size = depth * kPanelColumns;
    int64_t j = 0;
    for (; rows == 1 && j + kWide * kLanes <= weight.outputs(); j += kWide * kLanes) {
      WideRow<Into::kSet>({x, x_stride}, panels + j * depth, kPanelColumns, panel_size, depth, y + j);
    }
    for (; j < weight.outputs(); j += kPanelColumns) {
      Product<Into::kSet>({x, x_stride}, rows, depth, panels + j * depth, kPanelColumns,
                          std::min(kPanelColumns, weight.outputs() - j), y + j, y_stride);
    }
  };
  if (weight.type() == WeightType::kBFloat16) {
    multiply(weight.narrow_panel(0));
  } else {
    multiply(weight.panel(0));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(MultiplyPacked);

namespace {

template <typename Value>
hwy::AlignedFreeUniquePtr<Value[]> Allocated(int64_t count) {
  auto values = hwy::AllocateAligned<Value>(count);
  if (values == nullptr) throw std::bad_alloc();
  return values;
}

template <typename Value, typename Convert>
hwy::AlignedFreeUniquePtr<Value[]> Panels(const float* values, int64_t outputs, int64_t inputs,
                                          const Convert& convert) {
  auto panels = Allocated<Value>(RoundUpToPanel(outputs) * inputs);
  std::memset(static_cast<void*>(panels.get()), 0, RoundUpToPanel(outputs) * inputs * sizeof(Value));
  for (int64_t o = 0; o < outputs; ++o) {
    Value* const to = panels.get() + o / kPanelColumns * inputs * kPanelColumns + o % kPanelColumns;
    for (int64_t i = 0; i < inputs; ++i) to[i * kPanelColumns] = convert(values[o * inputs + i]);
  }
  return panels;
}

}  // namespace

PackedMatrix::PackedMatrix(const float* values, int64_t outputs, int64_t inputs, WeightType type)
    : outputs_(outputs), inputs_(inputs), type_(type) {
  if (type == WeightType::kBFloat16Products) {
    assert(HasTiles());
    narrow_panels_ = Allocated<hwy::bfloat16_t>(TiledValues(outputs, inputs));
    PackTiles(values, outputs, inputs, narrow_panels_.get());
  } else if (type == WeightType::kBFloat16) {
    narrow_panels_ = Panels<hwy::bfloat16_t>(values, outputs, inputs, ToBFloat16);
  } else {
    panels_ = Panels<float>(values, outputs, inputs, [](float value) { return value; });
  }
}

void Multiply(const float* x, int64_t x_stride, const PackedMatrix& weight, int64_t rows, float* y, int64_t y_stride) {
  if (weight.type() == WeightType::kBFloat16Products) {
    MultiplyByTiles(x, x_stride, weight.tiles(), weight.outputs(), weight.inputs(), rows, y, y_stride);
    return;
  }
  HWY_DYNAMIC_DISPATCH(MultiplyPacked)(x, x_stride, weight, rows, y, y_stride);
}

}  // namespace mnemosyne
#endif
