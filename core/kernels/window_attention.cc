#include "core/kernels/window_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/kernels/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/window_attention.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/kernels/product-inl.h"
#include "core/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

// Queries that attend together: the keys of all lie in one stretch of window - 1 + kQueries.
constexpr int64_t kQueries = kTileRows;

HWY_INLINE float MaxOf(const float* values, int64_t count) {
  const FloatTag d;
  float most = -std::numeric_limits<float>::infinity();
  int64_t i = 0;
  FloatVec best = hn::Set(d, most);
  for (; i + kLanes <= count; i += kLanes) best = hn::Max(best, hn::LoadU(d, values + i));
  most = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; i < count; ++i) most = std::max(most, values[i]);
  return most;
}

// values = exp(values - most); returns their sum.
HWY_INLINE float ExpOf(float most, int64_t count, float* values) {
  const FloatTag d;
  const FloatVec shift = hn::Set(d, most);
  FloatVec sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const FloatVec v = Exp(d, hn::Sub(hn::LoadU(d, values + i), shift));
    sum = hn::Add(sum, v);
    hn::StoreU(v, d, values + i);
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  if (i < count) {
    StoreRest(Exp(d, hn::Sub(LoadRest(d, values + i, count - i), shift)), d, values + i, count - i);
    for (; i < count; ++i) total += values[i];
  }
  return total;
}

// Pairs (i, i + half) by their angles, and all by `scale`.
HWY_INLINE void RotateRow(const float* from, const float* cosine, const float* sine, int64_t half, float scale,
                          float* to) {
  const auto low = [&](FloatTag d, FloatVec a, FloatVec b, FloatVec c, FloatVec s)
                       HWY_ATTR { return hn::Mul(hn::Set(d, scale), hn::NegMulAdd(b, s, hn::Mul(a, c))); };
  const auto high = [&](FloatTag d, FloatVec a, FloatVec b, FloatVec c, FloatVec s)
                        HWY_ATTR { return hn::Mul(hn::Set(d, scale), hn::MulAdd(a, s, hn::Mul(b, c))); };
  ForEach(half, to, low, from, from + half, cosine, sine);
  ForEach(half, to + half, high, from, from + half, cosine, sine);
}

struct HeadBuffers {
  float* queries;             // [T, a]
  float* keys_across;         // [a, across_stride]
  float* values;              // [w - 1 + T, value_stride]
  float* persistent_k;        // [a, persistent_stride]: across
  float* persistent_v;        // [P, value_stride]
  float* weights;             // [kQueries, across_stride]
  float* persistent_weights;  // [kQueries, persistent_stride]
  int64_t across_stride, value_stride, persistent_stride;
};

HWY_INLINE void AttendHead(const WindowShape& shape, const WindowInput& in, const HeadBuffers& b, float* attended,
                           int64_t attended_stride) {
  const int64_t a = shape.head_dim, tail = shape.window - 1;
  const int64_t first_key = std::max<int64_t>(0, tail - in.position);  // those before it never were
  for (int64_t t = 0; t < in.tokens; t += kQueries) {
    const int64_t rows = std::min(kQueries, in.tokens - t), reach = tail + rows;
    const Strided queries = {b.queries + t * a, a};
    Product<Into::kSet>(queries, rows, a, b.keys_across + t, b.across_stride, reach, b.weights, b.across_stride);
    if (shape.persistent > 0) {
      Product<Into::kSet>(queries, rows, a, b.persistent_k, b.persistent_stride, shape.persistent, b.persistent_weights,
                          b.persistent_stride);
    }
    float scale[kQueries];
    for (int64_t r = 0; r < rows; ++r) {
      float* const row = b.weights + r * b.across_stride;
      float* const persistent = b.persistent_weights + r * b.persistent_stride;
      const int64_t begin = std::max(r, first_key - t), end = r + shape.window;
      float most = MaxOf(row + begin, end - begin);
      if (shape.persistent > 0) most = std::max(most, MaxOf(persistent, shape.persistent));
      float sum = ExpOf(most, end - begin, row + begin);
      if (shape.persistent > 0) sum += ExpOf(most, shape.persistent, persistent);
      std::fill(row, row + begin, 0.0f);
      std::fill(row + end, row + reach, 0.0f);
      scale[r] = 1.0f / sum;
    }
    float* const to = attended + t * attended_stride;
    Product<Into::kSet>({b.weights, b.across_stride}, rows, reach, b.values + t * b.value_stride, b.value_stride, a, to,
                        attended_stride);
    if (shape.persistent > 0) {
      Product<Into::kAdd>({b.persistent_weights, b.persistent_stride}, rows, shape.persistent, b.persistent_v,
                          b.value_stride, a, to, attended_stride);
    }
    for (int64_t r = 0; r < rows; ++r) Scale(scale[r], a, to + r * attended_stride);
  }
}

