// The inner loop of every product, for the instruction set that the including file is being compiled for. Included by
// other kernels between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE, once an instruction set: hence its guard.
#if defined(MNEMOSYNE_CORE_KERNELS_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEMOSYNE_CORE_KERNELS_PRODUCT_INL_H_
#undef MNEMOSYNE_CORE_KERNELS_PRODUCT_INL_H_
#else
#define MNEMOSYNE_CORE_KERNELS_PRODUCT_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/kernels/product.h"

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

enum class Into { kSet, kAdd, kSubtract };

// Element (row, column) at values[row * row_stride + column * column_stride].
struct Strided {
  const float* values;
  int64_t row_stride;
  int64_t column_stride = 1;
};

// At most 16 floats a vector: two of them are half a panel at least.
using FloatTag = hn::CappedTag<float, 16>;
using FloatVec = hn::Vec<FloatTag>;
constexpr int64_t kLanes = HWY_MIN(HWY_LANES(float), 16);
constexpr int64_t kTileColumns = 2 * kLanes;
// As many sums as registers hold beside the two vectors of B and one of A.
constexpr int kTileRows = HWY_LANES(float) >= 16 ? 12 : 6;

// A vector of the right side, which may be kept narrow.
HWY_INLINE FloatVec LoadRight(FloatTag d, const float* from) { return hn::LoadU(d, from); }
HWY_INLINE FloatVec LoadRight(FloatTag d, const hwy::bfloat16_t* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, FloatTag>(), from));
}

// What a product is added to or subtracted from: a vector of it, at a row and a column of the product.
struct FromNothing {
  HWY_INLINE FloatVec operator()(int64_t, int64_t) const { return hn::Zero(FloatTag()); }
};
struct FromRows {
  const float* values;
  int64_t stride;
  HWY_INLINE FloatVec operator()(int64_t row, int64_t column) const {
    return hn::LoadU(FloatTag(), values + row * stride + column);
  }
};

// c [kRows, 2 vectors] of one tile, which begins at row and column of what it starts from, summed over k in order: a
// row's bits do not depend on kRows.
template <int kRows, Into kInto, typename Right, typename From>
HWY_INLINE void Tile(const Strided& a, const Right* HWY_RESTRICT b, int64_t b_stride, int64_t depth, const From& start,
                     int64_t row, int64_t column, float* c, int64_t c_stride) {
  const FloatTag d;
  FloatVec left[kRows], right[kRows];
  HWY_UNROLL(16)
  for (int r = 0; r < kRows; ++r) {
    left[r] = start(row + r, column);
    right[r] = start(row + r, column + kLanes);
  }
  const float* at = a.values;
  for (int64_t k = 0; k < depth; ++k) {
    const FloatVec b0 = LoadRight(d, b), b1 = LoadRight(d, b + kLanes);
    HWY_UNROLL(16)
    for (int r = 0; r < kRows; ++r) {
      const FloatVec factor = hn::Set(d, at[r * a.row_stride]);
      if (kInto == Into::kSubtract) {
        left[r] = hn::NegMulAdd(factor, b0, left[r]);
        right[r] = hn::NegMulAdd(factor, b1, right[r]);
      } else {
        left[r] = hn::MulAdd(factor, b0, left[r]);
        right[r] = hn::MulAdd(factor, b1, right[r]);
      }
    }
    at += a.column_stride;
    b += b_stride;
  }
  HWY_UNROLL(16)
  for (int r = 0; r < kRows; ++r) {
    hn::StoreU(left[r], d, c + r * c_stride);
    hn::StoreU(right[r], d, c + r * c_stride + kLanes);
  }
}

template <int kRows, Into kInto, typename Right, typename From>
HWY_INLINE void TileOfRows(int64_t rows, const Strided& a, const Right* b, int64_t b_stride, int64_t depth,
                           const From& start, int64_t row, int64_t column, float* c, int64_t c_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return TileOfRows<kRows - 1, kInto>(rows, a, b, b_stride, depth, start, row, column, c, c_stride);
    }
  }
  Tile<kRows, kInto>(a, b, b_stride, depth, start, row, column, c, c_stride);
}

// c [rows, columns], columns <= kTileColumns, which begins at `column` of what it starts from; b's rows may be read to
// kTileColumns, and those of a start that is not FromRows.
template <Into kInto, typename Right, typename From>
HWY_NOINLINE void Columns(const Strided& a, int64_t rows, const Right* b, int64_t b_stride, int64_t depth,
                          const From& start, int64_t column, float* c, int64_t c_stride, int64_t columns) {
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const int64_t here = std::min<int64_t>(kTileRows, rows - r);
    const Strided from = {a.values + r * a.row_stride, a.row_stride, a.column_stride};
    float* const to = c + r * c_stride;
    if (columns == kTileColumns) {
      TileOfRows<kTileRows, kInto>(here, from, b, b_stride, depth, start, r, column, to, c_stride);
      continue;
    }
    float part[kTileRows * kTileColumns] = {};  // only `columns` of c are ours
    if constexpr (std::is_same_v<From, FromRows>) {
      for (int64_t i = 0; i < here; ++i) {
        std::memcpy(part + i * kTileColumns, start.values + (r + i) * start.stride + column, columns * sizeof(float));
      }
      TileOfRows<kTileRows, kInto>(here, from, b, b_stride, depth, FromRows{part, kTileColumns}, 0, 0, part,
                                   kTileColumns);
    } else {
      TileOfRows<kTileRows, kInto>(here, from, b, b_stride, depth, start, r, column, part, kTileColumns);
    }
    for (int64_t i = 0; i < here; ++i) std::memcpy(to + i * c_stride, part + i * kTileColumns, columns * sizeof(float));
  }
}

