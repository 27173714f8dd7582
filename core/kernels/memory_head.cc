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

#ifndef MNEMOSYNE_MEMORY_HEAD_BUFFERS
#define MNEMOSYNE_MEMORY_HEAD_BUFFERS
namespace mnemosyne {
namespace {

int64_t HeldFloats(const MemoryShape& shape) {
  int64_t count = 3 * PaddedStride(shape.chunk);
  for (int64_t l = 0; l < shape.depth; ++l) {
    const int64_t ins = PaddedStride(shape.in(l)), outs = PaddedStride(shape.out(l));
    count += 2 * shape.in(l)*outs + (l > 0 ? shape.out(l) * ins : 0) + shape.chunk * (ins + outs);
  }
  return count;
}

int64_t HeldBuffers(const MemoryShape& shape) { return 5 * shape.depth + 3; }

MemoryHeadBuffers Carve(const MemoryShape& shape, Space* space) {
  MemoryHeadBuffers held;
  for (int64_t l = 0; l < shape.depth; ++l) {
    const int64_t ins = PaddedStride(shape.in(l)), outs = PaddedStride(shape.out(l));
    held.weights[l] = space->Take(shape.in(l)*outs);
    held.velocity[l] = space->Take(shape.in(l)*outs);
    if (l > 0) held.backward[l] = space->Take(shape.out(l) * ins);
    held.inputs[l] = space->Take(shape.chunk * ins);
    held.deltas[l] = space->Take(shape.chunk * outs);
  }
  for (float** gate : {&held.theta, &held.log_eta, &held.log_keep}) *gate = space->Take(PaddedStride(shape.chunk));
  return held;
}

}  // namespace
}  // namespace mnemosyne
#endif

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

class MemoryHead {
 public:
  // `held` has its buffers; what is needed for the time of a step is taken from `space`.
  MemoryHead(const MemoryShape& shape, MemoryHeadBuffers* buffers, Workspace* space)
      : shape_(shape), chunk_stride_(PaddedStride(shape.chunk)), held_(*buffers) {
    const int64_t chunk = shape.chunk;
    int64_t widest = shape.head_dim;
    for (int64_t l = 0; l < shape.depth; ++l) {
      in_stride_[l] = PaddedStride(shape.in(l));
      out_stride_[l] = PaddedStride(shape.out(l));
      widest = std::max({widest, shape.in(l), shape.out(l)});
      before_[l] = space->Take(chunk * out_stride_[l]);
      weights_[l] = held_.weights[l];
      velocity_[l] = held_.velocity[l];
      state_stride_[l] = out_stride_[l];
    }
    width_stride_ = PaddedStride(widest);
    for (float** table : {&keep_table_, &momentum_table_, &mix_, &overlap_})
      *table = space->Take(chunk * chunk_stride_);
    for (float** buffer : {&read_, &next_, &more_, &steps_}) *buffer = space->Take(chunk * width_stride_);
    inputs_across_ = space->Take(widest * chunk_stride_);
    for (float** gate : {&eta_sums_, &keep_sums_, &keep_, &carry_, &velocity_keep_}) {
      *gate = space->Take(chunk_stride_);
    }
  }

  static int64_t SpaceFloats(const MemoryShape& shape) {
    int64_t before = 0, widest = shape.head_dim;
    for (int64_t l = 0; l < shape.depth; ++l) {
      before += shape.chunk * PaddedStride(shape.out(l));
      widest = std::max({widest, shape.in(l), shape.out(l)});
    }
    const int64_t chunk = PaddedStride(shape.chunk);
    return before + 4 * shape.chunk * chunk + (4 * shape.chunk + chunk) * PaddedStride(widest) + 5 * chunk;
  }
  static constexpr int64_t SpaceBuffers(const MemoryShape& shape) { return shape.depth + 14; }

  // What stays: copies all that the head starts from.
  void Load(const MemoryHeadInput& in) {
    for (int64_t l = 0; l < shape_.depth; ++l) LoadState(in, l);
    LoadOpen(in);
  }