struct Angles {
  const float *cosine, *sine;  // [T, a / 2]
};

// What all tokens of one head attend to, whose keys and values are in place.
HWY_INLINE void Query(const WindowShape& shape, const WindowInput& in, const HeadBuffers& b, int64_t head,
                      const Angles& angles, float* attended) {
  const int64_t a = shape.head_dim, half = a / 2, dim = shape.heads * a, persistent = head * shape.persistent * a;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a)));
  for (int64_t t = 0; t < in.tokens; ++t) {
    RotateRow(in.projected + t * 3 * dim + head * a, angles.cosine + t * half, angles.sine + t * half, half, scale,
              b.queries + t * a);
  }
  if (shape.persistent > 0) {
    TransposeRows(in.persistent_k + persistent, a, shape.persistent, a, b.persistent_k, b.persistent_stride);
    for (int64_t p = 0; p < shape.persistent; ++p) {
      std::memcpy(b.persistent_v + p * b.value_stride, in.persistent_v + persistent + p * a, a * sizeof(float));
    }
  }
  AttendHead(shape, in, b, attended + head * a, dim);
}

void StepWindowAttentionHere(const WindowShape& shape, const RotaryTable& rotary, const WindowInput& in,
                             const WindowOutput& out) {
  const int64_t a = shape.head_dim, tail = shape.window - 1, tokens = in.tokens, dim = shape.heads * a, half = a / 2;
  HeadBuffers b;
  b.across_stride = PaddedStride(tail + tokens + kPanelColumns);  // stretches begin anywhere
  b.value_stride = PaddedStride(a);
  b.persistent_stride = PaddedStride(shape.persistent);
  Workspace space(2 * tokens * half + tokens * a + (tail + tokens) * (a + b.value_stride) +
                      (a + kQueries) * (b.across_stride + b.persistent_stride) + shape.persistent * b.value_stride,
                  /*buffers=*/10);
  float* const cosine = space.Take(tokens * half);
  float* const sine = space.Take(tokens * half);
  b.queries = space.Take(tokens * a);
  float* const keys = space.Take((tail + tokens) * a);
  b.values = space.Take((tail + tokens) * b.value_stride);
  b.keys_across = space.Take(a * b.across_stride);
  b.weights = space.Take(kQueries * b.across_stride);
  b.persistent_k = space.Take(a * b.persistent_stride);
  b.persistent_weights = space.Take(kQueries * b.persistent_stride);
  b.persistent_v = space.Take(shape.persistent * b.value_stride);

  rotary.Fill(in.position, tokens, cosine, sine);
  for (int64_t h = 0; h < shape.heads; ++h) {
    const int64_t old = h * tail * a;
    std::copy(in.keys + old, in.keys + old + tail * a, keys);
    for (int64_t j = 0; j < tail; ++j) {
      std::memcpy(b.values + j * b.value_stride, in.values + old + j * a, a * sizeof(float));
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const float* const row = in.projected + t * 3 * dim + h * a;
      RotateRow(row + dim, cosine + t * half, sine + t * half, half, 1.0f, keys + (tail + t) * a);
      std::memcpy(b.values + (tail + t) * b.value_stride, row + 2 * dim, a * sizeof(float));
    }
    std::copy(keys + tokens * a, keys + (tokens + tail) * a, out.keys + old);
    for (int64_t j = 0; j < tail; ++j) {
      std::memcpy(out.values + old + j * a, b.values + (tokens + j) * b.value_stride, a * sizeof(float));
    }
    if (out.attended == nullptr) continue;
    TransposeRows(keys, a, tail + tokens, a, b.keys_across, b.across_stride);
    Query(shape, in, b, h, {cosine, sine}, out.attended);
  }
}

