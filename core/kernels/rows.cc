#include "core/kernels/rows.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/rows.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

void RmsNormRowsHere(const float* x, int64_t x_stride, int64_t rows, int64_t width, const float* weight, float epsilon,
                     float* y, int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    const float mean = SumOfSquares(x, width) / static_cast<float>(width);
    const float factor = 1.0f / std::sqrt(mean + epsilon);
    ForEach(
        width, y,
        [&](FloatTag d, FloatVec v, FloatVec w) HWY_ATTR { return hn::Mul(hn::Mul(v, hn::Set(d, factor)), w); }, x,
        weight);
  }
}

void L2NormalizeRowsHere(const float* x, int64_t rows, int64_t width, float* y) {
  for (int64_t r = 0; r < rows; ++r, x += width, y += width) {
    const float factor = 1.0f / std::max(std::sqrt(SumOfSquares(x, width)), 1e-12f);
    ForEach(
        width, y, [&](FloatTag d, FloatVec v) HWY_ATTR { return hn::Mul(v, hn::Set(d, factor)); }, x);
  }
}

void GatedSiluRowsHere(const float* x, int64_t rows, int64_t width, float* y) {
  for (int64_t r = 0; r < rows; ++r, x += 2 * width, y += width) {
    ForEach(
        width, y, [](FloatTag d, FloatVec up, FloatVec gate) HWY_ATTR { return hn::Mul(up, Silu(d, gate)); }, x,
        x + width);
  }
}

void GateRowsHere(const float* x, int64_t x_stride, const float* gate, int64_t gate_stride, int64_t rows, int64_t width,
                  float* y, int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r, x += x_stride, gate += gate_stride, y += y_stride) {
    ForEach(
        width, y, [](FloatTag d, FloatVec v, FloatVec g) HWY_ATTR { return hn::Mul(v, Sigmoid(d, g)); }, x, gate);
  }
}

void SiluHere(float* values, int64_t count) {
  ForEach(
      count, values, [](FloatTag d, FloatVec v) HWY_ATTR { return Silu(d, v); }, values);
}

void ScaledSigmoidHere(const float* from, int64_t count, float scale, float* to) {
  ForEach(
      count, to, [&](FloatTag d, FloatVec v) HWY_ATTR { return hn::Mul(hn::Set(d, scale), Sigmoid(d, v)); }, from);
}

void LogSigmoidHere(const float* from, int64_t count, float sign, float* to) {
  ForEach(
      count, to,
      [&](FloatTag d, FloatVec v) HWY_ATTR { return HWY_NAMESPACE::LogSigmoid(d, hn::Mul(v, hn::Set(d, sign))); },
      from);
}

void TransposeHere(const float* from, int64_t rows, int64_t columns, float* to) {
  TransposeRows(from, columns, rows, columns, to, rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(RmsNormRowsHere);
HWY_EXPORT(L2NormalizeRowsHere);
HWY_EXPORT(GatedSiluRowsHere);
HWY_EXPORT(GateRowsHere);
HWY_EXPORT(SiluHere);
HWY_EXPORT(ScaledSigmoidHere);
HWY_EXPORT(LogSigmoidHere);
HWY_EXPORT(TransposeHere);

void RmsNormRows(const float* x, int64_t x_stride, int64_t rows, int64_t width, const float* weight, float epsilon,
                 float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(RmsNormRowsHere)(x, x_stride, rows, width, weight, epsilon, y, y_stride);
}

void L2NormalizeRows(const float* x, int64_t rows, int64_t width, float* y) {
  HWY_DYNAMIC_DISPATCH(L2NormalizeRowsHere)(x, rows, width, y);
}

void GatedSiluRows(const float* x, int64_t rows, int64_t width, float* y) {
  HWY_DYNAMIC_DISPATCH(GatedSiluRowsHere)(x, rows, width, y);
}

void GateRows(const float* x, int64_t x_stride, const float* gate, int64_t gate_stride, int64_t rows, int64_t width,
              float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(GateRowsHere)(x, x_stride, gate, gate_stride, rows, width, y, y_stride);
}

void Transpose(const float* from, int64_t rows, int64_t columns, float* to) {
  HWY_DYNAMIC_DISPATCH(TransposeHere)(from, rows, columns, to);
}

void SiluInPlace(float* values, int64_t count) { HWY_DYNAMIC_DISPATCH(SiluHere)(values, count); }

void ScaledSigmoid(const float* from, int64_t count, float scale, float* to) {
  HWY_DYNAMIC_DISPATCH(ScaledSigmoidHere)(from, count, scale, to);
}

void LogSigmoid(const float* from, int64_t count, float sign, float* to) {
  HWY_DYNAMIC_DISPATCH(LogSigmoidHere)(from, count, sign, to);
}

}  // namespace mnemosyne
#endif
