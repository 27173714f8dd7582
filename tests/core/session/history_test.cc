// Which snapshots a session keeps.
#include "core/session/history.h"

#include <algorithm>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mnemosyne {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(SnapshotsToDrop, TheNewestTwoStayAlsoUpToEachBound) {
  EXPECT_THAT(SnapshotsToDrop({}, {}, false), IsEmpty());
  EXPECT_THAT(SnapshotsToDrop({200, 100}, {}, false), IsEmpty());
  EXPECT_THAT(SnapshotsToDrop({500, 400, 300, 200, 100}, {}, false), ElementsAre(300, 200, 100));
  EXPECT_THAT(SnapshotsToDrop({500, 400, 300, 200, 100}, {{350, 100}, {}}, false), IsEmpty());
  EXPECT_THAT(SnapshotsToDrop({500, 400, 300, 200, 100}, {{250}, {}}, false), ElementsAre(300));
}

// A session that keeps its past, after a time in which it was trimmed: what only the snapshot brings back stays.
TEST(SnapshotsToDrop, ThatOfATrimmedLogsBeginningStays) {
  const std::vector<int64_t> offsets = {1100, 1000, 800, 600, 500, 100};
  EXPECT_THAT(SnapshotsToDrop(offsets, {}, true), ElementsAre(800, 500));
  EXPECT_THAT(SnapshotsToDrop(offsets, {{}, {500}}, true), ElementsAre(800));
  EXPECT_THAT(SnapshotsToDrop(offsets, {{}, {500}}, false), ElementsAre(800, 600, 100));
}

// With the past kept, however long a session grows: few snapshots, and from any offset one that is not much further
// back than the offset is.
TEST(SnapshotsToDrop, ThePastGetsSparserByTheDistance) {
  const uint64_t seed = std::random_device()();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  std::vector<int64_t> kept;  // newest first
  int64_t newest = 0;
  for (int i = 0; i < 5000; ++i) {
    newest += 64 * (1 + random() % 3);
    kept.insert(kept.begin(), newest);
    for (const int64_t offset : SnapshotsToDrop(kept, {}, true)) std::erase(kept, offset);
    ASSERT_LE(kept.size(), 2 + 24);
    const int64_t asked = random() % newest;
    const auto found = std::find_if(kept.begin(), kept.end(), [&](int64_t offset) { return offset <= asked; });
    const int64_t from = found == kept.end() ? 0 : *found;
    ASSERT_LE(asked - from, 4 * (newest - asked) + 4 * 192) << "asked " << asked << " of " << newest;
  }
}

}  // namespace
}  // namespace mnemosyne