  // One step from `in` to `out`. M and S are read where they are, where their rows are whole panels, and what the last
  // chunk leaves is written where it stays.
  void LoadStepSave(const MemoryHeadInput& in, const MemoryHeadOutput& out) {
    for (int64_t l = 0; l < shape_.depth; ++l) {
      if (!in.across || !IsWholePanels(l)) {
        LoadState(in, l);
        continue;
      }
      weights_[l] = in.weights[l];
      velocity_[l] = in.velocity[l];
      state_stride_[l] = shape_.out(l);
    }
    LoadOpen(in);
    is_one_step_ = true;
    chunks_to_out_ = (held_.open + in.tokens) / shape_.chunk;
    Step(in, out);
    Save(out);
  }

  // All tokens of `in`.
  void Step(const MemoryHeadInput& in, const MemoryHeadOutput& out) {
    for (int64_t done = 0; done < in.tokens;) {
      const int64_t here = std::min(shape_.chunk - held_.open, in.tokens - done);
      StepInChunk(in, done, here, out);
      done += here;
    }
  }

  void Save(const MemoryHeadOutput& out) const {
    for (int64_t l = 0; l < shape_.depth; ++l) {
      const int64_t ins = shape_.in(l), outs = shape_.out(l);
      if (held_.closed && !IsWholePanels(l)) {
        CopyRows(weights_[l], state_stride_[l], ins, outs, out.weights[l], outs);
        CopyRows(velocity_[l], state_stride_[l], ins, outs, out.velocity[l], outs);
      }
      for (int64_t t = 0; t < held_.open; ++t) {
        std::memcpy(out.open_inputs[l] + t * ins, held_.inputs[l] + t * in_stride_[l], ins * sizeof(float));
        std::memcpy(out.open_deltas[l] + t * outs, held_.deltas[l] + t * out_stride_[l], outs * sizeof(float));
      }
    }
    if (held_.open == 0) return;
    std::copy(held_.theta, held_.theta + held_.open, out.open_theta);
    if (shape_.momentum) std::copy(held_.log_eta, held_.log_eta + held_.open, out.open_log_eta);
    if (shape_.decay) std::copy(held_.log_keep, held_.log_keep + held_.open, out.open_log_keep);
  }

 private:
  // Of a layer whose M and S are whole panels the products can read rows that are not padded.
  bool IsWholePanels(int64_t l) const { return shape_.out(l) % kPanelColumns == 0; }

  void LoadState(const MemoryHeadInput& in, int64_t l) {
    const int64_t ins = shape_.in(l), outs = shape_.out(l);
    const auto load = [&](const float* from, float* to) {
      if (in.across) {
        CopyRows(from, outs, ins, outs, to, out_stride_[l]);
      } else {
        TransposeRows(from, ins, outs, ins, to, out_stride_[l]);
      }
    };
    load(in.weights[l], held_.weights[l]);
    if (shape_.momentum) load(in.velocity[l], held_.velocity[l]);
  }

  void LoadOpen(const MemoryHeadInput& in) {
    held_.open = in.open_tokens;
    MakeBackward();
    if (held_.open == 0) return;
    for (int64_t l = 0; l < shape_.depth; ++l) {
      const int64_t ins = shape_.in(l), outs = shape_.out(l);
      for (int64_t t = 0; t < held_.open; ++t) {
        std::memcpy(held_.inputs[l] + t * in_stride_[l], in.open_inputs[l] + t * ins, ins * sizeof(float));
        std::memcpy(held_.deltas[l] + t * out_stride_[l], in.open_deltas[l] + t * outs, outs * sizeof(float));
      }
    }
    std::copy(in.open_theta, in.open_theta + held_.open, held_.theta);
    if (shape_.momentum) std::copy(in.open_log_eta, in.open_log_eta + held_.open, held_.log_eta);
    if (shape_.decay) std::copy(in.open_log_keep, in.open_log_keep + held_.open, held_.log_keep);
  }

