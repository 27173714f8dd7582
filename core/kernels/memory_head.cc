#include "core/kernels/memory_head.h"

#include <cmath>
#include <cstring>

#include "core/kernels/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/memory_head.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/kernels/product-inl.h"
#include "core/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

class MemoryHead {
 public:
  MemoryHead(const MemoryShape& shape, const MemoryHeadInput& in, Workspace* space)
      : shape_(shape), chunk_stride_(PaddedStride(shape.chunk)), open_(in.open_tokens) {
    const int64_t chunk = shape.chunk;
    int64_t widest = shape.head_dim;
    for (int64_t l = 0; l < shape.depth; ++l) {
      const int64_t ins = shape.in(l), outs = shape.out(l);
      in_stride_[l] = PaddedStride(ins);
      out_stride_[l] = PaddedStride(outs);
      widest = std::max({widest, ins, outs});
      weights_[l] = space->Take(ins * out_stride_[l]);
      TransposeRows(in.weights[l], ins, outs, ins, weights_[l], out_stride_[l]);
      velocity_[l] = space->Take(ins * out_stride_[l]);
      if (shape.momentum) TransposeRows(in.velocity[l], ins, outs, ins, velocity_[l], out_stride_[l]);
      if (l > 0) backward_[l] = space->Take(outs * in_stride_[l]);
      inputs_[l] = space->Take(chunk * in_stride_[l]);
      deltas_[l] = space->Take(chunk * out_stride_[l]);
      before_[l] = space->Take(chunk * out_stride_[l]);
      for (int64_t t = 0; t < open_; ++t) {
        std::memcpy(inputs_[l] + t * in_stride_[l], in.open_inputs[l] + t * ins, ins * sizeof(float));
        std::memcpy(deltas_[l] + t * out_stride_[l], in.open_deltas[l] + t * outs, outs * sizeof(float));
      }
    }
    MakeBackward();
    width_stride_ = PaddedStride(widest);
    for (float** table : {&keep_table_, &momentum_table_, &mix_, &overlap_})
      *table = space->Take(chunk * chunk_stride_);
    for (float** buffer : {&read_, &next_, &more_, &steps_}) *buffer = space->Take(chunk * width_stride_);
    inputs_across_ = space->Take(widest * chunk_stride_);
    for (float** gate : {&theta_, &log_eta_, &log_keep_, &eta_sums_, &keep_sums_, &keep_, &carry_, &velocity_keep_}) {
      *gate = space->Take(chunk_stride_);
    }
    if (open_ > 0) {
      std::copy(in.open_theta, in.open_theta + open_, theta_);
      if (shape.momentum) std::copy(in.open_log_eta, in.open_log_eta + open_, log_eta_);
      if (shape.decay) std::copy(in.open_log_keep, in.open_log_keep + open_, log_keep_);
    }
  }

  // Tokens [from, from + count) of `in`, which the open chunk has room for.
  void Step(const MemoryHeadInput& in, int64_t from, int64_t count, const MemoryHeadOutput& out) {
    Write(in, from, count, out);
    MakeTables(count);
    Read(in.queries + from * shape_.head_dim, count, out.reads + from * shape_.head_dim);
    if (open_ == shape_.chunk) Close();
  }

  void Finish(const MemoryHeadOutput& out) const {
    for (int64_t l = 0; l < shape_.depth; ++l) {
      const int64_t ins = shape_.in(l), outs = shape_.out(l);
      if (closed_) {
        TransposeRows(weights_[l], out_stride_[l], ins, outs, out.weights[l], ins);
        TransposeRows(velocity_[l], out_stride_[l], ins, outs, out.velocity[l], ins);
      }
      for (int64_t t = 0; t < open_; ++t) {
        std::memcpy(out.open_inputs[l] + t * ins, inputs_[l] + t * in_stride_[l], ins * sizeof(float));
        std::memcpy(out.open_deltas[l] + t * outs, deltas_[l] + t * out_stride_[l], outs * sizeof(float));
      }
    }
    if (open_ == 0) return;
    std::copy(theta_, theta_ + open_, out.open_theta);
    if (shape_.momentum) std::copy(log_eta_, log_eta_ + open_, out.open_log_eta);
    if (shape_.decay) std::copy(log_keep_, log_keep_ + open_, out.open_log_keep);
  }

 private:
  // The weights as the error goes back through them, of all layers but the first.
  void MakeBackward() {
    for (int64_t l = 1; l < shape_.depth; ++l) {
      TransposeRows(weights_[l], out_stride_[l], shape_.in(l), shape_.out(l), backward_[l], in_stride_[l]);
    }
  }

