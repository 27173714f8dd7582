#include "client/client.h"

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/client_fixture.h"
#include "tests/client/fake_memory_service.h"
#include "tests/status_matchers.h"

namespace mnemosyne::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Le;

TEST(Client, ConnectNamesTheServerThatItCannotReach) {
  Client::Options options;
  options.connect_timeout = absl::Milliseconds(50);
  EXPECT_THAT(Client::Connect("127.0.0.1:1", options),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no connection to '127.0.0.1:1'")));
}

TEST(Client, ErrorsKeepTheServersCodeAndMessage) {
  FakeServer fake;
  std::unique_ptr<Client> client = ConnectTo(fake);
  for (int code = 1; code <= 16; ++code) {
    {
      absl::MutexLock lock(&fake.service.mutex);
      fake.service.refuse = grpc::Status(static_cast<grpc::StatusCode>(code), absl::StrCat("reason ", code));
    }
    EXPECT_THAT(client->GetSession("a"), StatusIs(static_cast<absl::StatusCode>(code), absl::StrCat("reason ", code)));
  }
}

TEST(Client, SessionsAreCreatedListedOverPagesResetAndDeleted) {
  FakeServer fake;
  std::unique_ptr<Client> client = ConnectTo(fake);
  for (const char* id : {"a", "b", "c", "d", "e"}) {
    ASSERT_OK(client->CreateSession(id, "", {{"half", id < std::string("c") ? "first" : "second"}}));
  }
  EXPECT_THAT(client->CreateSession("a"), StatusIs(absl::StatusCode::kAlreadyExists, "the id is taken"));
  absl::StatusOr<std::vector<SessionInfo>> all = client->ListSessions();
  ASSERT_OK(all);
  EXPECT_EQ(all->size(), 5);
  absl::StatusOr<std::vector<SessionInfo>> second = client->ListSessions({{"half", "second"}});
  ASSERT_OK(second);
  ASSERT_EQ(second->size(), 3);
  EXPECT_EQ(second->at(2).session_id, "e");
  EXPECT_EQ(second->at(2).labels.at("half"), "second");
  absl::StatusOr<SessionInfo> reset = client->Reset("a");
  ASSERT_OK(reset);
  EXPECT_EQ(reset->epoch, 2);
  ASSERT_OK(client->DeleteSession("a"));
  EXPECT_THAT(client->GetSession("a"), StatusIs(absl::StatusCode::kNotFound, "no session 'a'"));
  absl::StatusOr<std::vector<ModelInfo>> models = client->ListModels();
  ASSERT_OK(models);
  EXPECT_EQ(models->at(0).tokenizer, TokenizerKind::kBytes);
}

TEST(Client, QueryPassesItsOptionsAndStreamsTheAnswer) {
  FakeServer fake;
  std::unique_ptr<Client> client = ConnectTo(fake);
  ASSERT_OK(client->CreateSession("a"));
  QueryOptions options;
  options.max_tokens = 9;
  options.top_p = 0.5f;
  options.stop = {"."};
  std::string text;
  std::vector<int32_t> token_ids;
  absl::StatusOr<QuerySummary> summary = client->Query("a", "where?", options, [&](const QueryDelta& delta) {
    text += delta.text;
    token_ids.insert(token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  });
  ASSERT_OK(summary);
  EXPECT_EQ(text, "  under the stone");
  EXPECT_THAT(token_ids, ElementsAre(7, 7, 7));
  EXPECT_EQ(summary->stop_reason, StopReason::kStopString);
  EXPECT_EQ(summary->total_time, absl::Milliseconds(5));
  EXPECT_FALSE(summary->remembered_offset.has_value());
  absl::MutexLock lock(&fake.service.mutex);
  EXPECT_EQ(fake.service.last_query.max_tokens(), 9);
  EXPECT_EQ(fake.service.last_query.top_p(), 0.5f);
  EXPECT_FALSE(fake.service.last_query.has_temperature());
  EXPECT_EQ(fake.service.last_query.stop_size(), 1);
}

TEST(Client, AQueryThatIsNotUtf8IsRefusedByName) {
  FakeServer fake;
  EXPECT_THAT(ConnectTo(fake)->Query("a", "\xff", {}, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the question")));
}

TEST(Client, AQueryKeepsItsDeadlineAndCanBeCancelled) {
  FakeServer fake;
  std::unique_ptr<Client> client = ConnectTo(fake);
  ASSERT_OK(client->CreateSession("a"));
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.query_hangs = true;
  }
  QueryOptions options;
  options.deadline = absl::Now() + absl::Milliseconds(50);
  EXPECT_THAT(client->Query("a", "where?", options, nullptr),
              StatusIs(absl::StatusCode::kDeadlineExceeded, testing::_));
  std::thread cancels([&] { client->Cancel(); });
  EXPECT_THAT(client->Query("a", "where?", {}, nullptr), StatusIs(absl::StatusCode::kCancelled, testing::_));
  cancels.join();
}

TEST(StreamWriter, CutsTextByTheServersLimitAndContinuesTheSession) {
  FakeServer fake;
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.max_append_bytes = 10;
  }
  std::unique_ptr<Client> client = ConnectTo(fake);
  for (bool created : {true, false}) {
    absl::StatusOr<std::unique_ptr<StreamWriter>> writer = client->OpenStream("a", {});
    ASSERT_OK(writer);
    EXPECT_EQ((*writer)->opened().created, created);
    EXPECT_EQ((*writer)->opened().session.watermarks.accepted_bytes, created ? 0 : 38);
    ASSERT_OK((*writer)->Append("abcdefghijklmnopqrstuvwxyz"));
    ASSERT_OK((*writer)->Append(""));
    ASSERT_OK((*writer)->AppendTokens({'1', '2', '3'}));
    ASSERT_OK((*writer)->Flush());
    EXPECT_EQ((*writer)->unacknowledged_bytes(), 0);
    EXPECT_EQ((*writer)->appended_bytes(), 26 + 12);
    ASSERT_OK((*writer)->Close());
    ASSERT_OK((*writer)->Close());
    EXPECT_THAT((*writer)->Append("x"), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is closed")));
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.sessions["a"].content.resize(38);
  }
  EXPECT_EQ(Content(fake, "a").substr(0, 29), "abcdefghijklmnopqrstuvwxyz123");
  absl::MutexLock lock(&fake.service.mutex);
  EXPECT_EQ(fake.service.largest_append_bytes, 10);
}

TEST(StreamWriter, HoldsNoMoreThanItMay) {
  FakeServer fake;
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.hold_acks = true;
  }
  constexpr int64_t kBound = 256 << 10, kMessage = 16 << 10;
  StreamOptions options = QuickOptions();
  options.max_unacknowledged_bytes = kBound;
  options.max_message_bytes = kMessage;
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", options);
  ASSERT_OK(writer);
  const std::string text(2 << 20, 'x');
  EXPECT_THAT((*writer)->Append(text, absl::Now() + absl::Milliseconds(200)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("at most 262144 may")));
  const int64_t taken = (*writer)->appended_bytes();
  EXPECT_LE(taken, kBound);
  EXPECT_GT(taken, kBound - 2 * kMessage);
  EXPECT_EQ((*writer)->unacknowledged_bytes(), taken);
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.hold_acks = false;
  }
  // No append can go out: the writer has to ask for an ack.
  ASSERT_OK((*writer)->Append(absl::string_view(text).substr(taken)));
  ASSERT_OK((*writer)->Close());
  EXPECT_EQ(Content(fake, "a"), text);
  absl::MutexLock lock(&fake.service.mutex);
  EXPECT_LE(fake.service.most_unacked_bytes, kBound);
}

TEST(StreamWriter, ClosesWhereTheEndOfTheTextIsNotCounted) {
  FakeServer fake;
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.durable_lags = true;
  }
  StreamOptions options = QuickOptions();
  options.max_unacknowledged_bytes = 1;  // one message at a time
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", options);
  ASSERT_OK(writer);
  ASSERT_OK((*writer)->Append("xy"));
  ASSERT_OK((*writer)->Close(absl::Now() + absl::Seconds(20)));
  EXPECT_EQ(Content(fake, "a"), "xy");
}

