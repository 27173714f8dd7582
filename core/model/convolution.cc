#include "core/model/convolution.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels/causal_conv.h"

namespace mnemosyne {

using at::Tensor;

namespace {

struct Shape {
  int64_t sessions, tokens, kinds, heads, width, taps;

  Shape(const Tensor& history, const Tensor& by_tap, int64_t heads, int64_t width)
      : sessions(history.size(0)),
        tokens(history.size(1) - by_tap.size(0) + 1),
        kinds(by_tap.size(1) / (heads * width)),
        heads(heads),
        width(width),
        taps(by_tap.size(0)) {}

  int64_t inner() const { return heads * width; }
  int64_t channels() const { return kinds * inner(); }
  int64_t OfHistory(int64_t session, int64_t kind) const {
    return session * (taps - 1 + tokens) * channels() + kind * inner();
  }
  int64_t OfOut(int64_t session, int64_t kind) const { return (kind * sessions + session) * inner() * tokens; }

  // Calls work(session, kind) for each.
  template <typename Work>
  void ForEach(const Work& work) const {
    for (int64_t session = 0; session < sessions; ++session) {
      for (int64_t kind = 0; kind < kinds; ++kind) work(session, kind);
    }
  }
};

// In float32 on a CPU.
class OnCpu : public torch::autograd::Function<OnCpu> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& history_in, const Tensor& weight,
                        const Tensor& bias_in, int64_t heads, int64_t width) {
    const Tensor history = history_in.contiguous(), by_tap = weight.t().contiguous(), bias = bias_in.contiguous();
    context->save_for_backward({history, by_tap});
    context->saved_data["heads"] = heads;
    context->saved_data["width"] = width;
    const Shape shape(history, by_tap, heads, width);
    Tensor out = at::empty({shape.kinds, shape.sessions * heads, shape.tokens, width}, history.options());
    shape.ForEach([&](int64_t session, int64_t kind) {
      const int64_t first = kind * shape.inner();
      CausalConv({history.data_ptr<float>() + shape.OfHistory(session, kind), by_tap.data_ptr<float>() + first,
                  bias.data_ptr<float>() + first, shape.channels(), shape.channels()},
                 shape.tokens, shape.inner(), shape.taps, width, out.data_ptr<float>() + shape.OfOut(session, kind));
    });
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& outputs) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const Tensor &history = saved[0], &by_tap = saved[1], by_out = outputs[0].contiguous();
    const Shape shape(history, by_tap, context->saved_data["heads"].toInt(), context->saved_data["width"].toInt());
    const Tensor by_history = at::empty_like(history), by_taps = at::zeros_like(by_tap),
                 by_bias = at::zeros({shape.channels()}, by_tap.options());
    shape.ForEach([&](int64_t session, int64_t kind) {
      const int64_t first = kind * shape.inner(), from = shape.OfHistory(session, kind);
      CausalConvBackward(
          {history.data_ptr<float>() + from, by_tap.data_ptr<float>() + first, /*bias=*/nullptr, shape.channels(),
           shape.channels()},
          by_out.data_ptr<float>() + shape.OfOut(session, kind), shape.tokens, shape.inner(), shape.taps, shape.width,
          {by_history.data_ptr<float>() + from, by_taps.data_ptr<float>() + first, by_bias.data_ptr<float>() + first});
    });
    return {by_history, by_taps.t(), by_bias, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor CausalConvolution(const Tensor& history, const Tensor& weight, const Tensor& bias, int64_t heads,
                         int64_t head_dim) {
  if (history.is_cpu() && history.scalar_type() == at::kFloat) {
    return OnCpu::apply(history, weight, bias, heads, head_dim);
  }
  const Tensor convolved = at::conv1d(history.transpose(1, 2), weight.unsqueeze(1), bias, at::IntArrayRef({1}),
                                      at::IntArrayRef({0}), at::IntArrayRef({1}), /*groups=*/weight.size(0))
                               .transpose(1, 2);  // [N, T, kinds H d]
  const int64_t sessions = convolved.size(0), tokens = convolved.size(1), kinds = weight.size(0) / (heads * head_dim);
  return convolved.reshape({sessions, tokens, kinds, heads, head_dim})
      .permute({2, 0, 3, 1, 4})
      .reshape({kinds, sessions * heads, tokens, head_dim});
}

}  // namespace mnemosyne
