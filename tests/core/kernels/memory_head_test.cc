#include "core/kernels/memory_head.h"

#include <algorithm>
#include <memory>

#include "core/kernels/product.h"
#include "tests/core/kernels/kernel_fixture.h"

namespace mnemosyne {
namespace {

using MemoryHeadTest = KernelTest;
using Matrix = std::vector<double>;  // [out, in]

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Equations 13 to 15 as they stand, in double: the weights after every token are formed.
class Recurrence {
 public:
  Recurrence(const MemoryShape& shape, const std::vector<std::vector<float>>& weights) : shape_(shape) {
    for (const std::vector<float>& layer : weights) {
      weights_.emplace_back(layer.begin(), layer.end());
      velocity_.emplace_back(layer.size());
    }
  }

  struct Step {
    std::vector<double> read;
    double surprise;
  };
  Step Next(const float* query, const float* key, const float* value, double theta, double log_eta, double log_keep) {
    if (tokens_++ % shape_.chunk == 0) frozen_ = weights_;
    std::vector<std::vector<double>> inputs, before;
    const std::vector<double> output = Run(frozen_, key, &inputs, &before);
    std::vector<double> delta(output.size());
    Step step = {};
    for (size_t i = 0; i < output.size(); ++i) {
      delta[i] = output[i] - value[i];
      step.surprise += delta[i] * delta[i];
      delta[i] *= 2;
    }
    std::vector<Matrix> gradients(shape_.depth);
    double squares = 0;
    for (int64_t l = shape_.depth - 1; l >= 0; --l) {
      const int64_t ins = shape_.in(l), outs = shape_.out(l);
      for (int64_t o = 0; o < outs; ++o) {
        for (int64_t i = 0; i < ins; ++i) {
          gradients[l].push_back(delta[o] * inputs[l][i]);
          squares += std::pow(gradients[l].back(), 2);
        }
      }
      std::vector<double> below(ins);
      for (int64_t i = 0; l > 0 && i < ins; ++i) {
        for (int64_t o = 0; o < outs; ++o) below[i] += frozen_[l][o * ins + i] * delta[o];
        const double x = before[l - 1][i], s = Sigmoid(x);
        below[i] *= s * (1 + x * (1 - s));
      }
      delta = below;
    }
    if (shape_.max_grad_norm > 0) theta *= std::min(1.0, shape_.max_grad_norm / std::sqrt(squares));
    const double eta = shape_.momentum ? std::exp(log_eta) : 0, keep = shape_.decay ? std::exp(log_keep) : 1;
    for (int64_t l = 0; l < shape_.depth; ++l) {
      for (size_t i = 0; i < weights_[l].size(); ++i) {
        velocity_[l][i] = eta * velocity_[l][i] - theta * gradients[l][i];
        weights_[l][i] = keep * weights_[l][i] + velocity_[l][i];
      }
    }
    step.read = Run(weights_, query, &inputs, &before);
    return step;
  }
  const std::vector<Matrix>& weights() const { return weights_; }
  const std::vector<Matrix>& velocity() const { return velocity_; }

 private:
  std::vector<double> Run(const std::vector<Matrix>& weights, const float* x, std::vector<std::vector<double>>* inputs,
                          std::vector<std::vector<double>>* before) const {
    inputs->assign(1, std::vector<double>(x, x + shape_.head_dim));
    before->clear();
    for (int64_t l = 0; l < shape_.depth; ++l) {
      std::vector<double> y(shape_.out(l));
      for (int64_t o = 0; o < shape_.out(l); ++o) {
        for (int64_t i = 0; i < shape_.in(l); ++i) y[o] += weights[l][o * shape_.in(l) + i] * (*inputs)[l][i];
      }
      before->push_back(y);
      for (double& v : y) v *= l + 1 < shape_.depth ? Sigmoid(v) : 1;
      inputs->push_back(y);
    }
    std::vector<double> output = inputs->back();
    for (int64_t i = 0; shape_.residual && i < shape_.head_dim; ++i) output[i] += x[i];
    return output;
  }

