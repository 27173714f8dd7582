#include "core/kernels/product.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/tile_product.h"
#include "tests/core/kernels/kernel_fixture.h"

namespace mnemosyne {
namespace {

using ProductTest = KernelTest;

// Of the two numbers with 7 bits of mantissa around it, the nearer one.
float NearestBFloat16(float value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  const float step = std::ldexp(1.0f, exponent - 8);
  return std::nearbyint(value / step) * step;  // to even between two
}

// Those that this machine can compute with.
std::vector<WeightType> Types() {
  std::vector<WeightType> types = {WeightType::kFloat32, WeightType::kBFloat16};
  if (HasTiles()) {
    types.push_back(WeightType::kBFloat16Products);
  } else {
    std::printf("no tiles here: products of bfloat16 are not tested\n");
  }
  return types;
}

TEST_F(ProductTest, AgreesWithItsDefinitionInDouble) {
  const std::vector<WeightType> types = Types();
  OnEveryTarget([&] {
    for (int round = 0; round < 200; ++round) {
      const int64_t rows = 1 + Below(40), inputs = 1 + Below(150), outputs = 1 + Below(150);
      const int64_t x_stride = inputs + Below(5), y_stride = outputs + Below(5);
      std::vector<float> x = Drawn(rows * x_stride), weight = Drawn(outputs * inputs);
      const WeightType type = types[round % types.size()];
      const PackedMatrix packed(weight.data(), outputs, inputs, type);
      std::vector<float> y(rows * y_stride, 7.0f);
      Multiply(x.data(), x_stride, packed, rows, y.data(), y_stride);
      const auto round_all = [](std::vector<float>& values) {
        std::transform(values.begin(), values.end(), values.begin(), NearestBFloat16);
      };
      if (type != WeightType::kFloat32) round_all(weight);
      if (type == WeightType::kBFloat16Products) round_all(x);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < outputs; ++o) {
          double sum = 0;
          for (int64_t i = 0; i < inputs; ++i) sum += static_cast<double>(x[r * x_stride + i]) * weight[o * inputs + i];
          ASSERT_NEAR(y[r * y_stride + o], sum, 1e-5 * std::sqrt(inputs) * 4)
              << rows << " " << inputs << " " << outputs;
        }
        for (int64_t o = outputs; o < y_stride; ++o) ASSERT_EQ(y[r * y_stride + o], 7.0f);  // nothing beside it
      }
    }
  });
}

TEST_F(ProductTest, ARowHasTheSameBitsAmongAnyOthers) {
  const std::vector<WeightType> types = Types();
  OnEveryTarget([&] {
    for (int round = 0; round < 50; ++round) {
      const int64_t rows = 2 + Below(130), inputs = 1 + Below(300), outputs = 1 + Below(200);
      const std::vector<float> x = Drawn(rows * inputs), weight = Drawn(outputs * inputs);
      const PackedMatrix packed(weight.data(), outputs, inputs, types[round % types.size()]);
      std::vector<float> together(rows * outputs), alone(outputs);
      Multiply(x.data(), inputs, packed, rows, together.data(), outputs);
      for (int64_t r = 0; r < rows; ++r) {
        Multiply(x.data() + r * inputs, inputs, packed, 1, alone.data(), outputs);
        ASSERT_EQ(std::vector<float>(together.begin() + r * outputs, together.begin() + (r + 1) * outputs), alone);
      }
    }
  });
}

}  // namespace
}  // namespace mnemosyne
