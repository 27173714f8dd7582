// The memory's depthwise causal convolution as one pass over floats, and its derivative (kernels of LibTorch
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

// Derivatives of a loss, in the order of what they are by and with its strides.
struct CausalConvGradients {
  float* history;  // set
  float* taps;     // added to
  float* bias;     // added to
};

// From the loss's derivatives by `out`, as CausalConv lays it out, those by its inputs. std::bad_alloc when there is no
// room for a copy of 64 channels.
void CausalConvBackward(const CausalConvInput& in, const float* out, int64_t tokens, int64_t channels, int64_t k,
                        int64_t width, const CausalConvGradients& gradients);

}  // namespace mnemosyne