TEST(StreamWriter, ResendsExactlyWhatIsMissingWhereverItBreaks) {
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  for (int round = 0; round < 8; ++round) {
    FakeServer fake;
    constexpr int kBreaks = 15;
    {
      absl::MutexLock lock(&fake.service.mutex);
      fake.service.durable_lags = round % 2 == 1;
      for (int i = 0; i < kBreaks; ++i) {
        fake.service.breaks.push_back({.after_appends = static_cast<int>(1 + random() % 20),
                                       .kind = static_cast<Break::Kind>(random() % Break::kKinds)});
      }
    }
    StreamOptions options = QuickOptions();
    options.max_message_bytes = 700;
    options.max_unacknowledged_bytes = 20000;
    absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", options);
    ASSERT_OK(writer);
    std::string all;
    for (int i = 0; i < 400; ++i) {
      std::string piece(1 + random() % 1500, ' ');
      for (char& c : piece) c = static_cast<char>(random());
      ASSERT_OK((*writer)->Append(piece)) << "seed " << seed << ", round " << round;
      all += piece;
      if (random() % 50 == 0) {
        ASSERT_OK((*writer)->Flush()) << "seed " << seed << ", round " << round;
      }
    }
    ASSERT_OK((*writer)->Close()) << "seed " << seed << ", round " << round;
    EXPECT_TRUE(Content(fake, "a") == all) << "seed " << seed << ", round " << round;
    absl::MutexLock lock(&fake.service.mutex);
    EXPECT_GE(fake.service.streams, 1 + kBreaks);
    EXPECT_EQ(fake.service.repeats, 0) << "seed " << seed << ", round " << round;
    EXPECT_EQ(fake.service.gaps, 0) << "seed " << seed << ", round " << round;
  }
}

