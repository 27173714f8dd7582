// Forks, erasures, the past, exports and imports, trimmed logs, lifetimes and backups over gRPC, with the real engine.
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "core/storage/storage.h"
#include "gmock/gmock.h"
#include "mnemosyne/v1/admin_service.grpc.pb.h"
#include "tests/server/end_to_end_fixture.h"

namespace mnemosyne {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class EndToEndHistoryTest : public EndToEndTest {
 protected:
  absl::StatusOr<v1::Session> Fork(const std::string& id, const std::string& fork_id, int64_t offset = -1) {
    grpc::ClientContext context;
    v1::ForkSessionRequest request;
    request.set_session_id(id);
    request.set_fork_id(fork_id);
    if (offset >= 0) request.set_offset(offset);
    v1::ForkSessionResponse response;
    const absl::Status status = FromGrpc(stub_->ForkSession(&context, request, &response));
    if (!status.ok()) return status;
    return response.session();
  }
  absl::StatusOr<v1::Session> Update(const std::string& path, const v1::SessionSettings& settings) {
    grpc::ClientContext context;
    v1::UpdateSessionRequest request;
    request.set_session_id("book");
    request.mutable_update_mask()->add_paths(path);
    *request.mutable_settings() = settings;
    v1::UpdateSessionResponse response;
    const absl::Status status = FromGrpc(stub_->UpdateSession(&context, request, &response));
    if (!status.ok()) return status;
    return response.session();
  }
  absl::Status Create(const std::string& id, const v1::SessionSettings& settings) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    request.set_model("bytes");
    *request.mutable_settings() = settings;
    v1::CreateSessionResponse response;
    return FromGrpc(stub_->CreateSession(&context, request, &response));
  }
  std::vector<int32_t> AnswerOf(const std::string& id) {
    const Answer answer = Ask(*stub_, Question(id));
    EXPECT_OK(answer.status);
    return answer.tokens;
  }
};

TEST_F(EndToEndHistoryTest, AForkGoesItsOwnWayAlsoAfterARestart) {
  const std::string story = Story(300);
  Tell("book", {TextRequest(1, story), TextRequest(2, " the end")});
  const auto fork = Fork("book", "fork", 300);
  ASSERT_OK(fork);
  EXPECT_EQ(fork->watermarks().accepted(), 300);
  EXPECT_EQ(fork->next_sequence(), 3) << "sequences go on";
  Tell("fresh", {TextRequest(1, story)});
  EXPECT_EQ(AnswerOf("fork"), AnswerOf("fresh"));
  Tell("fork", {TextRequest(3, "another end")});
  Tell("fresh", {TextRequest(2, "another end")});
  EXPECT_EQ(AnswerOf("fork"), AnswerOf("fresh"));
  EXPECT_EQ(Session("book").watermarks().accepted(), 308);
  Stop();
  Start();
  EXPECT_EQ(AnswerOf("fork"), AnswerOf("fresh"));
  EXPECT_THAT(Fork("book", "fork"), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("fork")));
  EXPECT_THAT(Fork("book", "far", 309), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("308")));
  EXPECT_THAT(Fork("book", "not an id"), StatusIs(kInvalid, HasSubstr("not an id")));
  EXPECT_THAT(Fork("none", "far"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(EndToEndHistoryTest, AnErasedSpanWasNeverThere) {
  const std::string story = Story(400);
  Tell("book", {TextRequest(1, story)});
  ASSERT_OK(Fork("book", "keeper"));
  TestStream stream(*stub_);
  stream.Write(OpenRequest("book"));
  ASSERT_TRUE(stream.Read().has_opened());
  const auto erased = EraseSpan(*stub_, "book", 100, 250);
  ASSERT_OK(erased);
  EXPECT_THAT(stream.Finish(), StatusIs(absl::StatusCode::kAborted, HasSubstr("erased")));
  EXPECT_EQ(erased->session().watermarks().accepted(), 250);
  EXPECT_EQ(erased->session().epoch(), 2);
  EXPECT_THAT(erased->still_in(), ElementsAre("keeper"));
  Tell("fresh", {TextRequest(1, story.substr(0, 100) + story.substr(250))});
  EXPECT_EQ(AnswerOf("book"), AnswerOf("fresh"));
  EXPECT_THAT(EraseSpan(*stub_, "book", 5, 5), StatusIs(kInvalid, HasSubstr("empty")));
  EXPECT_THAT(EraseSpan(*stub_, "book", 5, 251), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("250")));
  EXPECT_THAT(EraseSpan(*stub_, "book", -1, 5), StatusIs(absl::StatusCode::kOutOfRange, testing::_));
}

TEST_F(EndToEndHistoryTest, AQuestionToThePastIsAnsweredAsItWasThen) {
  const std::string story = Story(300);
  Tell("book", {TextRequest(1, story)});
  const std::vector<int32_t> then = AnswerOf("book");
  Tell("book", {TextRequest(2, Story(200))});
  v1::QueryRequest request = Question("book");
  request.set_as_of_offset(300);
  const Answer answer = Ask(*stub_, request);
  ASSERT_OK(answer.status);
  EXPECT_EQ(answer.tokens, then);
  EXPECT_EQ(answer.summary.as_of_offset(), 300);
  request.set_as_of_offset(501);
  EXPECT_THAT(QueryStatus(request), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("500")));
  request.set_as_of_offset(-1);
  EXPECT_THAT(QueryStatus(request), StatusIs(absl::StatusCode::kOutOfRange, testing::_));
}

