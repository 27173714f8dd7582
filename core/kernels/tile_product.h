// Products of bfloat16 by a CPU's matrix tiles (Intel AMX), summed in single precision. Tens of times the products a
// cycle of what vectors of float32 make; Multiply (product.h) uses them for matrices that are kept so.
#pragma once

#include <hwy/base.h>

#include <cstdint>

namespace mnemosyne {

// Whether this CPU has them, and the system lets this program use them: asked once. Thread-safe.
bool HasTiles();

// Values that a matrix [outputs, inputs] takes, zeros that fill it up to whole tiles included.
int64_t TiledValues(int64_t outputs, int64_t inputs);

// The matrix in the order in which tiles are loaded, each value rounded to the nearest.
void PackTiles(const float* values, int64_t outputs, int64_t inputs, hwy::bfloat16_t* to);

// y [rows, outputs] = x [rows, inputs] weight^T, x rounded to the nearest bfloat16; strides are those of rows. A row's
// bits do not depend on the others. Needs HasTiles().
void MultiplyByTiles(const float* x, int64_t x_stride, const hwy::bfloat16_t* weight, int64_t outputs, int64_t inputs,
                     int64_t rows, float* y, int64_t y_stride);

}  // namespace mnemosyne