TEST(StreamWriter, SaysWhenTheServerLostWhatWasDurable) {
  FakeServer fake;
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.breaks.push_back({.after_appends = 4, .kind = Break::kBeforeApplying});
  }
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", QuickOptions());
  ASSERT_OK(writer);
  for (int i = 0; i < 3; ++i) ASSERT_OK((*writer)->Append("x"));
  ASSERT_OK((*writer)->Flush());
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.sessions["a"].next_sequence = 2;
  }
  ASSERT_OK((*writer)->Append("x"));
  EXPECT_THAT((*writer)->Close(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("it expects append 2, and everything "
                                                                                  "before 4 was durable")));
  EXPECT_THAT((*writer)->Append("x"), StatusIs(absl::StatusCode::kDataLoss, testing::_));
}

TEST(StreamWriter, AnotherWriterOrAResetMeanwhileIsTheEnd) {
  for (bool reset : {false, true}) {
    FakeServer fake;
    {
      absl::MutexLock lock(&fake.service.mutex);
      fake.service.breaks.push_back({.after_appends = 2, .kind = Break::kBeforeApplying});
    }
    absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", QuickOptions());
    ASSERT_OK(writer);
    ASSERT_OK((*writer)->Append("x"));
    ASSERT_OK((*writer)->Flush());
    {
      absl::MutexLock lock(&fake.service.mutex);
      (reset ? fake.service.sessions["a"].epoch : fake.service.sessions["a"].next_sequence) += 5;
    }
    ASSERT_OK((*writer)->Append("x"));
    EXPECT_THAT((*writer)->Close(),
                StatusIs(absl::StatusCode::kAborted, HasSubstr(reset ? "was reset" : "another writer")));
  }
}

TEST(StreamWriter, AnotherWritersAppendUnderOnesOwnNumberIsTheEnd) {
  for (const std::string& others : {std::string("other"), std::string("mine")}) {
    FakeServer fake;
    {
      absl::MutexLock lock(&fake.service.mutex);
      fake.service.breaks.push_back({.after_appends = 2, .kind = Break::kBeforeApplying, .others = others});
    }
    absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", QuickOptions());
    ASSERT_OK(writer);
    ASSERT_OK((*writer)->Append("x"));
    ASSERT_OK((*writer)->Flush());
    ASSERT_OK((*writer)->Append("mine"));
    const absl::Status closed = (*writer)->Close();
    if (others == "mine") {  // which nobody can tell from one's own
      EXPECT_OK(closed);
    } else {
      EXPECT_THAT(closed, StatusIs(absl::StatusCode::kAborted, HasSubstr("append 2 is not what was sent here")));
    }
  }
}

