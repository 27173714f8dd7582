#include "core/kernels/rows.h"

#include "tests/core/kernels/kernel_fixture.h"

namespace mnemosyne {
namespace {

using RowsTest = KernelTest;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST_F(RowsTest, NormsAgreeWithTheirDefinitions) {
  OnEveryTarget([&] {
    for (int round = 0; round < 50; ++round) {
      const int64_t rows = 1 + Below(5), width = 1 + Below(100), stride = width + Below(4);
      const std::vector<float> x = Drawn(rows * stride, 3), weight = Drawn(width);
      std::vector<float> y(rows * stride, 7.0f);
      RmsNormRows(x.data(), stride, rows, width, weight.data(), 1e-6f, y.data(), stride);
      const std::vector<float> packed = Drawn(rows * width);
      std::vector<float> unit(rows * width);
      L2NormalizeRows(packed.data(), rows, width, unit.data());
      for (int64_t r = 0; r < rows; ++r) {
        double squares = 0, length = 0;
        for (int64_t i = 0; i < width; ++i) {
          squares += std::pow(static_cast<double>(x[r * stride + i]), 2);
          length += std::pow(static_cast<double>(packed[r * width + i]), 2);
        }
        for (int64_t i = 0; i < width; ++i) {
          ASSERT_NEAR(y[r * stride + i], x[r * stride + i] / std::sqrt(squares / width + 1e-6) * weight[i], 1e-5);
          ASSERT_NEAR(unit[r * width + i], packed[r * width + i] / std::sqrt(length), 1e-6);
        }
        for (int64_t i = width; i < stride; ++i) ASSERT_EQ(y[r * stride + i], 7.0f);
      }
    }
  });
}

TEST_F(RowsTest, ARowOfZerosStaysZero) {
  OnEveryTarget([] {
    const std::vector<float> zeros(40);
    std::vector<float> y(40, 7.0f);
    L2NormalizeRows(zeros.data(), 2, 20, y.data());
    EXPECT_EQ(y, zeros);
  });
}

TEST_F(RowsTest, GatesAgreeWithTheirDefinitions) {
  OnEveryTarget([&] {
    for (int round = 0; round < 50; ++round) {
      const int64_t rows = 1 + Below(5), width = 1 + Below(70);
      const std::vector<float> x = Drawn(rows * 2 * width, 4);
      std::vector<float> gated(rows * width), product(rows * width), silu = x, theta(x.size()), log_keep(x.size());
      GatedSiluRows(x.data(), rows, width, gated.data());
      GateRows(x.data(), 2 * width, x.data() + width, 2 * width, rows, width, product.data(), width);
      SiluInPlace(silu.data(), silu.size());
      ScaledSigmoid(x.data(), x.size(), 0.5f, theta.data());
      LogSigmoid(x.data(), x.size(), -1.0f, log_keep.data());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < width; ++i) {
          const double up = x[r * 2 * width + i], gate = x[r * 2 * width + width + i];
          ASSERT_NEAR(gated[r * width + i], up * gate * Sigmoid(gate), 1e-6 * (1 + std::abs(up * gate)));
          ASSERT_NEAR(product[r * width + i], up * Sigmoid(gate), 1e-6 * (1 + std::abs(up)));
        }
      }
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(silu[i], x[i] * Sigmoid(x[i]), 1e-6 * (1 + std::abs(x[i])));
        ASSERT_NEAR(theta[i], 0.5 * Sigmoid(x[i]), 1e-6);
        ASSERT_NEAR(log_keep[i], -std::log1p(std::exp(static_cast<double>(x[i]))), 1e-6 * (1 + std::abs(x[i])));
      }
    }
  });
}

TEST_F(RowsTest, FarOutTheyAreWhatTheyTendTo) {
  OnEveryTarget([] {
    const std::vector<float> x = {-3e38f, -1000, -90, 90, 1000, 3e38f};
    std::vector<float> sigmoid(6), log_sigmoid(6), silu = x;
    ScaledSigmoid(x.data(), 6, 1, sigmoid.data());
    LogSigmoid(x.data(), 6, 1, log_sigmoid.data());
    SiluInPlace(silu.data(), 6);
    for (int i = 0; i < 3; ++i) {
      EXPECT_NEAR(sigmoid[i], 0, 1e-37);
      EXPECT_EQ(log_sigmoid[i], x[i]);
      EXPECT_EQ(sigmoid[3 + i], 1);
      EXPECT_NEAR(log_sigmoid[3 + i], 0, 1e-37);
      EXPECT_EQ(silu[3 + i], x[3 + i]);
    }
    EXPECT_NEAR(silu[1], 0, 1e-30);
  });
}

// A memory that ran away must show in whatever is computed from it.
TEST_F(RowsTest, WhatIsNoNumberStaysNone) {
  OnEveryTarget([] {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    for (const size_t place : {0, 3, 20, 36}) {  // in a vector and behind the last whole one
      std::vector<float> x(37, 0.5f), weight(37, 1.0f), y(37);
      x[place] = kNaN;
      const auto expect_only_there = [&] {
        for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i == place) << i;
      };
      ScaledSigmoid(x.data(), 37, 1, y.data());
      expect_only_there();
      LogSigmoid(x.data(), 37, -1, y.data());
      expect_only_there();
      GateRows(weight.data(), 37, x.data(), 37, 1, 37, y.data(), 37);
      expect_only_there();
      y = x;
      SiluInPlace(y.data(), 37);
      expect_only_there();
      RmsNormRows(x.data(), 37, 1, 37, weight.data(), 1e-6f, y.data(), 37);
      EXPECT_TRUE(std::isnan(y[0]));
      L2NormalizeRows(x.data(), 1, 37, y.data());
      EXPECT_TRUE(std::isnan(y[0]));
    }
  });
}

}  // namespace
}  // namespace mnemosyne
