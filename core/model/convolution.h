// The memory's depthwise causal convolution for steps that keep a gradient, and on devices without kernels.
#pragma once

#include <ATen/ATen.h>

namespace mnemosyne {

// Sums over the last K rows of history [N, K - 1 + T, kinds * heads * d] by the taps of weight [kinds * heads * d, K],
// the oldest first, and bias [kinds * heads * d]: [kinds, N * heads, T, d]. On a CPU in float32 it is computed by
// core/kernels, with a derivative of its own (LibTorch's were a sixth of a training step).
at::Tensor CausalConvolution(const at::Tensor& history, const at::Tensor& weight, const at::Tensor& bias, int64_t heads,
                             int64_t head_dim);

}  // namespace mnemosyne
