#include "core/base/distribution.h"

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mnemosyne {
namespace {

using testing::ElementsAre;

TEST(Distribution, ValuesCountBelowTheirBounds) {
  Distribution distribution({1, 2.5, 10});
  for (const double value : {0.5, 1.0, 1.5, 2.5, 2.6, 10.0, 11.0, 1e9}) distribution.Add(value);
  const Distribution::Counts counts = distribution.counts();
  EXPECT_THAT(counts.bounds, ElementsAre(1, 2.5, 10));
  EXPECT_THAT(counts.counts, ElementsAre(2, 2, 2, 2));
  EXPECT_DOUBLE_EQ(counts.sum, 0.5 + 1 + 1.5 + 2.5 + 2.6 + 10 + 11 + 1e9);
  EXPECT_EQ(counts.total(), 8);
}

TEST(Distribution, ThreadsLoseNothing) {
  Distribution distribution({1});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) distribution.Add(i % 2 == 0 ? 1 : 3);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(distribution.counts().counts, ElementsAre(20000, 20000));
  EXPECT_DOUBLE_EQ(distribution.counts().sum, 80000);
}

}  // namespace
}  // namespace mnemosyne