// Tokens that `held` has room for.
HWY_INLINE void StepHeldPiece(const WindowShape& shape, const HeldWindowBuffers& held, const RotaryTable& rotary,
                              const WindowInput& in, float* attended) {
  const int64_t a = shape.head_dim, tail = shape.window - 1, tokens = in.tokens, dim = shape.heads * a, half = a / 2;
  HeadBuffers b;
  b.across_stride = held.across_stride;
  b.value_stride = held.value_stride;
  b.persistent_stride = PaddedStride(shape.persistent);
  Workspace space(tokens * (2 * half + a) + a + kQueries * (b.across_stride + b.persistent_stride) +
                      a * b.persistent_stride + shape.persistent * b.value_stride,
                  /*buffers=*/8);
  float* const cosine = space.Take(tokens * half);
  float* const sine = space.Take(tokens * half);
  float* const key = space.Take(a);
  b.queries = space.Take(tokens * a);
  b.weights = space.Take(kQueries * b.across_stride);
  b.persistent_k = space.Take(a * b.persistent_stride);
  b.persistent_weights = space.Take(kQueries * b.persistent_stride);
  b.persistent_v = space.Take(shape.persistent * b.value_stride);
  rotary.Fill(in.position, tokens, cosine, sine);
  for (int64_t h = 0; h < shape.heads; ++h) {
    b.keys_across = held.keys_across + h * a * held.across_stride + held.begin;
    b.values = held.values + (h * held.capacity + held.begin) * held.value_stride;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* const row = in.projected + t * 3 * dim + h * a;
      RotateRow(row + dim, cosine + t * half, sine + t * half, half, 1.0f, key);
      for (int64_t i = 0; i < a; ++i) b.keys_across[i * b.across_stride + tail + t] = key[i];
      std::memcpy(b.values + (tail + t) * b.value_stride, row + 2 * dim, a * sizeof(float));
    }
    Query(shape, in, b, h, {cosine, sine}, attended);
  }
}

