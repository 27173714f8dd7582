// A session that is brought back from its log.
#include "core/session/session.h"

#include <malloc.h>

#include <random>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {
namespace {

LogRecord TextRecord(uint64_t index, uint64_t sequence, int64_t bytes) {
  return {.session_number = 1, .epoch = 1, .index = index, .sequence = sequence, .payload = std::string(bytes, 'a')};
}

class SessionTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteRandomModel(folder_.path(), SmallConfig(), 7);
    absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(folder_.path(), {});
    ASSERT_OK(model);
    model_ = *std::move(model);
    block_ = model_->config().block_tokens();
  }
  Session::Recovered FromNothing() const {
    Session::Recovered fresh;
    fresh.state = model_->InitialState();
    return fresh;
  }
  Session Fresh(const SessionMetadata& metadata) const {
    return Session(metadata, model_.get(), {.max_backlog_tokens = 1 << 20, .max_log_bytes = 1 << 20}, FromNothing());
  }
  Session::Published Step(Session& session) const {
    const std::optional<Session::Block> block = session.NextBlock();
    if (!block) {
      ADD_FAILURE() << "no block";
      return {};
    }
    return session.Publish(model_->StepBlocks({{block->state, block->tokens}})[0]);
  }
  // Records of both kinds, some empty, with the sequences of a session that was reset on the way.
  std::vector<LogRecord> RandomLog(int records, uint64_t first_sequence, std::mt19937_64& random) const {
    std::vector<LogRecord> log;
    const int reset_at = random() % records;
    for (int i = 0; i < records; ++i) {
      LogRecord record = TextRecord(i, 1, 0);
      if (i > 0) record.sequence = log.back().sequence + random() % 2;  // what the engine appends repeats the last
      if (i == reset_at) record.sequence = first_sequence;
      const int64_t size = random() % 8 == 0 ? 0 : random() % (3 * block_);
      if (random() % 3 == 0) {
        record.kind = LogContent::kTokenIds;
        for (int64_t j = 0; j < 4 * size; ++j) record.payload += static_cast<char>(j % 4 == 0 ? random() % 256 : 0);
      } else {
        for (int64_t j = 0; j < size; ++j) record.payload += static_cast<char>(random() % 256);
      }
      log.push_back(std::move(record));
    }
    return log;
  }

  static void ExpectSame(const Session& a, const Session& b) {
    const auto told = [](const Session& session) {
      const Session::Marks marks = session.marks();
      const SnapshotHeader header = session.Checkpoint().first;
      return std::make_tuple(marks.accepted, marks.durable, marks.memorized, marks.accepted_bytes, marks.next_sequence,
                             marks.durable_sequence, marks.memorized_sequence, header.offset, header.replay_index,
                             header.replay_skip_bytes, header.replay_skip_tokens, header.next_sequence,
                             header.accepted_bytes);
    };
    EXPECT_EQ(told(a), told(b));
  }

  TempFolder folder_;
  std::unique_ptr<Model> model_;
  int64_t block_ = 0;
};

TEST_F(SessionTest, AReplayedSequenceIsMemorizedWhenItsBlocksAre) {
  Session session = Fresh({.number = 1, .id = "s"});
  for (uint64_t i = 0; i < 3; ++i) ASSERT_OK(session.Replay(TextRecord(i, i + 1, block_)));
  EXPECT_EQ(session.marks().durable_sequence, 3);
  for (uint64_t memorized = 0; memorized < 3; ++memorized) {
    EXPECT_EQ(session.marks().memorized_sequence, memorized);
    Step(session);
  }
  EXPECT_EQ(session.marks().memorized_sequence, 3);
}

// Sequences of what a reset made it forget count as memorized with the last that stayed, and not before.
TEST_F(SessionTest, AfterAResetTheSequencesThatStayedAreMemorizedOneByOne) {
  Session session = Fresh({.number = 1, .id = "s", .first_sequence = 50});
  for (uint64_t i = 0; i < 2; ++i) ASSERT_OK(session.Replay(TextRecord(i, i + 1, block_)));
  EXPECT_EQ(session.marks().next_sequence, 50);
  EXPECT_EQ(session.marks().memorized_sequence, 0);
  Step(session);
  EXPECT_EQ(session.marks().memorized_sequence, 1);
  EXPECT_EQ(session.Checkpoint().first.next_sequence, 2);
  Step(session);
  EXPECT_EQ(session.marks().memorized_sequence, 49);
}

