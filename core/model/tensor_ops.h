// Small tensor formulas that several layers share. Shapes are given at each; dtype and device follow the arguments.
#pragma once

#include <ATen/ATen.h>

namespace mnemosyne {

// input [..., in], weight [out, in] -> [..., out]
inline at::Tensor Linear(const at::Tensor& input, const at::Tensor& weight) {
  std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = weight.size(0);
  return at::mm(input.reshape({-1, input.size(-1)}), weight.t()).view(shape);
}

// x / sqrt(mean(x^2) + eps) * weight over the last dimension.
inline at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x * (x * x).mean(-1, /*keepdim=*/true).add_(eps).rsqrt() * weight;
}

// x / max(|x|, 1e-12) over the last dimension.
inline at::Tensor L2Normalize(const at::Tensor& x) { return x / x.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-12); }

// Derivative of silu at x.
inline at::Tensor SiluGrad(const at::Tensor& x) {
  const at::Tensor s = x.sigmoid();
  return s * (1.0 + x * (1.0 - s));
}

}  // namespace mnemosyne
