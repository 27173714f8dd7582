#include "core/kernels/causal_conv.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/causal_conv.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/kernels/vector_math-inl.h"

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

}  // namespace HWY_NAMESPACE
}  // namespace mnemosyne
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mnemosyne {

HWY_EXPORT(CausalConvHere);

void CausalConv(const CausalConvInput& in, int64_t tokens, int64_t channels, int64_t k, int64_t width, float* out) {
  HWY_DYNAMIC_DISPATCH(CausalConvHere)(in, tokens, channels, k, width, out);
}

}  // namespace mnemosyne
#endif