  // Tokens [from, from + count) of `in`, which the open chunk has room for.
  void StepInChunk(const MemoryHeadInput& in, int64_t from, int64_t count, const MemoryHeadOutput& out) {
    Write(in, from, count, out);
    MakeTables(count);
    Read(in.queries + from * shape_.head_dim, count, out.reads + from * shape_.head_dim);
    if (held_.open == shape_.chunk) Close(from + count < in.tokens, out);
  }

  // The weights as the error goes back through them, of all layers but the first.
  void MakeBackward() {
    for (int64_t l = 1; l < shape_.depth; ++l) {
      TransposeRows(weights_[l], state_stride_[l], shape_.in(l), shape_.out(l), held_.backward[l], in_stride_[l]);
    }
  }

  // Appends to the open chunk: the inputs, errors and steps of new tokens, at the weights of the chunk's start.
  void Write(const MemoryHeadInput& in, int64_t from, int64_t count, const MemoryHeadOutput& out) {
    const int64_t depth = shape_.depth, d = shape_.head_dim, first = held_.open;
    const float* const keys = in.keys + from * d;
    const float* const values = in.values + from * d;
    for (int64_t t = 0; t < count; ++t) {
      std::memcpy(held_.inputs[0] + (first + t) * in_stride_[0], keys + t * d, d * sizeof(float));
    }
    for (int64_t l = 0; l < depth; ++l) {
      const int64_t stride = out_stride_[l];
      Product<Into::kSet>({held_.inputs[l] + first * in_stride_[l], in_stride_[l]}, count, shape_.in(l), weights_[l],
                          state_stride_[l], shape_.out(l), before_[l], stride);
      if (l + 1 == depth) break;
      for (int64_t t = 0; t < count; ++t) {
        SiluAndGrad(shape_.out(l), before_[l] + t * stride, held_.inputs[l + 1] + (first + t) * in_stride_[l + 1]);
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      float* const delta = held_.deltas[depth - 1] + (first + t) * out_stride_[depth - 1];
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
      float* const below = held_.deltas[l - 1] + first * out_stride_[l - 1];
      Product<Into::kSet>({held_.deltas[l] + first * out_stride_[l], out_stride_[l]}, count, shape_.out(l),
                          held_.backward[l], in_stride_[l], shape_.in(l), below, out_stride_[l - 1]);
      for (int64_t t = 0; t < count; ++t) {
        float* const row = below + t * out_stride_[l - 1];
        ForEach(
            shape_.in(l), row, [](FloatTag, FloatVec v, FloatVec grad) HWY_ATTR { return hn::Mul(v, grad); }, row,
            before_[l - 1] + t * out_stride_[l - 1]);
      }
    }
    for (int64_t t = 0; t < count; ++t) held_.theta[first + t] = in.theta[from + t] * GradientBound(first + t);
    if (shape_.momentum) std::copy(in.log_eta + from, in.log_eta + from + count, held_.log_eta + first);
    if (shape_.decay) std::copy(in.log_keep + from, in.log_keep + from + count, held_.log_keep + first);
    held_.open += count;
  }

  // What the step of one token is multiplied by, so that its gradient's norm stays within the bound.
  float GradientBound(int64_t token) const {
    if (shape_.max_grad_norm <= 0) return 1.0f;
    float squared = 0;
    for (int64_t l = 0; l < shape_.depth; ++l) {
      squared += SumOfSquares(held_.deltas[l] + token * out_stride_[l], shape_.out(l)) *
                 SumOfSquares(held_.inputs[l] + token * in_stride_[l], shape_.in(l));
    }
    const float bound = shape_.max_grad_norm / std::sqrt(std::max(squared, 1e-24f));
    return bound > 1.0f ? 1.0f : bound;  // NaN stays NaN
  }

  // exp(sums[row] - sums[j]) for j <= row, else 0: row [held_.open, filled up to a panel].
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

  // Of the tables' row of a token, the columns that are made: up to its own, by whole tiles. Behind its own are zeros.
  int64_t MadeColumns(int64_t token) const {
    return std::min(held_.open, token / kTileColumns * kTileColumns + kTileColumns);
  }

  // How the chunk's tokens act on its last `rows`: mix_ [rows, held_.open] (Cmat, with the steps), keep_, carry_
  // [rows].
  void MakeTables(int64_t rows) {
    rows_of_tables_ = rows;
    const int64_t n = held_.open, before = n - rows, stride = chunk_stride_;
    if (shape_.decay) {
      Accumulate(held_.log_keep, n, keep_sums_);
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
      std::fill(keep_, keep_ + rows, 1.0f);
    }
    if (shape_.momentum) {
      Accumulate(held_.log_eta, n, eta_sums_);
      for (int64_t i = 0; i < n; ++i) {
        DecayRow(eta_sums_, i, momentum_table_ + i * stride);
        velocity_keep_[i] = std::exp(eta_sums_[i]);
      }
      // Both tables are lower triangles, and so is their product.
      for (int64_t j = 0; j < n; j += kTileColumns) {
        const int64_t columns = std::min(kTileColumns, n - j);
        for (int64_t r = std::max<int64_t>(0, j - before); r < rows; r += kTileRows) {
          const int64_t here = std::min<int64_t>(kTileRows, rows - r);
          Columns<Into::kSet>({keep_table_ + r * stride + j, stride}, here, momentum_table_ + j * stride + j, stride,
                              before + r + here - j, FromNothing(), 0, mix_ + r * stride + j, stride, columns);
        }
      }
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
          MadeColumns(before + r), row, [](FloatTag, FloatVec m, FloatVec theta) HWY_ATTR { return hn::Mul(m, theta); },
          row, held_.theta);
    }
  }