TEST_F(EndToEndHistoryTest, AnImportGoesOnBitForBit) {
  Tell("book", {TextRequest(1, Story(5000).substr(0, 4000)), TextRequest(2, "an end")});
  const absl::StatusOr<std::string> bytes = Exported(*stub_, "book");
  ASSERT_OK(bytes);
  std::vector<v1::ImportSessionRequest> requests = {ImportRequest("copy", "")};
  for (size_t at = 0; at < bytes->size(); at += 1000) requests.push_back(ImportRequest("", bytes->substr(at, 1000)));
  const auto copy = Import(*stub_, requests);
  ASSERT_OK(copy);
  EXPECT_EQ(copy->session_id(), "copy");
  EXPECT_EQ(copy->next_sequence(), 3);
  EXPECT_EQ(AnswerOf("copy"), AnswerOf("book"));
  Tell("copy", {TextRequest(3, Story(100))});
  Tell("book", {TextRequest(3, Story(100))});
  EXPECT_EQ(AnswerOf("copy"), AnswerOf("book"));

  std::string altered = *bytes;
  altered[altered.size() / 2] ^= 1;
  EXPECT_THAT(Import(*stub_, {ImportRequest("x", altered)}), StatusIs(absl::StatusCode::kDataLoss, testing::_));
  EXPECT_THAT(Import(*stub_, {ImportRequest("x", bytes->substr(0, bytes->size() - 1))}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("truncated")));
  EXPECT_THAT(Import(*stub_, {ImportRequest("x", *bytes + "x")}), StatusIs(absl::StatusCode::kDataLoss, testing::_));
  EXPECT_THAT(Import(*stub_, {ImportRequest("", *bytes)}),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("'book'")));
  Engine::Options other = options_;
  other.models = {options_.models[1]};
  other.data_path = folder_.File("other");
  StartWith(other);
  EXPECT_THAT(Import(*stub_, {ImportRequest("x", *bytes)}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("fingerprint")));
  grpc::ClientContext context;
  v1::ListSessionsResponse listed;
  ASSERT_OK(FromGrpc(stub_->ListSessions(&context, {}, &listed)));
  EXPECT_EQ(listed.sessions_size(), 0);
}

TEST_F(EndToEndHistoryTest, ATransferUnderWayDoesNotHoldADrainUpAndLeavesNothing) {
  Tell("book", {TextRequest(1, Story(3000))});
  const absl::StatusOr<std::string> bytes = Exported(*stub_, "book");
  ASSERT_OK(bytes);
  grpc::ClientContext import_context, export_context;
  v1::ImportSessionResponse response;
  const auto writer = stub_->ImportSession(&import_context, &response);
  ASSERT_TRUE(writer->Write(ImportRequest("copy", bytes->substr(0, bytes->size() / 2))));
  v1::ExportSessionRequest request;
  request.set_session_id("book");
  const auto reader = stub_->ExportSession(&export_context, request);
  EXPECT_OK(server_->Drain(absl::Now() + absl::Seconds(30)));
  EXPECT_THAT(FromGrpc(writer->Finish()), StatusIs(absl::StatusCode::kUnavailable, testing::_));
  v1::ExportSessionResponse part;
  while (reader->Read(&part)) {
  }
  (void)reader->Finish();  // sent whole, or broken off
  Stop();
  Start();
  EXPECT_THAT(QueryStatus(Question("copy")), StatusIs(absl::StatusCode::kNotFound, testing::_));
  ASSERT_OK(Import(*stub_, {ImportRequest("copy", *bytes)}));
  EXPECT_EQ(AnswerOf("copy"), AnswerOf("book"));
}