  // Appends to the open chunk: the inputs, errors and steps of new tokens, at the weights of the chunk's start.
  void Write(const MemoryHeadInput& in, int64_t from, int64_t count, const MemoryHeadOutput& out) {
    const int64_t depth = shape_.depth, d = shape_.head_dim, first = open_;
    const float* const keys = in.keys + from * d;
    const float* const values = in.values + from * d;
    for (int64_t t = 0; t < count; ++t) {
      std::memcpy(inputs_[0] + (first + t) * in_stride_[0], keys + t * d, d * sizeof(float));
    }
    for (int64_t l = 0; l < depth; ++l) {
      const int64_t stride = out_stride_[l];
      Product<Into::kSet>({inputs_[l] + first * in_stride_[l], in_stride_[l]}, count, shape_.in(l), weights_[l], stride,
                          shape_.out(l), before_[l], stride);
      if (l + 1 == depth) break;
      for (int64_t t = 0; t < count; ++t) {
        ForEach(
            shape_.out(l), inputs_[l + 1] + (first + t) * in_stride_[l + 1],
            [](FloatTag tag, FloatVec v) HWY_ATTR { return Silu(tag, v); }, before_[l] + t * stride);
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      float* const delta = deltas_[depth - 1] + (first + t) * out_stride_[depth - 1];
      const float* const output = before_[depth - 1] + t * out_stride_[depth - 1];
      const float* const value = values + t * d;
      if (shape_.residual) {
        ForEach(
            d, delta, [](FloatTag, FloatVec o, FloatVec k, FloatVec v) HWY_ATTR { return hn::Sub(hn::Add(o, k), v); },
            output, keys + t * d, value);
      } else {
        ForEach(
            d, delta, [](FloatTag, FloatVec o, FloatVec v) HWY_ATTR { return hn::Sub(o, v); }, output, value);
      }
      out.surprise[(from + t) * out.surprise_stride] = SumOfSquares(delta, d);
      Scale(2.0f, d, delta);
    }
    for (int64_t l = depth - 1; l > 0; --l) {
      float* const below = deltas_[l - 1] + first * out_stride_[l - 1];
      Product<Into::kSet>({deltas_[l] + first * out_stride_[l], out_stride_[l]}, count, shape_.out(l), backward_[l],
                          in_stride_[l], shape_.in(l), below, out_stride_[l - 1]);
      for (int64_t t = 0; t < count; ++t) {
        float* const row = below + t * out_stride_[l - 1];
        ForEach(
            shape_.in(l), row,
            [](FloatTag tag, FloatVec v, FloatVec x) HWY_ATTR { return hn::Mul(v, SiluGrad(tag, x)); }, row,
            before_[l - 1] + t * out_stride_[l - 1]);
      }
    }
    for (int64_t t = 0; t < count; ++t) theta_[first + t] = in.theta[from + t] * GradientBound(first + t);
    if (shape_.momentum) std::copy(in.log_eta + from, in.log_eta + from + count, log_eta_ + first);
    if (shape_.decay) std::copy(in.log_keep + from, in.log_keep + from + count, log_keep_ + first);
    open_ += count;
  }

  // What the step of one token is multiplied by, so that its gradient's norm stays within the bound.
  float GradientBound(int64_t token) const {
    if (shape_.max_grad_norm <= 0) return 1.0f;
    float squared = 0;
    for (int64_t l = 0; l < shape_.depth; ++l) {
      squared += SumOfSquares(deltas_[l] + token * out_stride_[l], shape_.out(l)) *
                 SumOfSquares(inputs_[l] + token * in_stride_[l], shape_.in(l));
    }
    const float bound = shape_.max_grad_norm / std::sqrt(std::max(squared, 1e-24f));
    return bound > 1.0f ? 1.0f : bound;  // NaN stays NaN
  }

  // exp(sums[row] - sums[j]) for j <= row, else 0: row [open_, filled up to a panel].
  void DecayRow(const float* sums, int64_t row, float* to) const {
    const FloatTag d;
    const FloatVec of_row = hn::Set(d, sums[row]);
    int64_t j = 0;
    for (; j <= row; j += kLanes) {
      // Behind the row's end the difference may be anything: it is not kept.
      hn::StoreU(Exp(d, hn::Sub(of_row, hn::LoadU(d, sums + j))), d, to + j);
    }
    std::fill(to + row + 1, to + chunk_stride_, 0.0f);
  }

  static void Accumulate(const float* values, int64_t count, float* sums) {
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sums[i] = sum += values[i];
  }

  // How the chunk's tokens act on its last `rows`: mix_ [rows, open_] (Cmat, with the steps), keep_, carry_ [rows].
  void MakeTables(int64_t rows) {
    rows_of_tables_ = rows;
    const int64_t n = open_, before = n - rows, stride = chunk_stride_;
    if (shape_.decay) {
      Accumulate(log_keep_, n, keep_sums_);
      for (int64_t r = 0; r < rows; ++r) {
        DecayRow(keep_sums_, before + r, keep_table_ + r * stride);
        keep_[r] = std::exp(keep_sums_[before + r]);
      }
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = keep_table_ + r * stride;
        std::fill(row, row + before + r + 1, 1.0f);
        std::fill(row + before + r + 1, row + stride, 0.0f);
      }
    }
    if (shape_.momentum) {
      Accumulate(log_eta_, n, eta_sums_);
      for (int64_t i = 0; i < n; ++i) {
        DecayRow(eta_sums_, i, momentum_table_ + i * stride);
        velocity_keep_[i] = std::exp(eta_sums_[i]);
      }
      Product<Into::kSet>({keep_table_, stride}, rows, n, momentum_table_, stride, n, mix_, stride);
      for (int64_t r = 0; r < rows; ++r) {
        carry_[r] = SumOver(
            n, [](FloatTag, FloatVec a, FloatVec b) HWY_ATTR { return hn::Mul(a, b); }, keep_table_ + r * stride,
            velocity_keep_);
      }
    } else {
      std::memcpy(mix_, keep_table_, rows * stride * sizeof(float));
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* const row = mix_ + r * stride;
      ForEach(
          n, row, [](FloatTag, FloatVec m, FloatVec theta) HWY_ATTR { return hn::Mul(m, theta); }, row, theta_);
    }
  }

