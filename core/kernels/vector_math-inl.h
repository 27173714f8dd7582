// Elementwise functions and passes over rows, for the instruction set that the including file is being compiled for.
// Included as product-inl.h is.
#if defined(MNEMOSYNE_CORE_KERNELS_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEMOSYNE_CORE_KERNELS_VECTOR_MATH_INL_H_
#undef MNEMOSYNE_CORE_KERNELS_VECTOR_MATH_INL_H_
#else
#define MNEMOSYNE_CORE_KERNELS_VECTOR_MATH_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

// What is no number stays none: Highway's functions, and x86's minima, would make one of it, and nobody would learn
// that a memory had run away.
HWY_INLINE FloatVec KeepNaN(FloatVec x, FloatVec y) { return hn::IfThenElse(hn::IsNaN(x), x, y); }

// exp(x), x <= 88.
HWY_INLINE FloatVec Exp(FloatTag d, FloatVec x) { return KeepNaN(x, hn::Exp(d, x)); }

// 1 / (1 + exp(-x)); at least 6e-39.
HWY_INLINE FloatVec Sigmoid(FloatTag d, FloatVec x) {
  const FloatVec one = hn::Set(d, 1.0f);
  return KeepNaN(x, hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 88.0f))))));
}

HWY_INLINE FloatVec Silu(FloatTag d, FloatVec x) { return hn::Mul(x, Sigmoid(d, x)); }

// log(sigmoid(x))
HWY_INLINE FloatVec LogSigmoid(FloatTag d, FloatVec x) {
  const FloatVec decayed = hn::Exp(d, hn::Neg(hn::Abs(x)));
  return KeepNaN(x, hn::Sub(hn::Min(x, hn::Zero(d)), hn::Log1p(d, decayed)));
}

// The last count % kLanes values of a row, zeros behind them.
HWY_INLINE FloatVec LoadRest(FloatTag d, const float* from, int64_t count) {
  HWY_ALIGN float values[kLanes] = {};
  std::copy(from, from + count, values);
  return hn::Load(d, values);
}
HWY_INLINE void StoreRest(FloatVec v, FloatTag d, float* to, int64_t count) {
  HWY_ALIGN float values[kLanes];
  hn::Store(v, d, values);
  std::copy(values, values + count, to);
}

// to[i] = function(from[i]...), i < count. `to` may be one of the others.
template <typename Function, typename... From>
HWY_INLINE void ForEach(int64_t count, float* to, const Function& function, const From*... from) {
  const FloatTag d;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(function(d, hn::LoadU(d, from + i)...), d, to + i);
  if (i < count) StoreRest(function(d, LoadRest(d, from + i, count - i)...), d, to + i, count - i);
}

// x [0, count) -> its silu, and in its own place silu's derivative.
HWY_INLINE void SiluAndGrad(int64_t count, float* x, float* silu) {
  const FloatTag d;
  const FloatVec one = hn::Set(d, 1.0f);
  const auto both = [&](FloatVec v, FloatVec* grad) HWY_ATTR {
    const FloatVec s = Sigmoid(d, v);
    *grad = hn::Mul(s, hn::MulAdd(v, hn::Sub(one, s), one));
    return hn::Mul(v, s);
  };
  int64_t i = 0;
  FloatVec grad;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(both(hn::LoadU(d, x + i), &grad), d, silu + i);
    hn::StoreU(grad, d, x + i);
  }
  if (i == count) return;
  StoreRest(both(LoadRest(d, x + i, count - i), &grad), d, silu + i, count - i);
  StoreRest(grad, d, x + i, count - i);
}

// The sum over i < count of function(from[i]...), which must be 0 where those are 0.
template <typename Function, typename... From>
HWY_INLINE float SumOver(int64_t count, const Function& function, const From*... from) {
  const FloatTag d;
  FloatVec sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum = hn::Add(sum, function(d, hn::LoadU(d, from + i)...));
  if (i < count) sum = hn::Add(sum, function(d, LoadRest(d, from + i, count - i)...));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_INLINE float SumOfSquares(const float* values, int64_t count) {
  return SumOver(
      count, [](FloatTag, FloatVec v) HWY_ATTR { return hn::Mul(v, v); }, values);
}

HWY_INLINE void Scale(float factor, int64_t count, float* values) {
  ForEach(
      count, values, [&](FloatTag d, FloatVec v) HWY_ATTR { return hn::Mul(v, hn::Set(d, factor)); }, values);
}

// to [rows, columns] = from
HWY_INLINE void CopyRows(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                         int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * to_stride, from + r * from_stride, columns * sizeof(float));
}

// to [columns, rows] = from [rows, columns]^T for a square of at most 16 by 16, four by four in registers.
HWY_INLINE void TransposeSquare(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                                int64_t to_stride) {
  int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::Full128<float> four;
  // Four columns of so many rows as d has lanes, each block of d's 128 bits a square of its own.
  const auto transpose = [&](auto d, const auto& load, int64_t r) HWY_ATTR {
    const float* const row = from + r * from_stride + c;
    const auto r0 = load(row), r1 = load(row + from_stride), r2 = load(row + 2 * from_stride),
               r3 = load(row + 3 * from_stride);
    const auto low02 = hn::InterleaveLower(d, r0, r2), low13 = hn::InterleaveLower(d, r1, r3),
               high02 = hn::InterleaveUpper(d, r0, r2), high13 = hn::InterleaveUpper(d, r1, r3);
    float* const out = to + c * to_stride + r;
    hn::StoreU(hn::InterleaveLower(d, low02, low13), d, out);
    hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, out + to_stride);
    hn::StoreU(hn::InterleaveLower(d, high02, high13), d, out + 2 * to_stride);
    hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, out + 3 * to_stride);
  };
  for (; c + 4 <= columns; c += 4) {
    int64_t r = 0;
#if HWY_MAX_BYTES >= 32
    const hn::Full256<float> eight;
    for (; r + 8 <= rows; r += 8) {
      const auto load = [&](const float* at) HWY_ATTR {
        return hn::Combine(eight, hn::LoadU(four, at + 4 * from_stride), hn::LoadU(four, at));
      };
      transpose(eight, load, r);
    }
#endif
    for (; r + 4 <= rows; r += 4) {
      transpose(
          four, [&](const float* at) HWY_ATTR { return hn::LoadU(four, at); }, r);
    }
    for (; r < rows; ++r) {
      for (int64_t i = 0; i < 4; ++i) to[(c + i) * to_stride + r] = from[r * from_stride + c + i];
    }
  }
#endif
  for (; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

// to [columns, rows] = from [rows, columns]^T, by squares whose cache lines are read and written whole.
HWY_INLINE void TransposeRows(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                              int64_t to_stride) {
  constexpr int64_t kSide = 16;
  for (int64_t r = 0; r < rows; r += kSide) {
    for (int64_t c = 0; c < columns; c += kSide) {
      TransposeSquare(from + r * from_stride + c, from_stride, std::min(kSide, rows - r), std::min(kSide, columns - c),
                      to + c * to_stride + r, to_stride);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#endif