  // keep M q, a row for each q.
  struct KeptRows {
    const float* of_weights;
    int64_t stride;
    const float* keep;
    HWY_INLINE FloatVec operator()(int64_t row, int64_t column) const {
      const FloatTag d;
      return hn::Mul(hn::LoadU(d, of_weights + row * stride + column), hn::Set(d, keep[row]));
    }
    HWY_INLINE KeptRows Below(int64_t row) const { return {of_weights + row * stride, stride, keep + row}; }
  };
  // And carry S q added.
  struct CarriedRows {
    KeptRows kept;
    const float *of_velocity, *carry;
    HWY_INLINE FloatVec operator()(int64_t row, int64_t column) const {
      const FloatTag d;
      const FloatVec s = hn::LoadU(d, of_velocity + row * kept.stride + column);
      return hn::MulAdd(s, hn::Set(d, carry[row]), kept(row, column));
    }
    HWY_INLINE CarriedRows Below(int64_t row) const {
      return {kept.Below(row), of_velocity + row * kept.stride, carry + row};
    }
  };

  // Reads with the weights after each of the last `rows` tokens.
  void Read(const float* queries, int64_t rows, float* to) {
    const int64_t d = shape_.head_dim, n = held_.open, before = n - rows;
    Strided from = {queries, d};
    for (int64_t l = 0; l < shape_.depth; ++l) {
      const int64_t ins = shape_.in(l), outs = shape_.out(l), stride = out_stride_[l];
      float* const y = l % 2 == 0 ? read_ : next_;  // `from` is the other one
      Product<Into::kSet>(from, rows, ins, weights_[l], state_stride_[l], outs, y, width_stride_);
      if (shape_.momentum) {
        Product<Into::kSet>(from, rows, ins, velocity_[l], state_stride_[l], outs, more_, width_stride_);
      }
      TransposeRows(held_.inputs[l], in_stride_[l], n, ins, inputs_across_, chunk_stride_);
      // A token's read knows the tokens up to its own: of the overlaps, the tiles that have some of these.
      for (int64_t j = 0; j < n; j += kTileColumns) {
        const int64_t first = std::max<int64_t>(0, j - before);
        Columns<Into::kSet>({from.values + first * from.row_stride, from.row_stride}, rows - first, inputs_across_ + j,
                            chunk_stride_, ins, FromNothing(), 0, overlap_ + first * chunk_stride_ + j, chunk_stride_,
                            std::min(kTileColumns, n - j));
      }
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = overlap_ + r * chunk_stride_;
        const int64_t made = MadeColumns(before + r);
        ForEach(
            made, row, [](FloatTag, FloatVec a, FloatVec b) HWY_ATTR { return hn::Mul(a, b); }, row,
            mix_ + r * chunk_stride_);
        std::fill(row + made, row + std::max(made, n), 0.0f);
      }
      const Strided overlap = {overlap_, chunk_stride_};
      const KeptRows kept = {y, width_stride_, keep_};
      if (shape_.momentum) {
        SubtractLowerProduct(CarriedRows{kept, more_, carry_}, overlap, rows, before, held_.deltas[l], stride, outs, y,
                             width_stride_);
      } else {
        SubtractLowerProduct(kept, overlap, rows, before, held_.deltas[l], stride, outs, y, width_stride_);
      }
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

  // keep M + carry S.
  struct Carried {
    const float *weights, *velocity;
    int64_t stride;
    float keep, carry;
    HWY_INLINE FloatVec operator()(int64_t row, int64_t column) const {
      const FloatTag d;
      const FloatVec kept = hn::Mul(hn::LoadU(d, weights + row * stride + column), hn::Set(d, keep));
      return hn::MulAdd(hn::LoadU(d, velocity + row * stride + column), hn::Set(d, carry), kept);
    }
  };
  // factor times a matrix.
  struct Kept {
    const float* values;
    int64_t stride;
    float factor;
    HWY_INLINE FloatVec operator()(int64_t row, int64_t column) const {
      const FloatTag d;
      return hn::Mul(hn::LoadU(d, values + row * stride + column), hn::Set(d, factor));
    }
  };

  // to [in, out] = start - inputs^T (deltas * steps), summed over the chunk.
  template <typename From>
  void Learn(int64_t l, const float* steps, const From& start, float* to, int64_t to_stride) {
    for (int64_t t = 0; t < held_.open; ++t) {
      ForEach(
          shape_.out(l), steps_ + t * width_stride_,
          [&](FloatTag tag, FloatVec v) HWY_ATTR { return hn::Mul(v, hn::Set(tag, steps[t])); },
          held_.deltas[l] + t * out_stride_[l]);
    }
    ProductFrom<Into::kSubtract>(start, {held_.inputs[l], 1, in_stride_[l]}, shape_.in(l), held_.open, steps_,
                                 width_stride_, shape_.out(l), to, to_stride);
  }

  // The chunk is whole: its tables' last row is what it leaves. `goes_on`: more tokens follow in this step.
  void Close(bool goes_on, const MemoryHeadOutput& out) {
    const int64_t n = held_.open;
    // Of the tables, the last row made: of `rows` rows it is the last one of mix_.
    const float* const weight_steps = mix_ + (rows_of_tables_ - 1) * chunk_stride_;
    float* const velocity_steps = momentum_table_ + (n - 1) * chunk_stride_;
    if (shape_.momentum) {
      ForEach(
          n, velocity_steps, [](FloatTag, FloatVec a, FloatVec b) HWY_ATTR { return hn::Mul(a, b); }, velocity_steps,
          held_.theta);
    } else {
      std::fill(velocity_steps, velocity_steps + n - 1, 0.0f);
      velocity_steps[n - 1] = held_.theta[n - 1];
    }
    const float keep = keep_[rows_of_tables_ - 1];
    chunks_to_out_ -= 1;
    for (int64_t l = 0; l < shape_.depth; ++l) {
      const bool is_out = chunks_to_out_ == 0 && IsWholePanels(l);
      float* const weights = is_out ? out.weights[l] : held_.weights[l];
      float* const velocity = is_out ? out.velocity[l] : held_.velocity[l];
      const int64_t from_stride = state_stride_[l], stride = is_out ? shape_.out(l) : out_stride_[l];
      if (shape_.momentum) {
        Learn(l, weight_steps, Carried{weights_[l], velocity_[l], from_stride, keep, carry_[rows_of_tables_ - 1]},
              weights, stride);
        Learn(l, velocity_steps, Kept{velocity_[l], from_stride, velocity_keep_[n - 1]}, velocity, stride);
      } else {
        Learn(l, weight_steps, Kept{weights_[l], from_stride, keep}, weights, stride);
        Learn(l, velocity_steps, FromNothing(), velocity, stride);
      }
      weights_[l] = weights;
      velocity_[l] = velocity;
      state_stride_[l] = stride;
    }
    held_.open = 0;
    held_.closed = true;
    if (goes_on || !is_one_step_) MakeBackward();
  }

  template <typename T>
  using Layers = MemoryHeadBuffers::Layers<T>;

  const MemoryShape& shape_;
  const int64_t chunk_stride_;
  MemoryHeadBuffers& held_;
  int64_t width_stride_ = 0;
  int64_t rows_of_tables_ = 0;
  Layers<const float*> weights_{},
      velocity_{};                  // M and S at the open chunk's start: the buffers', or of input or output
  Layers<int64_t> state_stride_{};  // between their rows
  bool is_one_step_ = false;        // nothing of the buffers is used after it
  int64_t chunks_to_out_ = 0;       // one step: how many are closed until M and S are the output's
  Layers<int64_t> in_stride_{}, out_stride_{};
  // [new tokens, out]: what comes out of a layer; of all but the last, then the derivative of silu there.
  Layers<float*> before_{};
  float *keep_table_ = nullptr, *momentum_table_ = nullptr, *mix_ = nullptr;  // B, E, B E theta
  float *overlap_ = nullptr, *read_ = nullptr, *next_ = nullptr, *more_ = nullptr, *steps_ = nullptr;
  float* inputs_across_ = nullptr;  // [in, open]
  float *eta_sums_ = nullptr, *keep_sums_ = nullptr, *keep_ = nullptr, *carry_ = nullptr, *velocity_keep_ = nullptr;
};

void StepMemoryHeadHere(const MemoryShape& shape, const MemoryHeadInput& in, const MemoryHeadOutput& out) {
  Workspace space(HeldFloats(shape) + MemoryHead::SpaceFloats(shape),
                  HeldBuffers(shape) + MemoryHead::SpaceBuffers(shape));
  MemoryHeadBuffers held = Carve(shape, &space);
  MemoryHead head(shape, &held, &space);
  head.LoadStepSave(in, out);
}

void LoadHeldHere(const MemoryShape& shape, const MemoryHeadInput& in, MemoryHeadBuffers* held) {
  Workspace space(MemoryHead::SpaceFloats(shape), MemoryHead::SpaceBuffers(shape));
  MemoryHead(shape, held, &space).Load(in);
}

void StepHeldHere(const MemoryShape& shape, MemoryHeadBuffers* held, const MemoryHeadInput& in,
                  const MemoryHeadOutput& out) {
  Workspace space(MemoryHead::SpaceFloats(shape), MemoryHead::SpaceBuffers(shape));
  MemoryHead(shape, held, &space).Step(in, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(StepMemoryHeadHere);
HWY_EXPORT(LoadHeldHere);
HWY_EXPORT(StepHeldHere);

void StepMemoryHead(const MemoryShape& shape, const MemoryHeadInput& in, const MemoryHeadOutput& out) {
  HWY_DYNAMIC_DISPATCH(StepMemoryHeadHere)(shape, in, out);
}

HeldMemoryHead::HeldMemoryHead(const MemoryShape& shape, const MemoryHeadInput& in)
    : shape_(shape), memory_(HeldFloats(shape), HeldBuffers(shape)) {
  buffers_ = Carve(shape_, &memory_);
  HWY_DYNAMIC_DISPATCH(LoadHeldHere)(shape_, in, &buffers_);
}

void HeldMemoryHead::Step(const MemoryHeadInput& in, const MemoryHeadOutput& out) {
  HWY_DYNAMIC_DISPATCH(StepHeldHere)(shape_, &buffers_, in, out);
}

}  // namespace mnemosyne
#endif
