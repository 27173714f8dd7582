// A session that is brought back from its log.
#include "core/session/session.h"

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
  Session Fresh(const SessionMetadata& metadata) const {
    Session::Recovered fresh;
    fresh.state = model_->InitialState();
    return Session(metadata, model_.get(), {.max_backlog_tokens = 1 << 20, .max_log_bytes = 1 << 20}, fresh);
  }
  void Step(Session& session) const {
    const std::optional<Session::Block> block = session.NextBlock();
    ASSERT_TRUE(block.has_value());
    session.Publish(model_->StepBlocks({{block->state, block->tokens}})[0]);
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

}  // namespace
}  // namespace mnemosyne