  const MemoryShape shape_;
  int64_t tokens_ = 0;
  std::vector<Matrix> weights_, velocity_, frozen_;
};

// A head's state as its owner keeps it between calls.
struct HeadState {
  std::vector<std::vector<float>> weights, velocity, inputs, deltas;  // a layer each
  std::vector<float> theta, log_eta, log_keep;
  int64_t open = 0;
  bool across = false;  // weights and velocity: [in, out]
};

TEST_F(MemoryHeadTest, IsTheRecurrenceHoweverAStreamIsCut) {
  OnEveryTarget([&] {
    for (int round = 0; round < 12; ++round) {
      // Widths of whole panels are read and written where they are, others by way of copies.
      const auto width = [&] { return Below(2) == 0 ? kPanelColumns * (1 + Below(2)) : 1 + Below(50); };
      const MemoryShape shape = {width(),        1 + Below(3),  width(),       1 + Below(80),
                                 round % 2 == 0, Below(2) == 0, Below(2) == 0, Below(2) == 0 ? 0.0f : 0.8f};
      const int64_t d = shape.head_dim, tokens = 1 + Below(200);
      HeadState state;
      for (int64_t l = 0; l < shape.depth; ++l) {
        state.weights.push_back(Drawn(shape.in(l)*shape.out(l), 0.7f / std::sqrt(static_cast<float>(shape.in(l)))));
        state.velocity.emplace_back(state.weights[l].size());
        state.inputs.emplace_back();
        state.deltas.emplace_back();
      }
      Recurrence recurrence(shape, state.weights);
      const float scale = 1 / std::sqrt(static_cast<float>(d));
      const std::vector<float> queries = Drawn(tokens * d, scale), keys = Drawn(tokens * d, scale),
                               values = Drawn(tokens * d, scale);
      std::vector<float> theta = Drawn(tokens), log_eta = Drawn(tokens), log_keep = Drawn(tokens);
      for (float& v : theta) v = 0.02f * std::abs(v) / static_cast<float>(shape.chunk);  // so that nothing grows
      for (float& v : log_eta) v = -0.3f * std::abs(v);
      for (float& v : log_keep) v = -0.1f * std::abs(v);

      std::vector<float> reads(tokens * d), surprise(2 * tokens);
      std::unique_ptr<HeldMemoryHead> held;
      for (int64_t done = 0; done < tokens;) {
        const int64_t here = std::min(1 + Below(60), tokens - done);
        HeadState next = state;
        next.across = state.across || state.open + here >= shape.chunk;
        next.open = (state.open + here) % shape.chunk;
        MemoryHeadInput in = {};
        MemoryHeadOutput out = {};
        in.tokens = here;
        in.across = state.across;
        in.queries = queries.data() + done * d;
        in.keys = keys.data() + done * d;
        in.values = values.data() + done * d;
        in.theta = theta.data() + done;
        in.log_eta = shape.momentum ? log_eta.data() + done : nullptr;
        in.log_keep = shape.decay ? log_keep.data() + done : nullptr;
        in.open_tokens = state.open;
        in.open_theta = state.theta.data();
        in.open_log_eta = state.log_eta.data();
        in.open_log_keep = state.log_keep.data();
        for (auto* gate : {&next.theta, &next.log_eta, &next.log_keep}) gate->resize(next.open);
        out.reads = reads.data() + done * d;
        out.surprise = surprise.data() + 2 * done;
        out.surprise_stride = 2;
        out.open_theta = next.theta.data();
        out.open_log_eta = shape.momentum ? next.log_eta.data() : nullptr;
        out.open_log_keep = shape.decay ? next.log_keep.data() : nullptr;
        for (int64_t l = 0; l < shape.depth; ++l) {
          next.inputs[l].resize(next.open * shape.in(l));
          next.deltas[l].resize(next.open * shape.out(l));
          in.weights[l] = state.weights[l].data();
          in.velocity[l] = state.velocity[l].data();
          in.open_inputs[l] = state.inputs[l].data();
          in.open_deltas[l] = state.deltas[l].data();
          out.weights[l] = next.weights[l].data();
          out.velocity[l] = next.velocity[l].data();
          out.open_inputs[l] = next.inputs[l].data();
          out.open_deltas[l] = next.deltas[l].data();
        }
        // From a place inside the stream on, a held head goes along, a token at a time.
        if (held == nullptr && (done > 0 || here == tokens)) held = std::make_unique<HeldMemoryHead>(shape, in);
        StepMemoryHead(shape, in, out);
        for (int64_t t = 0; held != nullptr && t < here; ++t) {
          std::vector<float> read(d);
          float surprised = 0;
          MemoryHeadInput one = {};
          MemoryHeadOutput told = {};
          one.tokens = 1;
          one.queries = in.queries + t * d;
          one.keys = in.keys + t * d;
          one.values = in.values + t * d;
          one.theta = in.theta + t;
          one.log_eta = shape.momentum ? in.log_eta + t : nullptr;
          one.log_keep = shape.decay ? in.log_keep + t : nullptr;
          told.reads = read.data();
          told.surprise = &surprised;
          told.surprise_stride = 1;
          held->Step(one, told);
          ASSERT_EQ(surprised, out.surprise[2 * t]);
          for (int64_t i = 0; i < d; ++i) ASSERT_EQ(read[i], out.reads[t * d + i]) << "token " << done + t;
        }
        state = next;
        done += here;
      }

      std::vector<Matrix> closed = recurrence.weights(), closed_velocity = recurrence.velocity();
      for (int64_t t = 0; t < tokens; ++t) {
        const Recurrence::Step step = recurrence.Next(queries.data() + t * d, keys.data() + t * d,
                                                      values.data() + t * d, theta[t], log_eta[t], log_keep[t]);
        ASSERT_NEAR(surprise[2 * t], step.surprise, 1e-4 * (1 + step.surprise));
        ASSERT_EQ(surprise[2 * t + 1], 0);  // the next head's
        for (int64_t i = 0; i < d; ++i)
          ASSERT_NEAR(reads[t * d + i], step.read[i], 1e-4 * (1 + std::abs(step.read[i]))) << "token " << t;
        if ((t + 1) % shape.chunk == 0) {
          closed = recurrence.weights();
          closed_velocity = recurrence.velocity();
        }
      }
      for (int64_t l = 0; l < shape.depth; ++l) {
        const int64_t ins = shape.in(l), outs = shape.out(l);
        for (int64_t i = 0; i < ins * outs; ++i) {
          const int64_t at = state.across ? i % ins * outs + i / ins : i;
          ASSERT_NEAR(state.weights[l][at], closed[l][i], 1e-4 * (1 + std::abs(closed[l][i])));
          ASSERT_NEAR(state.velocity[l][at], closed_velocity[l][i], 1e-4 * (1 + std::abs(closed_velocity[l][i])));
        }
      }
    }
  });
}

}  // namespace
}  // namespace mnemosyne