void StepHeldWindowHere(const WindowShape& shape, HeldWindowBuffers* held, const RotaryTable& rotary,
                        const WindowInput& in, float* attended) {
  const int64_t a = shape.head_dim, tail = shape.window - 1, dim = shape.heads * a;
  for (int64_t done = 0; done < in.tokens;) {
    const int64_t rows = shape.heads * a;
    if (held->begin + tail == held->capacity) {  // full: the window goes to the front
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = held->keys_across + r * held->across_stride;
        std::memmove(row, row + held->begin, tail * sizeof(float));
      }
      for (int64_t h = 0; h < shape.heads; ++h) {
        float* const values = held->values + h * held->capacity * held->value_stride;
        std::memmove(values, values + held->begin * held->value_stride, tail * held->value_stride * sizeof(float));
      }
      held->begin = 0;
    }
    WindowInput piece = in;
    piece.tokens = std::min(in.tokens - done, held->capacity - tail - held->begin);
    piece.position += done;
    piece.projected += done * 3 * dim;
    StepHeldPiece(shape, *held, rotary, piece, attended + done * dim);
    held->begin += piece.tokens;
    done += piece.tokens;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(StepWindowAttentionHere);
HWY_EXPORT(StepHeldWindowHere);

namespace {
constexpr int64_t kSteps = 64;  // positions from one whose angles are computed by functions to the next
}  // namespace

RotaryTable::RotaryTable(int64_t half, double base) : half_(half) {
  for (int64_t i = 0; i < half; ++i) frequencies_.push_back(std::exp(i * (-std::log(base) / half)));
  for (int64_t step = 0; step < kSteps; ++step) {
    for (const double frequency : frequencies_) {
      step_cosine_.push_back(std::cos(step * frequency));
      step_sine_.push_back(std::sin(step * frequency));
    }
  }
}

void RotaryTable::Fill(int64_t first, int64_t tokens, float* cosine, float* sine) const {
  std::vector<double> start_cosine(half_), start_sine(half_);
  for (int64_t t = 0; t < tokens; ++t) {
    // From a multiple of kSteps on, wherever `first` is: a position has the same bits however a stream is cut.
    const int64_t step = (first + t) % kSteps;
    if (step == 0 || t == 0) {
      for (int64_t i = 0; i < half_; ++i) {
        const double angle = static_cast<double>(first + t - step) * frequencies_[i];
        start_cosine[i] = std::cos(angle);
        start_sine[i] = std::sin(angle);
      }
    }
    const double* const c = step_cosine_.data() + step * half_;
    const double* const s = step_sine_.data() + step * half_;
    for (int64_t i = 0; i < half_; ++i) {  // the sum of two angles
      cosine[t * half_ + i] = static_cast<float>(start_cosine[i] * c[i] - start_sine[i] * s[i]);
      sine[t * half_ + i] = static_cast<float>(start_sine[i] * c[i] + start_cosine[i] * s[i]);
    }
  }
}

void StepWindowAttention(const WindowShape& shape, const RotaryTable& rotary, const WindowInput& in,
                         const WindowOutput& out) {
  HWY_DYNAMIC_DISPATCH(StepWindowAttentionHere)(shape, rotary, in, out);
}

HeldWindow::HeldWindow(const WindowShape& shape, const float* keys, const float* values)
    : shape_(shape),
      buffers_{Capacity(shape), PaddedStride(Capacity(shape) + kPanelColumns), PaddedStride(shape.head_dim)},
      memory_(shape.heads * (shape.head_dim * buffers_.across_stride + buffers_.capacity * buffers_.value_stride),
              /*buffers=*/2) {
  const int64_t a = shape.head_dim, tail = shape.window - 1;
  buffers_.keys_across = memory_.Take(shape.heads * a * buffers_.across_stride);
  buffers_.values = memory_.Take(shape.heads * buffers_.capacity * buffers_.value_stride);
  // Products read to the end of a panel, and what they make of it is not kept: it has to be numbers all the same.
  std::fill_n(buffers_.keys_across, shape.heads * a * buffers_.across_stride, 0.0f);
  for (int64_t h = 0; h < shape.heads; ++h) {
    for (int64_t j = 0; j < tail; ++j) {
      const int64_t from = (h * tail + j) * a;
      for (int64_t i = 0; i < a; ++i) buffers_.keys_across[(h * a + i) * buffers_.across_stride + j] = keys[from + i];
      std::memcpy(buffers_.values + (h * buffers_.capacity + j) * buffers_.value_stride, values + from,
                  a * sizeof(float));
    }
  }
}

int64_t HeldWindow::Capacity(const WindowShape& shape) { return 2 * std::max<int64_t>(shape.window - 1, 32); }

void HeldWindow::Step(const RotaryTable& rotary, const WindowInput& in, float* attended) {
  HWY_DYNAMIC_DISPATCH(StepHeldWindowHere)(shape_, &buffers_, rotary, in, attended);
}

}  // namespace mnemosyne
#endif
