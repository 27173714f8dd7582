// Small tensor formulas that several layers share. Shapes are given at each; dtype and device follow the arguments.
// Where no gradient is asked for on a CPU, core/kernels compute Projection, RmsNorm, GatedSilu and Sigmoid.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "core/kernels/product.h"

namespace mnemosyne {

// Whether core/kernels may compute with it: float32 on a CPU, and no gradient is asked for.
bool KernelsFit(const at::Tensor& tensor);

// A weight [out, in] that rows are multiplied by. Made where KernelsFit(weight), it keeps a copy laid out for kernels.
class Projection {
 public:
  Projection() = default;  // not defined
  explicit Projection(at::Tensor weight, WeightType type = WeightType::kFloat32);

  at::Tensor operator()(const at::Tensor& x) const;  // [..., in] -> [..., out]
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;
  std::shared_ptr<const PackedMatrix> packed_;  // null: not for kernels
};

// [..., m, n] in the order of its indices. As Tensor::contiguous, but quick with matrices that lie across in memory, as
// kernels leave a memory's weights.
at::Tensor InOrder(const at::Tensor& matrices);

// Rows [..., D] of a table [V, D] by their indices [...], int64.
at::Tensor RowsOf(const at::Tensor& table, const at::Tensor& indices);

// input [..., in], weight [out, in] -> [..., out]
at::Tensor Linear(const at::Tensor& input, const at::Tensor& weight);

// x / sqrt(mean(x^2) + eps) * weight over the last dimension.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// x / max(|x|, 1e-12) over the last dimension.
at::Tensor L2Normalize(const at::Tensor& x);

// Of x [..., 2 F], the first half times the silu of the second -> [..., F]
at::Tensor GatedSilu(const at::Tensor& x);

at::Tensor Sigmoid(const at::Tensor& x);

// Derivative of silu at x.
at::Tensor SiluGrad(const at::Tensor& x);

}  // namespace mnemosyne