TEST(StreamWriter, ASecondWriterIsRefusedAndALostSeatIsFinal) {
  FakeServer fake;
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.stops_reading_after = 1;
  }
  std::unique_ptr<Client> client = ConnectTo(fake);
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = client->OpenStream("a", QuickOptions());
  ASSERT_OK(writer);
  EXPECT_THAT(client->OpenStream("a", {}), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("seat")));
  // The server reads one append only: a write is blocked when the seat goes.
  std::thread appends([&] {
    EXPECT_THAT((*writer)->Append(std::string(64 << 20, 'x')),
                StatusIs(absl::StatusCode::kAborted, "another stream took the writer's seat"));
  });
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.mutex.Await(absl::Condition(
        +[](FakeMemoryService* service)
             ABSL_EXCLUSIVE_LOCKS_REQUIRED(service->mutex) { return service->received_bytes > 0; },
        &fake.service));
    fake.service.abort = true;
  }
  appends.join();
  EXPECT_THAT((*writer)->Flush(), StatusIs(absl::StatusCode::kAborted, testing::_));
  EXPECT_THAT((*writer)->Close(), StatusIs(absl::StatusCode::kAborted, testing::_));
  absl::MutexLock lock(&fake.service.mutex);
  EXPECT_EQ(fake.service.streams, 2);
}

TEST(StreamWriter, GivesUpWithoutProgress) {
  FakeServer fake;
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.breaks.assign(100000, {.after_appends = 1, .kind = Break::kBeforeApplying});
  }
  StreamOptions options = QuickOptions();
  options.reconnect_timeout = absl::Milliseconds(100);
  int reconnects = 0;  // the writer's thread's, until it ended
  options.on_reconnect = [&](const absl::Status&, absl::Duration) { ++reconnects; };
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", options);
  ASSERT_OK(writer);
  ASSERT_OK((*writer)->Append("x"));
  EXPECT_THAT((*writer)->Close(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("given up after 100ms")));
  EXPECT_GT(reconnects, 1);
}

TEST(StreamWriter, DeadlinesHoldAtOpenFlushAndClose) {
  FakeServer fake;
  StreamOptions options = QuickOptions();
  options.open_timeout = absl::Milliseconds(50);
  std::unique_ptr<Client> client = ConnectTo(fake);
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.never_opens = true;
  }
  EXPECT_THAT(client->OpenStream("a", options),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("did not open session 'a' within 50ms")));
  {
    absl::MutexLock lock(&fake.service.mutex);
    fake.service.never_opens = false;
    fake.service.hold_acks = true;
  }
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = client->OpenStream("b", QuickOptions());
  ASSERT_OK(writer);
  ASSERT_OK((*writer)->Append("x"));
  EXPECT_THAT((*writer)->Flush(absl::Now() + absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, testing::_));
  EXPECT_THAT((*writer)->Close(absl::Now() + absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("1 bytes are not known to be durable")));
  EXPECT_THAT((*writer)->Close(), StatusIs(absl::StatusCode::kCancelled, testing::_));
}

TEST(StreamWriter, AppendsFromManyThreadsStayWhole) {
  FakeServer fake;
  StreamOptions options = QuickOptions();
  options.max_message_bytes = 3;
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = ConnectTo(fake)->OpenStream("a", options);
  ASSERT_OK(writer);
  std::vector<std::thread> threads;
  for (char c : {'a', 'b', 'c', 'd'}) {
    threads.emplace_back([&, c] {
      for (int i = 0; i < 20; ++i) EXPECT_OK((*writer)->Append(std::string(10, c)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_OK((*writer)->Close());
  const std::string content = Content(fake, "a");
  ASSERT_EQ(content.size(), 800);
  for (size_t i = 0; i < content.size(); i += 10) EXPECT_EQ(content.substr(i, 10), std::string(10, content[i]));
}

TEST(StreamWriter, MayBeDroppedAtAnyTimeAndOutliveItsClient) {
  FakeServer fake;
  std::unique_ptr<Client> client = ConnectTo(fake);
  absl::StatusOr<std::unique_ptr<StreamWriter>> writer = client->OpenStream("a", QuickOptions());
  ASSERT_OK(writer);
  client.reset();
  ASSERT_OK((*writer)->Append("x"));
  ASSERT_OK((*writer)->Flush());
  ASSERT_OK((*writer)->Append("y"));
  writer->reset();
  EXPECT_EQ(Content(fake, "a")[0], 'x');
}

}  // namespace
}  // namespace mnemosyne::client
