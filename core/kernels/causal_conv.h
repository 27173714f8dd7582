// The memory's depthwise causal convolution as one pass over floats, for what needs no gradient (kernels of LibTorch
// want channels first: three copies around a product that is smaller than any of them).
#pragma once

#include <cstdint>

namespace mnemosyne {

// Channels [0, C) of wider rows.
struct CausalConvInput {
  const float* history;  // [K - 1 + T, C], rows `stride` floats apart
  const float* taps;     // [K, C], rows `taps_stride` floats apart, the oldest first
  const float* bias;     // [C]
  int64_t stride, taps_stride;
};

// out[h, t, i] = bias[c] + sum over k of taps[k, c] * history[t + k, c], c = h * width + i: [C / width, T, width].
// Rounds the same whatever T is; uses the widest vectors that the CPU has. C is a multiple of width.
void CausalConv(const CausalConvInput& in, int64_t tokens, int64_t channels, int64_t k, int64_t width, float* out);

}  // namespace mnemosyne
