#include "core/session/surprise_history.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace mnemosyne {
namespace {

TEST(SurpriseHistory, FewBlocksAreKeptAsTheyAre) {
  SurpriseHistory history;
  EXPECT_TRUE(history.points().empty());
  for (int i = 1; i <= 3; ++i) history.Add(64 * i, static_cast<float>(i));
  const std::vector<SurprisePoint> points = history.points();
  ASSERT_EQ(points.size(), 3u);
  EXPECT_EQ(points[2].end_offset, 192);
  EXPECT_EQ(points[2].mean, 3);
}

TEST(SurpriseHistory, AnyNumberOfBlocksFitsAndTheMeanStays) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20; ++round) {
    SurpriseHistory history;
    const int blocks = 1 + static_cast<int>(random() % 5000);
    double sum = 0;
    for (int i = 1; i <= blocks; ++i) {
      const float surprise = static_cast<float>(random() % 1000);
      sum += surprise;
      history.Add(64 * i, surprise);
      ASSERT_LE(history.points().size(), SurpriseHistory::kMaxPoints);
    }
    const std::vector<SurprisePoint> points = history.points();
    EXPECT_EQ(points.back().end_offset, 64 * blocks);
    double weighted = 0;
    int64_t before = 0;
    for (const SurprisePoint& point : points) {
      EXPECT_GT(point.end_offset, before);
      weighted += static_cast<double>(point.end_offset - before) / 64 * point.mean;
      before = point.end_offset;
    }
    EXPECT_NEAR(weighted / blocks, sum / blocks, 1e-2);
    if (blocks >= 256) {
      EXPECT_GE(points.size(), SurpriseHistory::kMaxPoints / 2);
    }
  }
}

}  // namespace
}  // namespace mnemosyne
