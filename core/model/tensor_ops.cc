#include "core/model/tensor_ops.h"

#include <c10/core/GradMode.h>

#include "core/kernels/rows.h"

namespace mnemosyne {

using at::Tensor;

namespace {

std::vector<int64_t> WithLast(const Tensor& like, int64_t last) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape.back() = last;
  return shape;
}

int64_t Rows(const Tensor& x) { return x.numel() / x.size(-1); }

}  // namespace

bool KernelsFit(const Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && !c10::GradMode::is_enabled();
}

Projection::Projection(Tensor weight, WeightType type) : weight_(std::move(weight)) {
  if (!weight_.defined() || !KernelsFit(weight_)) return;
  const Tensor rows = weight_.contiguous();
  packed_ = std::make_shared<const PackedMatrix>(rows.data_ptr<float>(), rows.size(0), rows.size(1), type);
}

Tensor Projection::operator()(const Tensor& x) const {
  if (packed_ == nullptr || !KernelsFit(x)) return Linear(x, weight_);
  const Tensor from = x.contiguous();
  Tensor y = at::empty(WithLast(x, packed_->outputs()), x.options());
  Multiply(from.data_ptr<float>(), packed_->inputs(), *packed_, Rows(x), y.data_ptr<float>(), packed_->outputs());
  return y;
}

Tensor InOrder(const Tensor& matrices) {
  if (matrices.is_contiguous() || matrices.dim() < 2 || !KernelsFit(matrices)) return matrices.contiguous();
  const Tensor across = matrices.transpose(-1, -2);
  if (!across.is_contiguous()) return matrices.contiguous();
  const int64_t rows = across.size(-2), columns = across.size(-1);
  Tensor out = at::empty(matrices.sizes(), matrices.options());
  for (int64_t at = 0; at < out.numel(); at += rows * columns) {
    Transpose(across.data_ptr<float>() + at, rows, columns, out.data_ptr<float>() + at);
  }
  return out;
}

Tensor RowsOf(const Tensor& table, const Tensor& indices) {
  // Its derivative is cheap, and it is no operator of LibTorch 1.13's device `meta`, on which steps are tested.
  if (c10::GradMode::is_enabled() || table.is_cpu()) return at::embedding(table, indices);
  return table.index({indices});
}

Tensor Linear(const Tensor& input, const Tensor& weight) {
  return at::mm(input.reshape({-1, input.size(-1)}), weight.t()).view(WithLast(input, weight.size(0)));
}

Tensor RmsNorm(const Tensor& input, const Tensor& weight, double eps) {
  if (!KernelsFit(input)) {
    return input * (input * input).mean(-1, /*keepdim=*/true).add_(eps).rsqrt() * weight;
  }
  const Tensor x = input.contiguous();
  Tensor y = at::empty_like(x);
  const int64_t width = x.size(-1);
  RmsNormRows(x.data_ptr<float>(), width, Rows(x), width, weight.data_ptr<float>(), static_cast<float>(eps),
              y.data_ptr<float>(), width);
  return y;
}

Tensor L2Normalize(const Tensor& x) { return x / x.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-12); }

Tensor GatedSilu(const Tensor& input) {
  if (!KernelsFit(input)) {
    const std::vector<Tensor> halves = input.chunk(2, -1);
    return halves[0] * at::silu(halves[1]);
  }
  const Tensor x = input.contiguous();
  const int64_t width = x.size(-1) / 2;
  Tensor y = at::empty(WithLast(x, width), x.options());
  GatedSiluRows(x.data_ptr<float>(), Rows(x), width, y.data_ptr<float>());
  return y;
}

Tensor Sigmoid(const Tensor& input) {
  // LibTorch's bits depend on where in the tensor an element lies: its last few go another way.
  if (!KernelsFit(input)) return input.sigmoid();
  const Tensor x = input.contiguous();
  Tensor y = at::empty_like(x);
  ScaledSigmoid(x.data_ptr<float>(), x.numel(), 1.0f, y.data_ptr<float>());
  return y;
}

Tensor SiluGrad(const Tensor& x) {
  const Tensor s = x.sigmoid();
  return s * (1.0 + x * (1.0 - s));
}

}  // namespace mnemosyne
