// StreamWriter: waiting for a level of delivery.
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/client_fixture.h"
#include "tests/client/fake_memory_service.h"
#include "tests/status_matchers.h"

namespace mnemosyne::client {
namespace {

using ::testing::HasSubstr;

constexpr DeliveryLevel kLevels[] = {DeliveryLevel::kAccepted, DeliveryLevel::kDurable, DeliveryLevel::kMemorized};

absl::Time Soon() { return absl::Now() + absl::Milliseconds(50); }

class DeliveryTest : public testing::Test {
 protected:
  void Set(bool FakeMemoryService::*flag, bool value) {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.*flag = value;
  }
  std::unique_ptr<StreamWriter> Open() {
    absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake_)->OpenStream("a", QuickOptions());
    EXPECT_OK(writer);
    return *std::move(writer);
  }

  FakeServer fake_;
};

TEST_F(DeliveryTest, NothingAppendedIsDeliveredAtOnce) {
  const auto writer = Open();
  EXPECT_EQ(writer->appended_sequence(), 0);
  for (const DeliveryLevel level : kLevels) EXPECT_OK(writer->Await(level, Soon()));
  EXPECT_THAT(writer->AwaitSequence(DeliveryLevel::kAccepted, 1),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("append 1 was not made yet; the last is 0")));
}

TEST_F(DeliveryTest, EachLevelHasItsOwnEnd) {
  const auto writer = Open();
  Set(&FakeMemoryService::hold_acks, true);
  ASSERT_OK(writer->Append("x"));
  for (const DeliveryLevel level : kLevels) {
    EXPECT_THAT(writer->Await(level, Soon()), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("append 1")));
  }
  Set(&FakeMemoryService::hold_acks, false);
  Set(&FakeMemoryService::memorizes, false);
  ASSERT_OK(writer->Append("y"));
  EXPECT_EQ(writer->appended_sequence(), 2);
  EXPECT_OK(writer->Await(DeliveryLevel::kAccepted));
  EXPECT_OK(writer->Await(DeliveryLevel::kDurable));
  EXPECT_THAT(writer->Await(DeliveryLevel::kMemorized, Soon()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, testing::_));
  Set(&FakeMemoryService::memorizes, true);
  ASSERT_OK(writer->Append("z"));
  EXPECT_OK(writer->AwaitSequence(DeliveryLevel::kMemorized, 1)) << "by an ack: the flush was never answered";
  EXPECT_OK(writer->Await(DeliveryLevel::kMemorized));
  EXPECT_EQ(writer->progress().memorized_sequence, 3);
}

TEST_F(DeliveryTest, WhatNoAckCountsIsAskedFor) {
  Set(&FakeMemoryService::durable_lags, true);
  const auto writer = Open();
  ASSERT_OK(writer->Append("x"));
  EXPECT_OK(writer->Await(DeliveryLevel::kAccepted));
  EXPECT_OK(writer->Await(DeliveryLevel::kDurable));
  ASSERT_OK(writer->Append("y"));
  EXPECT_OK(writer->Await(DeliveryLevel::kMemorized));
}

TEST_F(DeliveryTest, AWaitOutlivesABrokenConnection) {
  for (int kind = 0; kind < Break::kKinds; ++kind) {
    {
      absl::MutexLock lock(&fake_.service.mutex);
      fake_.service.breaks = {{.after_appends = 2, .kind = static_cast<Break::Kind>(kind)}};
    }
    const auto writer = Open();
    for (int i = 0; i < 3; ++i) ASSERT_OK(writer->Append("x"));
    for (const DeliveryLevel level : kLevels) EXPECT_OK(writer->Await(level)) << kind;
    ASSERT_OK(writer->Close());
  }
  EXPECT_EQ(Content(fake_, "a"), std::string(12, 'x'));
}

TEST_F(DeliveryTest, ManyThreadsWaitWhileOthersAppend) {
  const auto writer = Open();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 20; ++j) {
        EXPECT_OK(writer->Append("x"));
        EXPECT_OK(writer->Await(kLevels[(i + j) % 3]));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(writer->appended_sequence(), 160);
}

TEST_F(DeliveryTest, TheStreamsEndIsTheWaitsEnd) {
  Set(&FakeMemoryService::memorizes, false);
  const auto writer = Open();
  ASSERT_OK(writer->Append("x"));
  std::thread waits([&] {
    EXPECT_THAT(writer->Await(DeliveryLevel::kMemorized), StatusIs(absl::StatusCode::kCancelled, testing::_));
  });
  EXPECT_OK(writer->Await(DeliveryLevel::kDurable));
  writer->Cancel();
  waits.join();
  EXPECT_OK(writer->Await(DeliveryLevel::kDurable)) << "what has come so far stays true";
}

TEST_F(DeliveryTest, EarlierAppendsOfTheSessionCount) {
  {
    const auto writer = Open();
    ASSERT_OK(writer->Append("x"));
    ASSERT_OK(writer->Close());
  }
  const auto writer = Open();
  EXPECT_EQ(writer->appended_sequence(), 1);
  for (const DeliveryLevel level : kLevels) EXPECT_OK(writer->AwaitSequence(level, 1));
}

}  // namespace
}  // namespace mnemosyne::client
