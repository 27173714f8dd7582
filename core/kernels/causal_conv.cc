#include "core/kernels/causal_conv.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/causal_conv.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/kernels/vector_math-inl.h"
#include "core/kernels/workspace.h"

HWY_BEFORE_NAMESPACE();
namespace mnemosyne {
namespace HWY_NAMESPACE {

// Vectors of channels that are summed together: few, so that the sums stay in registers and the taps in the nearest
// cache over all tokens.
constexpr int kVectors = 4;

// Channels of one token that are summed together: its rows and taps are far apart, and a piece of each is read whole.
constexpr int64_t kPiece = 512;

// sums += tap * row
HWY_INLINE void AddTap(const float* tap, const float* row, int64_t count, float* sums) {
  ForEach(
      count, sums, [](FloatTag, FloatVec sum, FloatVec t, FloatVec r) HWY_ATTR { return hn::MulAdd(t, r, sum); }, sums,
      tap, row);
}

// The same order of sums as below.
void OneToken(const CausalConvInput& in, int64_t channels, int64_t k, float* out) {
  for (int64_t begin = 0; begin < channels; begin += kPiece) {
    const int64_t count = std::min(kPiece, channels - begin);
    std::copy(in.bias + begin, in.bias + begin + count, out + begin);
    for (int64_t j = 0; j < k; ++j) {
      AddTap(in.taps + j * in.taps_stride + begin, in.history + j * in.stride + begin, count, out + begin);
    }
  }
}

void CausalConvHere(const CausalConvInput& in, int64_t tokens, int64_t channels, int64_t k, int64_t width, float* out) {
  if (tokens == 1) return OneToken(in, channels, k, out);  // a row, whatever the width
  const FloatTag d;
  constexpr int64_t kTogether = kVectors * kLanes;
  for (int64_t begin = 0; begin < channels;) {
    const int64_t head = begin / width, within = begin % width, lanes = std::min(kTogether, width - within);
    float* const to = out + head * tokens * width + within;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = in.history + t * in.stride + begin;
      const float* tap = in.taps + begin;
      if (lanes < kTogether) {
        std::copy(in.bias + begin, in.bias + begin + lanes, to + t * width);
        for (int64_t j = 0; j < k; ++j, row += in.stride, tap += in.taps_stride)
          AddTap(tap, row, lanes, to + t * width);
        continue;
      }
      FloatVec sum[kVectors];
      HWY_UNROLL(4)
      for (int i = 0; i < kVectors; ++i) sum[i] = hn::LoadU(d, in.bias + begin + i * kLanes);
      for (int64_t j = 0; j < k; ++j, row += in.stride, tap += in.taps_stride) {
        HWY_UNROLL(4)
        for (int i = 0; i < kVectors; ++i) {
          sum[i] = hn::MulAdd(hn::LoadU(d, tap + i * kLanes), hn::LoadU(d, row + i * kLanes), sum[i]);
        }
      }
      HWY_UNROLL(4)
      for (int i = 0; i < kVectors; ++i) hn::StoreU(sum[i], d, to + t * width + i * kLanes);
    }
    begin += lanes;
  }
}

// to = a[i] * b[i] + ... of `count` pairs of rows of kTogether floats, which are a_step and b_step floats apart.
HWY_INLINE void SumOfProducts(const float* a, int64_t a_step, const float* b, int64_t b_step, int64_t count,
                              float* to) {
  const FloatTag d;
  FloatVec sum[kVectors];
  HWY_UNROLL(4)
  for (int i = 0; i < kVectors; ++i) sum[i] = hn::Zero(d);
  for (; count > 0; --count, a += a_step, b += b_step) {
    HWY_UNROLL(4)
    for (int i = 0; i < kVectors; ++i) {
      sum[i] = hn::MulAdd(hn::LoadU(d, a + i * kLanes), hn::LoadU(d, b + i * kLanes), sum[i]);
    }
  }
  HWY_UNROLL(4)
  for (int i = 0; i < kVectors; ++i) hn::StoreU(sum[i], d, to + i * kLanes);
}

void CausalConvBackwardHere(const CausalConvInput& in, const float* out, int64_t tokens, int64_t channels, int64_t k,
                            int64_t width, const CausalConvGradients& gradients) {
  // Copies of a few channels at a time, one token behind the other and zeros beside them.
  constexpr int64_t kTogether = kVectors * kLanes;
  const int64_t rows = k - 1 + tokens;
  Workspace space((2 * rows + tokens + k + 1) * kTogether, 5);
  float* const history = space.Take(rows * kTogether);
  float* const by_history = space.Take(rows * kTogether);
  float* const by_out = space.Take(tokens * kTogether);
  float* const taps = space.Take(k * kTogether);
  float* const sum = space.Take(kTogether);
  for (int64_t begin = 0; begin < channels;) {
    const int64_t head = begin / width, within = begin % width, lanes = std::min(kTogether, width - within);
    if (lanes < kTogether) {
      std::fill(history, history + rows * kTogether, 0.0f);
      std::fill(by_out, by_out + tokens * kTogether, 0.0f);
      std::fill(taps, taps + k * kTogether, 0.0f);
    }
    CopyRows(in.history + begin, in.stride, rows, lanes, history, kTogether);
    CopyRows(out + head * tokens * width + within, width, tokens, lanes, by_out, kTogether);
    CopyRows(in.taps + begin, in.taps_stride, k, lanes, taps, kTogether);
    for (int64_t s = 0; s < rows; ++s) {  // row s was used with tap j by token s - j
      const int64_t first = std::max<int64_t>(0, s - tokens + 1), last = std::min(k - 1, s);
      SumOfProducts(taps + first * kTogether, kTogether, by_out + (s - first) * kTogether, -kTogether, last - first + 1,
                    by_history + s * kTogether);
    }
    CopyRows(by_history, kTogether, rows, lanes, gradients.history + begin, in.stride);
    const auto add = [](FloatTag, FloatVec a, FloatVec b) HWY_ATTR { return hn::Add(a, b); };
    for (int64_t j = 0; j < k; ++j) {
      SumOfProducts(history + j * kTogether, kTogether, by_out, kTogether, tokens, sum);
      float* const to = gradients.taps + j * in.taps_stride + begin;
      ForEach(lanes, to, add, to, sum);
    }
    float* const to = gradients.bias + begin;
    for (int64_t t = 0; t < tokens; ++t) ForEach(lanes, to, add, to, by_out + t * kTogether);
    begin += lanes;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(CausalConvHere);
HWY_EXPORT(CausalConvBackwardHere);

void CausalConv(const CausalConvInput& in, int64_t tokens, int64_t channels, int64_t k, int64_t width, float* out) {
  HWY_DYNAMIC_DISPATCH(CausalConvHere)(in, tokens, channels, k, width, out);
}

void CausalConvBackward(const CausalConvInput& in, const float* out, int64_t tokens, int64_t channels, int64_t k,
                        int64_t width, const CausalConvGradients& gradients) {
  HWY_DYNAMIC_DISPATCH(CausalConvBackwardHere)(in, out, tokens, channels, k, width, gradients);
}

}  // namespace mnemosyne
#endif
