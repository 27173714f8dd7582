#include "core/kernels/product.h"

#include "tests/core/kernels/kernel_fixture.h"

namespace mnemosyne {
namespace {

using ProductTest = KernelTest;

TEST_F(ProductTest, AgreesWithItsDefinitionInDouble) {
  OnEveryTarget([&] {
    for (int round = 0; round < 200; ++round) {
      const int64_t rows = 1 + Below(40), inputs = 1 + Below(150), outputs = 1 + Below(150);
      const int64_t x_stride = inputs + Below(5), y_stride = outputs + Below(5);
      const std::vector<float> x = Drawn(rows * x_stride), weight = Drawn(outputs * inputs);
      const PackedMatrix packed(weight.data(), outputs, inputs);
      std::vector<float> y(rows * y_stride, 7.0f);
      Multiply(x.data(), x_stride, packed, rows, y.data(), y_stride);
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
  OnEveryTarget([&] {
    for (int round = 0; round < 50; ++round) {
      const int64_t rows = 2 + Below(130), inputs = 1 + Below(300), outputs = 1 + Below(200);
      const std::vector<float> x = Drawn(rows * inputs), weight = Drawn(outputs * inputs);
      const PackedMatrix packed(weight.data(), outputs, inputs);
      std::vector<float> together(rows * outputs), alone(outputs);
      Multiply(x.data(), inputs, packed, rows, together.data(), outputs);
      for (int64_t r = 0; r < rows; ++r) {
        Multiply(x.data() + r * inputs, inputs, packed, 1, alone.data(), outputs);
        ASSERT_EQ(std::vector<float>(together.begin() + r * outputs, together.begin() + (r + 1) * outputs), alone);
      }
    }
  });
}

TEST_F(ProductTest, StridedProductsSetAddAndSubtract) {
  OnEveryTarget([&] {
    for (int round = 0; round < 200; ++round) {
      const int64_t rows = 1 + Below(40), depth = 1 + Below(70), columns = 1 + Below(100);
      const bool across = round % 2 == 0;  // a stored by columns
      const Strided layout = {nullptr, across ? 1 : depth, across ? rows : 1};
      const int64_t b_stride = RoundUpToPanel(columns), c_stride = columns + Below(3);
      const std::vector<float> a = Drawn(rows * depth), b = Drawn(depth * b_stride), before = Drawn(rows * c_stride);
      for (const Into into : {Into::kSet, Into::kAdd, Into::kSubtract}) {
        std::vector<float> c = before;
        MultiplyStrided({a.data(), layout.row_stride, layout.column_stride}, rows, depth, b.data(), b_stride, columns,
                        into, c.data(), c_stride);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t j = 0; j < c_stride; ++j) {
            const double old = before[r * c_stride + j];
            double sum = 0;
            for (int64_t k = 0; j < columns && k < depth; ++k) {
              sum += static_cast<double>(a[r * layout.row_stride + k * layout.column_stride]) * b[k * b_stride + j];
            }
            const double expected = j >= columns         ? old
                                    : into == Into::kSet ? sum
                                    : into == Into::kAdd ? old + sum
                                                         : old - sum;
            ASSERT_NEAR(c[r * c_stride + j], expected, 2e-5 * std::sqrt(depth) * 4);
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace mnemosyne
