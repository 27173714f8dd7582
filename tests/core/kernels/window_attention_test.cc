#include "core/kernels/window_attention.h"

#include <memory>

#include "tests/core/kernels/kernel_fixture.h"

namespace mnemosyne {
namespace {

using WindowAttentionTest = KernelTest;

// A whole stream of one head in double, a token at a time, by the definition.
class Oracle {
 public:
  Oracle(int64_t width, int64_t window, double base) : width_(width), window_(window), base_(base) {}

  // The row that token `position` attends to; all before it must have been given.
  std::vector<double> Next(const float* query, const float* key, const float* value,
                           const std::vector<std::vector<double>>& persistent_k,
                           const std::vector<std::vector<double>>& persistent_v) {
    const int64_t position = keys_.size();
    keys_.push_back(Rotated(key, position));
    values_.emplace_back(value, value + width_);
    const std::vector<double> rotated = Rotated(query, position);
    std::vector<double> weights, out(width_);
    std::vector<const std::vector<double>*> seen;
    const auto add = [&](const std::vector<double>& k, const std::vector<double>& v) {
      double score = 0;
      for (int64_t i = 0; i < width_; ++i) score += rotated[i] * k[i];
      weights.push_back(std::exp(score / std::sqrt(width_)));
      seen.push_back(&v);
    };
    for (size_t p = 0; p < persistent_k.size(); ++p) add(persistent_k[p], persistent_v[p]);
    for (int64_t j = std::max<int64_t>(0, position - window_ + 1); j <= position; ++j) add(keys_[j], values_[j]);
    double sum = 0;
    for (const double weight : weights) sum += weight;
    for (size_t j = 0; j < seen.size(); ++j) {
      for (int64_t i = 0; i < width_; ++i) out[i] += weights[j] / sum * (*seen[j])[i];
    }
    return out;
  }
  const std::vector<std::vector<double>>& keys() const { return keys_; }

 private:
  std::vector<double> Rotated(const float* x, int64_t position) const {
    const int64_t half = width_ / 2;
    std::vector<double> out(width_);
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(base_, -static_cast<double>(i) / half);
      out[i] = x[i] * std::cos(angle) - x[half + i] * std::sin(angle);
      out[half + i] = x[i] * std::sin(angle) + x[half + i] * std::cos(angle);
    }
    return out;
  }
  const int64_t width_, window_;
  const double base_;
  std::vector<std::vector<double>> keys_, values_;
};

TEST_F(WindowAttentionTest, AgreesWithItsDefinitionHoweverAStreamIsCut) {
  OnEveryTarget([&] {
    for (int round = 0; round < 12; ++round) {
      const WindowShape shape = {1 + Below(3), 2 * (1 + Below(20)), 1 + Below(100), Below(4)};
      const int64_t heads = shape.heads, a = shape.head_dim, tail = shape.window - 1, dim = heads * a;
      const int64_t total = 1 + Below(250);
      const RotaryTable rotary(a / 2, 10000.0);
      const std::vector<float> projected = Drawn(total * 3 * dim), pk = Drawn(heads * shape.persistent * a),
                               pv = Drawn(heads * shape.persistent * a);
      // What a window holds before the stream is never looked at.
      std::vector<float> keys(heads * tail * a, 1e30f), values(heads * tail * a, 1e30f);
      std::vector<float> attended(total * dim), held_attended(total * dim);
      std::unique_ptr<HeldWindow> held;
      for (int64_t done = 0; done < total;) {
        const int64_t tokens = std::min(1 + Below(90), total - done);
        if (held == nullptr && (done > 0 || Below(2) == 0)) {
          held = std::make_unique<HeldWindow>(shape, keys.data(), values.data());
        }
        std::vector<float> next_keys(keys.size()), next_values(values.size());
        StepWindowAttention(
            shape, rotary,
            {tokens, done, projected.data() + done * 3 * dim, keys.data(), values.data(), pk.data(), pv.data()},
            {next_keys.data(), next_values.data(), attended.data() + done * dim});
        if (held != nullptr) {
          for (int64_t t = done, here = 0; t < done + tokens; t += here) {
            here = std::min(1 + Below(3), done + tokens - t);
            held->Step(rotary, {here, t, projected.data() + t * 3 * dim, nullptr, nullptr, pk.data(), pv.data()},
                       held_attended.data() + t * dim);
          }
          for (int64_t i = done * dim; i < (done + tokens) * dim; ++i) {
            ASSERT_EQ(held_attended[i], attended[i]) << "token " << i / dim;
          }
        }
        keys = next_keys;
        values = next_values;
        done += tokens;
      }
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<std::vector<double>> persistent_k, persistent_v;
        for (int64_t p = 0; p < shape.persistent; ++p) {
          const int64_t at = (h * shape.persistent + p) * a;
          persistent_k.emplace_back(pk.begin() + at, pk.begin() + at + a);
          persistent_v.emplace_back(pv.begin() + at, pv.begin() + at + a);
        }
        Oracle oracle(a, shape.window, 10000.0);
        for (int64_t t = 0; t < total; ++t) {
          const float* const row = projected.data() + t * 3 * dim + h * a;
          const auto expected = oracle.Next(row, row + dim, row + 2 * dim, persistent_k, persistent_v);
          for (int64_t i = 0; i < a; ++i) ASSERT_NEAR(attended[t * dim + h * a + i], expected[i], 2e-5) << t;
        }
        for (int64_t j = 0; j < std::min(tail, total); ++j) {  // the newest last
          for (int64_t i = 0; i < a; ++i) {
            ASSERT_NEAR(keys[(h * tail + tail - 1 - j) * a + i], oracle.keys()[total - 1 - j][i], 1e-5);
          }
        }
      }
    }
  });
}

TEST_F(WindowAttentionTest, AKeyThatIsNoNumberShowsInWhatAttendsToIt) {
  OnEveryTarget([&] {
    const WindowShape shape = {1, 8, 10, 2};
    const RotaryTable rotary(4, 10000.0);
    std::vector<float> projected = Drawn(40 * 24), persistent = Drawn(2 * 8), keys(9 * 8), values(9 * 8),
                       next_keys(9 * 8), next_values(9 * 8), attended(40 * 8);
    projected[20 * 24 + 8] = std::numeric_limits<float>::quiet_NaN();  // of token 20's key
    StepWindowAttention(shape, rotary,
                        {40, 0, projected.data(), keys.data(), values.data(), persistent.data(), persistent.data()},
                        {next_keys.data(), next_values.data(), attended.data()});
    for (int64_t t = 0; t < 40; ++t) EXPECT_EQ(std::isnan(attended[t * 8]), t >= 20 && t < 30) << t;
  });
}

TEST_F(WindowAttentionTest, AnglesAreExactFarOut) {
  const RotaryTable rotary(8, 10000.0);
  for (const int64_t first : {int64_t{0}, int64_t{123456}, int64_t{10'000'000}}) {
    std::vector<float> cosine(150 * 8), sine(150 * 8);
    rotary.Fill(first, 150, cosine.data(), sine.data());
    for (int64_t t = 0; t < 150; ++t) {
      for (int64_t i = 0; i < 8; ++i) {
        const long double angle = (first + t) * std::pow(10000.0L, -i / 8.0L);
        ASSERT_NEAR(cosine[t * 8 + i], std::cos(angle), 1e-7);
        ASSERT_NEAR(sine[t * 8 + i], std::sin(angle), 1e-7);
      }
    }
  }
}

}  // namespace
}  // namespace mnemosyne