// c [1, kWide vectors], summed in the order of Tile, of panels of b that begin panel_stride apart. So many sums keep
// the CPU busy; and a matrix that one row is multiplied by comes from far away, and memory likes to be read in its own
// order.
constexpr int kWide = HWY_MAX(8, kPanelColumns / kLanes);
template <Into kInto, typename Right>
HWY_NOINLINE void WideRow(const Strided& a, const Right* HWY_RESTRICT b, int64_t b_stride, int64_t panel_stride,
                          int64_t depth, float* HWY_RESTRICT c) {
  constexpr int kOfPanel = kPanelColumns / kLanes;
  const FloatTag d;
  FloatVec sum[kWide];
  HWY_UNROLL(8)
  for (int i = 0; i < kWide; ++i) sum[i] = kInto == Into::kSet ? hn::Zero(d) : hn::LoadU(d, c + i * kLanes);
  const float* at = a.values;
  for (int64_t k = 0; k < depth; ++k) {
    const FloatVec factor = hn::Set(d, *at);
    HWY_UNROLL(8)
    for (int i = 0; i < kWide; ++i) {
      const FloatVec v = LoadRight(d, b + i / kOfPanel * panel_stride + i % kOfPanel * kLanes);
      sum[i] = kInto == Into::kSubtract ? hn::NegMulAdd(factor, v, sum[i]) : hn::MulAdd(factor, v, sum[i]);
    }
    at += a.column_stride;
    b += b_stride;
  }
  HWY_UNROLL(8)
  for (int i = 0; i < kWide; ++i) hn::StoreU(sum[i], d, c + i * kLanes);
}

// c [rows, columns] = start +- a [rows, depth] b [depth, columns]. The rows of b, and what `start` is made from, may be
// read to the next multiple of kPanelColumns (but FromRows only to `columns`). c may be what it starts from.
template <Into kInto, typename Right, typename From>
HWY_INLINE void ProductFrom(const From& start, const Strided& a, int64_t rows, int64_t depth, const Right* b,
                            int64_t b_stride, int64_t columns, float* c, int64_t c_stride) {
  for (int64_t j = 0; j < columns; j += kTileColumns) {
    Columns<kInto>(a, rows, b + j, b_stride, depth, start, j, c + j, c_stride, std::min(kTileColumns, columns - j));
  }
}

// c [rows, columns] = (+=, -=) a [rows, depth] b [depth, columns]. b's rows may be read to the next multiple of
// kPanelColumns.
template <Into kInto, typename Right>
HWY_INLINE void Product(const Strided& a, int64_t rows, int64_t depth, const Right* b, int64_t b_stride,
                        int64_t columns, float* c, int64_t c_stride) {
  int64_t j = 0;
  for (; rows == 1 && columns - j >= kWide * kLanes; j += kWide * kLanes) {
    WideRow<kInto>(a, b + j, b_stride, kPanelColumns, depth, c + j);
  }
  if constexpr (kInto == Into::kSet) {
    ProductFrom<kInto>(FromNothing(), a, rows, depth, b + j, b_stride, columns - j, c + j, c_stride);
  } else {
    ProductFrom<kInto>(FromRows{c + j, c_stride}, a, rows, depth, b + j, b_stride, columns - j, c + j, c_stride);
  }
}

// c [rows, columns] = start - a [rows, depth] b [depth, columns], where row r of a is zero behind its element
// `diagonal` + r. Those zeros are read, and multiplied, only up to the last element of the tile's last row. `start` has
// Below(r), what it is from its row r on; otherwise as ProductFrom.
template <typename From>
HWY_INLINE void SubtractLowerProduct(const From& start, const Strided& a, int64_t rows, int64_t diagonal,
                                     const float* b, int64_t b_stride, int64_t columns, float* c, int64_t c_stride) {
  for (int64_t j = 0; j < columns; j += kTileColumns) {
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const int64_t here = std::min<int64_t>(kTileRows, rows - r);
      Columns<Into::kSubtract>({a.values + r * a.row_stride, a.row_stride, a.column_stride}, here, b + j, b_stride,
                               diagonal + r + here, start.Below(r), j, c + r * c_stride + j, c_stride,
                               std::min(kTileColumns, columns - j));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#endif
