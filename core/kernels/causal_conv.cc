#include "core/kernels/causal_conv.h"

#include <algorithm>

namespace mnemosyne {

namespace {

// Channels that are summed together: a few vectors, so that the sums stay in registers and the taps in the nearest
// cache over all tokens.
constexpr int64_t kLanes = 64;

}  // namespace

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx512f", "avx2,fma", "default")))
#endif
void CausalConv(const CausalConvInput& in, int64_t tokens, int64_t channels, int64_t k, int64_t width, float* out) {
  for (int64_t begin = 0; begin < channels;) {
    const int64_t head = begin / width, within = begin % width;
    const int64_t lanes = std::min(kLanes, width - within);
    float* const to = out + head * tokens * width + within;
    for (int64_t t = 0; t < tokens; ++t) {
      float sum[kLanes];
      const float* const first = in.history + t * in.stride + begin;
      if (lanes == kLanes) {  // a constant count: unrolled into registers
        for (int64_t i = 0; i < kLanes; ++i) sum[i] = in.bias[begin + i];
        for (int64_t j = 0; j < k; ++j) {
          const float* const row = first + j * in.stride;
          const float* const tap = in.taps + j * in.taps_stride + begin;
          for (int64_t i = 0; i < kLanes; ++i) sum[i] += tap[i] * row[i];
        }
      } else {
        for (int64_t i = 0; i < lanes; ++i) sum[i] = in.bias[begin + i];
        for (int64_t j = 0; j < k; ++j) {
          for (int64_t i = 0; i < lanes; ++i)
            sum[i] += in.taps[j * in.taps_stride + begin + i] * first[j * in.stride + i];
        }
      }
      std::copy(sum, sum + lanes, to + t * width);
    }
    begin += lanes;
  }
}

}  // namespace mnemosyne