// However little of it is in memory at a time: the same states, marks, checkpoints and fork points.
TEST_F(SessionTest, ALogLongerThanABacklogIsReadOnAsOneThatIsWhollyInMemory) {
  const uint64_t seed = std::random_device()();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  int reads = 0, forks = 0;
  for (int round = 0; round < 20; ++round) {
    const SessionMetadata metadata = {.number = 1, .id = "s", .first_sequence = 500};
    const std::vector<LogRecord> log = RandomLog(60, metadata.first_sequence, random);
    Session::Recovered start = FromNothing();
    if (round % 2 == 1) {  // from a snapshot on the way
      Session before = Fresh(metadata);
      for (const LogRecord& record : log) ASSERT_OK(before.Replay(record));
      for (int blocks = random() % 20; blocks > 0; --blocks) Step(before);
      const auto [header, state] = before.Checkpoint();
      start = {state,
               {header.replay_index, header.replay_skip_bytes, header.offset - header.replay_skip_tokens,
                header.replay_skip_tokens},
               header.accepted_bytes,
               header.next_sequence,
               header.offset};
    }
    const int64_t max_backlog = block_ + random() % (8 * block_);
    Session whole(metadata, model_.get(), {.max_backlog_tokens = 1 << 20, .max_log_bytes = 1 << 20}, start);
    Session little(metadata, model_.get(), {.max_backlog_tokens = max_backlog, .max_log_bytes = 1 << 20}, start);
    for (size_t i = start.position.record_index; i < log.size(); ++i) {
      ASSERT_OK(whole.Replay(log[i]));
      ASSERT_OK(little.Replay(log[i]));
    }
    ASSERT_OK(little.CheckReplayed());
    ASSERT_GT(whole.marks().accepted - whole.marks().memorized, max_backlog + 3 * block_);
    for (Session::QueryId query = 0; whole.HasWholeBlock(); ++query) {
      if (const auto from = little.RecordToReadOn()) {
        absl::StatusOr<bool> more = true;
        for (uint64_t i = *from; *more; ++i, ++reads) {
          more = little.ReadOn(log.at(i));
          ASSERT_OK(more);
        }
      }
      ExpectSame(whole, little);
      if (random() % 4 == 0) {  // a question waits for what is accepted
        for (Session* one : {&whole, &little}) ASSERT_FALSE(one->RequestFork(query)->has_value());
      }
      const auto block = whole.NextBlock(), same = little.NextBlock();
      ASSERT_TRUE(block && same);
      ASSERT_EQ(block->tokens, same->tokens);
      const BlockResult result = model_->StepBlocks({{block->state, block->tokens}})[0];
      const Session::Published of_whole = whole.Publish(result), of_little = little.Publish(result);
      ASSERT_EQ(of_whole.ready, of_little.ready);
      ASSERT_EQ(of_whole.forks.size(), of_little.forks.size());
      for (size_t i = 0; i < of_whole.forks.size(); ++i) {
        const auto& [id, point] = of_whole.forks[i];
        ASSERT_EQ(id, of_little.forks[i].first);
        ASSERT_EQ(point.pending, of_little.forks[i].second.pending);
        ASSERT_EQ(point.offset, of_little.forks[i].second.offset);
        forks += 1;
      }
    }
    ExpectSame(whole, little);
    ASSERT_FALSE(little.RecordToReadOn());
    for (Session* one : {&whole, &little}) {  // both go on
      ASSERT_OK(one->Accept(one->marks().next_sequence, LogContent::kText, "and on", absl::UnixEpoch(),
                            [](const Session::Accepted&) {}));
    }
    ExpectSame(whole, little);
  }
  std::printf("%d records read on, %d fork points\n", reads, forks);
  EXPECT_GT(reads, 100);
  EXPECT_GT(forks, 20);
}

// 64 million tokens, in 4 bytes each if they were held.
TEST_F(SessionTest, WhatIsLeftInTheLogTakesNoMemory) {
  Session session(SessionMetadata{.number = 1, .id = "s"}, model_.get(),
                  {.max_backlog_tokens = 2 * block_, .max_log_bytes = 1 << 30}, FromNothing());
  const LogRecord record = TextRecord(0, 1, 64 << 10);
  ASSERT_OK(session.Replay(record));
  const size_t before = mallinfo2().uordblks;
  for (uint64_t i = 1; i < 1000; ++i) {
    LogRecord next = record;
    next.index = i;
    next.sequence = i + 1;
    ASSERT_OK(session.Replay(next));
  }
  EXPECT_EQ(session.marks().accepted, 1000 * (64 << 10));
  const int64_t more = mallinfo2().uordblks - before;
  std::printf("%lld bytes\n", static_cast<long long>(more));
  EXPECT_LT(more, 1 << 20);
}

// Until all of the log is in memory nothing is accepted, whatever the limit says meanwhile.
TEST_F(SessionTest, NothingIsAcceptedBehindWhatIsNotReadYet) {
  Session session(SessionMetadata{.number = 1, .id = "s"}, model_.get(),
                  {.max_backlog_tokens = 2 * block_, .max_log_bytes = 1 << 20}, FromNothing());
  for (uint64_t i = 0; i < 10; ++i) ASSERT_OK(session.Replay(TextRecord(i, i + 1, block_)));
  session.SetLimits({.max_backlog_tokens = 1 << 20, .max_log_bytes = 1 << 20});
  EXPECT_FALSE(session.HasRoom());
  const auto log = [](const Session::Accepted&) { ADD_FAILURE(); };
  const auto taken = session.Accept(11, LogContent::kText, "more", absl::UnixEpoch(), log);
  ASSERT_OK(taken);
  EXPECT_FALSE(*taken);
  // A log that has other tokens than it had is not gone on from.
  absl::StatusOr<bool> more = true;
  Step(session);
  for (uint64_t i = 2; more.ok() && *more; ++i) more = session.ReadOn(TextRecord(i, i + 1, block_ - (i == 5)));
  EXPECT_EQ(more.status().code(), absl::StatusCode::kDataLoss) << more.status();
}

}  // namespace
}  // namespace mnemosyne
