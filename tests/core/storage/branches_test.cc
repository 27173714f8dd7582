// Who reads what of which branch, and what may go.
#include "core/storage/branches.h"

#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mnemosyne {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

constexpr uint64_t kEndless = std::numeric_limits<uint64_t>::max();

TEST(Branches, AForkOfAForkReadsTheRecordsOfBoth) {
  const SessionMetadata first = {.number = 1};
  const SessionMetadata second = Continuation(first, {2, 1}, 10, 1000);
  const SessionMetadata third = Continuation(second, {3, 1}, 15, 1500);
  ASSERT_EQ(third.extents.size(), 2);
  EXPECT_EQ(third.extents[0].branch, (BranchId{1, 1}));
  EXPECT_EQ(third.extents[0].count, 10);
  EXPECT_EQ(third.extents[1].branch, (BranchId{2, 1}));
  EXPECT_EQ(third.extents[1].first, 10);
  EXPECT_EQ(third.extents[1].count, 5);
  EXPECT_EQ(third.own_first, 15);
  ASSERT_EQ(third.snapshot_sources.size(), 2);
  EXPECT_EQ(third.snapshot_sources[0].max_offset, 1500);
  EXPECT_EQ(third.snapshot_sources[1].max_offset, 1000);
  // Cut before the first fork, the second has no part in it.
  EXPECT_EQ(Continuation(third, {4, 1}, 7, 700).extents.size(), 1);
  EXPECT_THAT(Continuation(third, {4, 1}, 0, 0).extents, IsEmpty());
}

TEST(Branches, WhatNoSessionReadsIsNotKept) {
  BranchTable table;
  const SessionMetadata first = {.number = 1};
  const SessionMetadata second = Continuation(first, {2, 1}, 10, 1000), third = Continuation(first, {3, 1}, 4, 400);
  table.Set(first);
  EXPECT_THAT(table.KeptOf({1, 1}).records, ElementsAre(Pair(0, kEndless)));
  EXPECT_THAT(table.KeptOf({1, 2}).records, IsEmpty());
  table.Set(second);
  table.Set(third);
  EXPECT_THAT(table.OtherReaders(1, {1, 1}, 3, 20), UnorderedElementsAre(2, 3));
  EXPECT_THAT(table.OtherReaders(1, {1, 1}, 5, 20), ElementsAre(2));
  EXPECT_THAT(table.OtherReaders(2, {1, 1}, 5, 20), ElementsAre(1));
  table.Remove(1);
  EXPECT_THAT(table.KeptOf({1, 1}).records, ElementsAre(Pair(0, 10)));
  EXPECT_EQ(table.KeptOf({1, 1}).max_snapshot_offset, 1000);
  table.Remove(2);
  EXPECT_THAT(table.KeptOf({1, 1}).records, ElementsAre(Pair(0, 4)));
  EXPECT_THAT(table.KeptOf({2, 1}).records, IsEmpty());
  table.Remove(3);
  EXPECT_THAT(table.KeptOf({1, 1}).records, IsEmpty());
  EXPECT_EQ(table.KeptOf({1, 1}).max_snapshot_offset, -1);
}

// A trimmed session can go back to its earliest offset: so can its fork, whatever the session drops later.
TEST(Branches, AForkOfATrimmedLogNeedsTheSnapshotOfItsEarliestOffset) {
  BranchTable table;
  SessionMetadata trimmed = {.number = 1};
  TrimLog(trimmed, 20, 640, 700);
  table.Set(trimmed);
  EXPECT_THAT(table.NeedsOfSnapshots({1, 1}).bounds, IsEmpty());
  EXPECT_THAT(table.NeedsOfSnapshots({1, 1}).offsets, ElementsAre(640));
  EXPECT_THAT(table.NeedsOfSnapshots({1, 2}).offsets, IsEmpty());
  SessionMetadata fork = Continuation(trimmed, {2, 1}, 50, 3000);
  EXPECT_EQ(fork.log_begin, 20);
  EXPECT_EQ(fork.earliest_offset, 640);
  table.Set(fork);
  TrimLog(trimmed, 40, 1280, 1400);
  table.Set(trimmed);
  EXPECT_THAT(table.NeedsOfSnapshots({1, 1}).bounds, ElementsAre(3000));
  EXPECT_THAT(table.NeedsOfSnapshots({1, 1}).offsets, UnorderedElementsAre(1280, 640));
  table.Remove(2);
  EXPECT_THAT(table.NeedsOfSnapshots({1, 1}).bounds, IsEmpty());
  EXPECT_THAT(table.NeedsOfSnapshots({1, 1}).offsets, ElementsAre(1280));
}

TEST(Branches, ATrimTakesWholeExtentsAndPartsOfThem) {
  SessionMetadata session = Continuation({.number = 1}, {2, 1}, 10, 1000);
  TrimLog(session, 4, 128, 400);
  ASSERT_EQ(session.extents.size(), 1);
  EXPECT_EQ(session.extents[0].first, 4);
  EXPECT_EQ(session.extents[0].count, 6);
  EXPECT_EQ(session.own_first, 10);
  TrimLog(session, 12, 256, 1200);
  EXPECT_THAT(session.extents, IsEmpty());
  EXPECT_EQ(session.own_first, 12);
  EXPECT_EQ(ExtentsEnd(session), 12);
}

}  // namespace
}  // namespace mnemosyne