  // Reads with the weights after each of the last `rows` tokens.
  void Read(const float* queries, int64_t rows, float* to) {
    const int64_t d = shape_.head_dim, n = open_;
    Strided from = {queries, d};
    for (int64_t l = 0; l < shape_.depth; ++l) {
      const int64_t ins = shape_.in(l), outs = shape_.out(l), stride = out_stride_[l];
      float* const y = l % 2 == 0 ? read_ : next_;  // `from` is the other one
      Product<Into::kSet>(from, rows, ins, weights_[l], stride, outs, y, width_stride_);
      if (shape_.momentum) {
        Product<Into::kSet>(from, rows, ins, velocity_[l], stride, outs, more_, width_stride_);
      }
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = y + r * width_stride_;
        if (shape_.decay) Scale(keep_[r], outs, row);
        if (!shape_.momentum) continue;
        ForEach(
            outs, row,
            [&](FloatTag tag, FloatVec v, FloatVec s) HWY_ATTR { return hn::MulAdd(s, hn::Set(tag, carry_[r]), v); },
            row, more_ + r * width_stride_);
      }
      TransposeRows(inputs_[l], in_stride_[l], n, ins, inputs_across_, chunk_stride_);
      Product<Into::kSet>(from, rows, ins, inputs_across_, chunk_stride_, n, overlap_, chunk_stride_);
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = overlap_ + r * chunk_stride_;
        ForEach(
            n, row, [](FloatTag, FloatVec a, FloatVec b) HWY_ATTR { return hn::Mul(a, b); }, row,
            mix_ + r * chunk_stride_);
      }
      Product<Into::kSubtract>({overlap_, chunk_stride_}, rows, n, deltas_[l], stride, outs, y, width_stride_);
      if (l + 1 < shape_.depth) {
        for (int64_t r = 0; r < rows; ++r) {
          float* const row = y + r * width_stride_;
          ForEach(
              outs, row, [](FloatTag tag, FloatVec v) HWY_ATTR { return Silu(tag, v); }, row);
        }
      }
      from = {y, width_stride_};
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* const row = from.values + r * from.row_stride;
      if (shape_.residual) {
        ForEach(
            d, to + r * d, [](FloatTag, FloatVec a, FloatVec b) HWY_ATTR { return hn::Add(a, b); }, row,
            queries + r * d);
      } else {
        std::memcpy(to + r * d, row, d * sizeof(float));
      }
    }
  }

  // state [in, out] -= inputs^T (deltas * steps), summed over the chunk.
  void Learn(int64_t l, const float* steps, float* state) {
    for (int64_t t = 0; t < open_; ++t) {
      ForEach(
          shape_.out(l), steps_ + t * width_stride_,
          [&](FloatTag tag, FloatVec v) HWY_ATTR { return hn::Mul(v, hn::Set(tag, steps[t])); },
          deltas_[l] + t * out_stride_[l]);
    }
    Product<Into::kSubtract>({inputs_[l], 1, in_stride_[l]}, shape_.in(l), open_, steps_, width_stride_, shape_.out(l),
                             state, out_stride_[l]);
  }

  // The chunk is whole: its tables' last row is what it leaves.
  void Close() {
    const int64_t n = open_;
    // Of the tables, the last row made: of `rows` rows it is the last one of mix_.
    const float* const weight_steps = mix_ + (rows_of_tables_ - 1) * chunk_stride_;
    float* const velocity_steps = momentum_table_ + (n - 1) * chunk_stride_;
    if (shape_.momentum) {
      ForEach(
          n, velocity_steps, [](FloatTag, FloatVec a, FloatVec b) HWY_ATTR { return hn::Mul(a, b); }, velocity_steps,
          theta_);
    }
    const float keep = shape_.decay ? keep_[rows_of_tables_ - 1] : 1.0f;
    for (int64_t l = 0; l < shape_.depth; ++l) {
      const int64_t elements = shape_.in(l)*out_stride_[l];
      if (shape_.momentum) {
        const float carry = carry_[rows_of_tables_ - 1];
        ForEach(
            elements, weights_[l],
            [&](FloatTag tag, FloatVec w, FloatVec s)
                HWY_ATTR { return hn::MulAdd(s, hn::Set(tag, carry), hn::Mul(w, hn::Set(tag, keep))); },
            weights_[l], velocity_[l]);
        Scale(velocity_keep_[n - 1], elements, velocity_[l]);
        Learn(l, velocity_steps, velocity_[l]);
      } else {
        if (shape_.decay) Scale(keep, elements, weights_[l]);
        std::fill(velocity_[l], velocity_[l] + elements, 0.0f);
        std::fill(velocity_keep_, velocity_keep_ + n, 0.0f);
        velocity_keep_[n - 1] = theta_[n - 1];
        Learn(l, velocity_keep_, velocity_[l]);
      }
      Learn(l, weight_steps, weights_[l]);
    }
    MakeBackward();
    open_ = 0;
    closed_ = true;
  }

  template <typename T>
  using Layers = std::array<T, kMaxMemoryDepth>;

  const MemoryShape& shape_;
  const int64_t chunk_stride_;
  int64_t width_stride_ = 0;
  int64_t rows_of_tables_ = 0;
  Layers<int64_t> in_stride_{}, out_stride_{};
  Layers<float*> weights_{}, velocity_{};  // [in, out]: the transposed of M and S
  Layers<float*> backward_{};              // [out, in]: M
  Layers<float*> inputs_{}, deltas_{};     // [open_, in], [open_, out]: the open chunk
  Layers<float*> before_{};                // [new tokens, out]
  float *keep_table_ = nullptr, *momentum_table_ = nullptr, *mix_ = nullptr;  // B, E, B E theta
  float *overlap_ = nullptr, *read_ = nullptr, *next_ = nullptr, *more_ = nullptr, *steps_ = nullptr;
  float* inputs_across_ = nullptr;  // [in, open_]
  float *theta_ = nullptr, *log_eta_ = nullptr, *log_keep_ = nullptr, *eta_sums_ = nullptr, *keep_sums_ = nullptr;
  float *keep_ = nullptr, *carry_ = nullptr, *velocity_keep_ = nullptr;
  int64_t open_;
  bool closed_ = false;
};

