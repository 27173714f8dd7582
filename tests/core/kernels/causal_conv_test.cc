#include "core/kernels/causal_conv.h"

#include "tests/core/kernels/kernel_fixture.h"

namespace mnemosyne {
namespace {

// The definition, in double.
double Expected(const CausalConvInput& in, int64_t k, int64_t t, int64_t c) {
  double sum = in.bias[c];
  for (int64_t j = 0; j < k; ++j) {
    sum += static_cast<double>(in.taps[j * in.taps_stride + c]) * in.history[(t + j) * in.stride + c];
  }
  return sum;
}

using CausalConvTest = KernelTest;

TEST_F(CausalConvTest, AgreesWithItsDefinition) {
  OnEveryTarget([&] {
    for (int round = 0; round < 60; ++round) {
      const int64_t width = 1 + Below(200), heads = 1 + Below(4), channels = width * heads,
                    stride = channels + Below(9), taps_stride = channels + Below(9);
      const int64_t k = 1 + Below(33), tokens = 1 + Below(70);
      const std::vector<float> history = Drawn((k - 1 + tokens) * stride), taps = Drawn(k * taps_stride),
                               bias = Drawn(channels);
      const CausalConvInput in = {history.data(), taps.data(), bias.data(), stride, taps_stride};
      std::vector<float> out(channels * tokens + 1, 7.0f);
      CausalConv(in, tokens, channels, k, width, out.data());
      EXPECT_EQ(out.back(), 7.0f);  // nothing behind the end
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          const float got = out[(c / width * tokens + t) * width + c % width];
          const double expected = Expected(in, k, t, c);
          ASSERT_NEAR(got, expected, 1e-5 * k * (1 + std::abs(expected)))
              << "width " << width << " heads " << heads << " k " << k << " token " << t << " channel " << c;
        }
      }
      // The last token alone has the same bits.
      std::vector<float> last(channels);
      CausalConv({history.data() + (tokens - 1) * stride, in.taps, in.bias, stride, taps_stride}, 1, channels, k, width,
                 last.data());
      for (int64_t c = 0; c < channels; ++c) {
        ASSERT_EQ(last[c], out[(c / width * tokens + tokens - 1) * width + c % width]);
      }
    }
  });
}

// Against the sums that the chain rule makes of the definition, in double.
TEST_F(CausalConvTest, BackwardIsItsDerivative) {
  OnEveryTarget([&] {
    for (int round = 0; round < 60; ++round) {
      const int64_t width = 1 + Below(200), heads = 1 + Below(4), channels = width * heads,
                    stride = channels + Below(9), taps_stride = channels + Below(9);
      const int64_t k = 1 + Below(33), tokens = 1 + Below(70), rows = k - 1 + tokens;
      const std::vector<float> history = Drawn(rows * stride), taps = Drawn(k * taps_stride), bias = Drawn(channels),
                               by_out = Drawn(channels * tokens), before = Drawn(k * taps_stride),
                               bias_before = Drawn(channels);
      std::vector<float> by_history(rows * stride, 7.0f), by_taps = before, by_bias = bias_before;
      CausalConvBackward({history.data(), taps.data(), bias.data(), stride, taps_stride}, by_out.data(), tokens,
                         channels, k, width, {by_history.data(), by_taps.data(), by_bias.data()});
      const auto by = [&](int64_t t, int64_t c) { return by_out[(c / width * tokens + t) * width + c % width]; };
      const auto check = [&](float got, double expected, int64_t terms) {
        ASSERT_NEAR(got, expected, 1e-5 * terms * (1 + std::abs(expected)))
            << "width " << width << " heads " << heads << " k " << k << " tokens " << tokens;
      };
      for (int64_t c = 0; c < channels; ++c) {
        std::vector<double> of_history(rows, 0.0), of_taps(k, 0.0);
        double of_bias = bias_before[c];
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t j = 0; j < k; ++j) {
            of_history[t + j] += static_cast<double>(taps[j * taps_stride + c]) * by(t, c);
            of_taps[j] += static_cast<double>(history[(t + j) * stride + c]) * by(t, c);
          }
          of_bias += by(t, c);
        }
        for (int64_t s = 0; s < rows; ++s) check(by_history[s * stride + c], of_history[s], k);
        for (int64_t j = 0; j < k; ++j) {
          check(by_taps[j * taps_stride + c], of_taps[j] + before[j * taps_stride + c], tokens);
        }
        check(by_bias[c], of_bias, tokens);
      }
      for (int64_t s = 0; s < rows; ++s) {  // nothing beside the channels
        for (int64_t c = channels; c < stride; ++c) ASSERT_EQ(by_history[s * stride + c], 7.0f);
      }
    }
  });
}

}  // namespace
}  // namespace mnemosyne
