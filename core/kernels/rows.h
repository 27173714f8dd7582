// Passes over the rows of a matrix on a CPU, in single precision. Strides are those of rows. Outputs may not overlap
// inputs unless said. Thread-safe.
#pragma once

#include <cstdint>

namespace mnemosyne {

// y = x / sqrt(mean(x^2) + epsilon) * weight, row by row; x, y [rows, width]. y may be x.
void RmsNormRows(const float* x, int64_t x_stride, int64_t rows, int64_t width, const float* weight, float epsilon,
                 float* y, int64_t y_stride);

// y = x / max(|x|, 1e-12), row by row; x, y [rows, width]. y may be x.
void L2NormalizeRows(const float* x, int64_t rows, int64_t width, float* y);

// y [rows, width] = x[:, :width] * silu(x[:, width:]); x [rows, 2 width].
void GatedSiluRows(const float* x, int64_t rows, int64_t width, float* y);

// y [rows, width] = x * sigmoid(gate). y may be x.
void GateRows(const float* x, int64_t x_stride, const float* gate, int64_t gate_stride, int64_t rows, int64_t width,
              float* y, int64_t y_stride);

// to [columns, rows] = from [rows, columns]^T, both without gaps.
void Transpose(const float* from, int64_t rows, int64_t columns, float* to);

// In place: silu, values[0, count).
void SiluInPlace(float* values, int64_t count);

// to = scale sigmoid(from)
void ScaledSigmoid(const float* from, int64_t count, float scale, float* to);
// to = log(sigmoid(sign from))
void LogSigmoid(const float* from, int64_t count, float sign, float* to);

}  // namespace mnemosyne