void StepMemoryHeadHere(const MemoryShape& shape, const MemoryHeadInput& in, const MemoryHeadOutput& out) {
  int64_t count = 0, widest = shape.head_dim;
  for (int64_t l = 0; l < shape.depth; ++l) {
    const int64_t ins = PaddedStride(shape.in(l)), outs = PaddedStride(shape.out(l));
    count += 3 * ins * outs + shape.chunk * (ins + 2 * outs);
    widest = std::max({widest, ins, outs});
  }
  const int64_t chunk = PaddedStride(shape.chunk);
  count += 4 * chunk * chunk + 5 * chunk * PaddedStride(widest) + 8 * chunk;
  Workspace space(count, /*buffers=*/6 * shape.depth + 17);
  MemoryHead head(shape, in, &space);
  for (int64_t done = 0, room = shape.chunk - in.open_tokens; done < in.tokens; room = shape.chunk) {
    const int64_t here = std::min(room, in.tokens - done);
    head.Step(in, done, here, out);
    done += here;
  }
  head.Finish(out);
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(StepMemoryHeadHere);

void StepMemoryHead(const MemoryShape& shape, const MemoryHeadInput& in, const MemoryHeadOutput& out) {
  HWY_DYNAMIC_DISPATCH(StepMemoryHeadHere)(shape, in, out);
}

}  // namespace mnemosyne
#endif