TEST_F(EndToEndHistoryTest, ATrimmedSessionAnswersAndSaysHowFarItGoesBack) {
  Engine::Options options = options_;
  options.snapshot_every_tokens = 128;
  StartWith(options);
  v1::SessionSettings settings;
  settings.set_retention(v1::RETENTION_TRIM);
  ASSERT_OK(Create("book", settings));
  std::string all;
  for (uint64_t sequence = 1; sequence <= 8; ++sequence) {
    const std::string part = Story(static_cast<int>(200 + sequence));
    Tell("book", {TextRequest(sequence, part)});
    all += part;
  }
  Tell("kept", {TextRequest(1, all)});
  EXPECT_EQ(AnswerOf("book"), AnswerOf("kept"));
  const v1::Session session = Session("book");
  EXPECT_EQ(session.settings().retention(), v1::RETENTION_TRIM);
  ASSERT_GT(session.earliest_offset(), 0);
  EXPECT_EQ(Session("kept").earliest_offset(), 0);
  v1::QueryRequest request = Question("book");
  request.set_as_of_offset(session.earliest_offset() - 1);
  EXPECT_THAT(QueryStatus(request), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("trimmed")));
  EXPECT_THAT(EraseSpan(*stub_, "book", 0, 1), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("trimmed")));
  EXPECT_THAT(Fork("book", "f", 1), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("trimmed")));
}

TEST_F(EndToEndHistoryTest, SettingsAreCheckedUpdatedAndKept) {
  Tell("book", {TextRequest(1, Story(50))});
  v1::SessionSettings settings;
  settings.set_max_log_bytes(60);
  settings.mutable_ttl()->set_seconds(3600);
  const auto updated = Update("settings.max_log_bytes", settings);
  ASSERT_OK(updated);
  EXPECT_EQ(updated->settings().max_log_bytes(), 60);
  EXPECT_FALSE(updated->has_expire_time()) << "the mask does not name it";
  EXPECT_THAT(StreamStatus("book", {TextRequest(2, Story(11))}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("60")));
  ASSERT_OK(Update("settings.ttl", settings));
  Stop();
  Start();
  EXPECT_EQ(Session("book").expire_time().seconds(), Session("book").create_time().seconds() + 3600);
  EXPECT_EQ(Session("book").settings().max_log_bytes(), 60);
  settings.set_max_backlog_tokens(1);
  EXPECT_THAT(Update("settings.max_backlog_tokens", settings),
              StatusIs(kInvalid, HasSubstr("max_backlog_tokens is 1")));
  settings.mutable_ttl()->set_seconds(0);
  EXPECT_THAT(Update("settings.ttl", settings), StatusIs(kInvalid, HasSubstr("ttl")));
  settings.mutable_idle_ttl()->set_nanos(0);
  EXPECT_THAT(Create("idle", settings), StatusIs(kInvalid, HasSubstr("ttl")));
}

TEST_F(EndToEndHistoryTest, ASessionWhoseTimeIsOverIsGone) {
  v1::SessionSettings settings;
  settings.mutable_ttl()->set_nanos(1'000'000);
  ASSERT_OK(Create("short", settings));
  Tell("book", {TextRequest(1, "stays")});
  const absl::Time end = absl::Now() + absl::Seconds(60);
  v1::ListSessionsResponse listed;
  do {
    absl::SleepFor(absl::Milliseconds(10));
    grpc::ClientContext context;
    ASSERT_OK(FromGrpc(stub_->ListSessions(&context, {}, &listed)));
  } while (listed.sessions_size() > 1 && absl::Now() < end);
  ASSERT_EQ(listed.sessions_size(), 1);
  EXPECT_EQ(listed.sessions(0).session_id(), "book");
  EXPECT_THAT(QueryStatus(Question("short")), StatusIs(absl::StatusCode::kNotFound, testing::_));
}

TEST_F(EndToEndHistoryTest, ABackupIsTheServerAsItWas) {
  const auto backup = [&]() -> absl::Status {
    const auto admin = v1::AdminService::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    v1::CreateBackupResponse response;
    return FromGrpc(admin->CreateBackup(&context, {}, &response));
  };
  EXPECT_THAT(backup(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("backup_path")));
  Engine::Options options = options_;
  options.backup_path = folder_.File("backups");
  StartWith(options);
  Tell("book", {TextRequest(1, Story(300))});
  const std::vector<int32_t> then = AnswerOf("book");
  ASSERT_OK(backup());
  Tell("book", {TextRequest(2, Story(300))});
  options.data_path = folder_.File("restored");
  ASSERT_OK(Storage::RestoreBackup(options.backup_path, 0, options.data_path));
  StartWith(options);
  EXPECT_EQ(AnswerOf("book"), then);
}

}  // namespace
}  // namespace mnemosyne
