// What the kernels' tests share: random values from a printed seed, and every instruction set that this machine has.
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <vector>

namespace mnemosyne {

class KernelTest : public testing::Test {
 protected:
  KernelTest() { std::printf("seed %u\n", seed_); }
  ~KernelTest() override { hwy::SetSupportedTargetsForTest(0); }

  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % n); }
  std::vector<float> Drawn(int64_t count, float scale = 1) {
    std::vector<float> values(count);
    for (float& value : values) value = scale * normal_(random_);
    return values;
  }

  // Runs it once with each instruction set.
  void OnEveryTarget(const std::function<void()>& test) {
    for (int64_t targets = hwy::SupportedTargets() & ~kLeftOut; targets != 0; targets &= targets - 1) {
      const int64_t target = targets & -targets;
      SCOPED_TRACE(hwy::TargetName(target));
      hwy::SetSupportedTargetsForTest(target);
      test();
      hwy::SetSupportedTargetsForTest(0);
    }
  }

  static constexpr int64_t kLeftOut = HWY_SSSE3 | HWY_AVX3_DL;  // by core/kernels/CMakeLists.txt
  const unsigned seed_ = std::random_device()();
  std::mt19937 random_{seed_};
  std::normal_distribution<float> normal_;
};

}  // namespace mnemosyne
