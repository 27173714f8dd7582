// The calls that fork, change and move sessions, against an engine that does what the test says, over real gRPC.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "mnemosyne/v1/admin_service.grpc.pb.h"
#include "tests/server/fake_engine_fixture.h"

namespace mnemosyne {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int64_t kHourSeconds = 3600;

class SessionCallsTest : public FakeEngineTest {
 protected:
  absl::StatusOr<v1::Session> Fork(const v1::ForkSessionRequest& request) {
    grpc::ClientContext context;
    v1::ForkSessionResponse response;
    const absl::Status status = FromGrpc(stub_->ForkSession(&context, request, &response));
    if (!status.ok()) return status;
    return response.session();
  }
  absl::StatusOr<v1::Session> Update(const v1::UpdateSessionRequest& request) {
    grpc::ClientContext context;
    v1::UpdateSessionResponse response;
    const absl::Status status = FromGrpc(stub_->UpdateSession(&context, request, &response));
    if (!status.ok()) return status;
    return response.session();
  }
  absl::StatusOr<v1::Session> Create(const std::function<void(v1::SessionSettings*)>& change) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    change(request.mutable_settings());
    v1::CreateSessionResponse response;
    const absl::Status status = FromGrpc(stub_->CreateSession(&context, request, &response));
    if (!status.ok()) return status;
    return response.session();
  }
  static v1::UpdateSessionRequest UpdateOf(const std::vector<std::string>& paths) {
    v1::UpdateSessionRequest request;
    request.set_session_id("book");
    for (const std::string& path : paths) request.mutable_update_mask()->add_paths(path);
    return request;
  }
};

TEST_F(SessionCallsTest, AForkIsAskedForAsItWasSaid) {
  v1::ForkSessionRequest request;
  EXPECT_THAT(Fork(request), StatusIs(kInvalid, HasSubstr("session_id")));
  request.set_session_id("book");
  request.set_fork_id("fork");
  ASSERT_OK(Fork(request));
  EXPECT_FALSE(engine_.last_fork().offset.has_value());
  EXPECT_FALSE(engine_.last_fork().labels.has_value());
  EXPECT_FALSE(engine_.last_fork().settings.has_value());
  EXPECT_THAT(Fork(request), StatusIs(absl::StatusCode::kAlreadyExists, testing::_));
  request.set_fork_id("other");
  request.set_offset(0);
  (*request.mutable_labels())["kind"] = "fork";
  request.mutable_settings()->set_retention(v1::RETENTION_TRIM);
  const absl::StatusOr<v1::Session> fork = Fork(request);
  ASSERT_OK(fork);
  EXPECT_EQ(fork->watermarks().accepted(), 0);
  EXPECT_EQ(engine_.last_fork().offset, 0);
  EXPECT_THAT(*engine_.last_fork().labels, ElementsAre(Pair("kind", "fork")));
  EXPECT_EQ(engine_.last_fork().settings->retention, Retention::kTrim);
  request.set_session_id("none");
  EXPECT_THAT(Fork(request), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(SessionCallsTest, AnErasureSaysWhoHasTheSpanStill) {
  const auto erased = EraseSpan(*stub_, "book", 5, 15);
  ASSERT_OK(erased);
  EXPECT_EQ(erased->session().watermarks().accepted(), 30);
  EXPECT_THAT(erased->still_in(), ElementsAre("a fork"));
  EXPECT_THAT(EraseSpan(*stub_, "", 5, 15), StatusIs(kInvalid, HasSubstr("session_id")));
  EXPECT_THAT(EraseSpan(*stub_, "none", 5, 15), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(SessionCallsTest, TheEnginesErrorsKeepTheirCodes) {
  for (const absl::Status& error : {absl::OutOfRangeError("beyond"), absl::InvalidArgumentError("inside a piece"),
                                    absl::FailedPreconditionError("trimmed"), absl::AbortedError("is being changed"),
                                    absl::ResourceExhaustedError("the maximum"), absl::UnavailableError("draining"),
                                    absl::DataLossError("damaged")}) {
    engine_.FailWith(error);
    const auto is_it = StatusIs(error.code(), std::string(error.message()));
    v1::ForkSessionRequest fork;
    fork.set_session_id("book");
    EXPECT_THAT(Fork(fork), is_it);
    EXPECT_THAT(EraseSpan(*stub_, "book", 1, 2), is_it);
    EXPECT_THAT(Update(UpdateOf({"labels"})), is_it);
    EXPECT_THAT(Exported(*stub_, "book"), is_it);
    EXPECT_THAT(Import(*stub_, {ImportRequest("new", "bytes")}), is_it);
  }
}

TEST_F(SessionCallsTest, AMaskNamesWhatChanges) {
  v1::UpdateSessionRequest request = UpdateOf({"settings.ttl", "settings.max_log_bytes"});
  request.mutable_settings()->mutable_ttl()->set_seconds(kHourSeconds);
  request.mutable_settings()->set_max_log_bytes(4096);
  request.mutable_settings()->set_retention(v1::RETENTION_TRIM);  // not in the mask
  const absl::StatusOr<v1::Session> session = Update(request);
  ASSERT_OK(session);
  EXPECT_EQ(session->settings().ttl().seconds(), kHourSeconds);
  EXPECT_EQ(session->settings().retention(), v1::RETENTION_KEEP);
  EXPECT_EQ(engine_.last_update().settings->max_log_bytes, 4096);
  EXPECT_FALSE(engine_.last_update().labels.has_value());

  request = UpdateOf({"labels"});
  (*request.mutable_labels())["kind"] = "book";
  request.mutable_settings()->set_max_log_bytes(1);
  ASSERT_OK(Update(request));
  EXPECT_THAT(*engine_.last_update().labels, ElementsAre(Pair("kind", "book")));
  EXPECT_FALSE(engine_.last_update().settings.has_value());

  ASSERT_OK(Update(UpdateOf({"settings"})));
  EXPECT_EQ(engine_.last_update().settings->ttl, absl::InfiniteDuration()) << "what is not set is the default";
}

TEST_F(SessionCallsTest, ABadMaskIsRefusedByName) {
  EXPECT_THAT(Update(UpdateOf({})), StatusIs(kInvalid, HasSubstr("update_mask is empty")));
  for (const char* path : {"model", "settings.colour", "settings.", "settings.ttl.seconds", "", "*", "Labels"}) {
    EXPECT_THAT(Update(UpdateOf({"labels", path})), StatusIs(kInvalid, HasSubstr(absl::StrCat("'", path, "'"))));
  }
  v1::UpdateSessionRequest request = UpdateOf({"labels"});
  request.set_session_id("none");
  EXPECT_THAT(Update(request), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  request.clear_session_id();
  EXPECT_THAT(Update(request), StatusIs(kInvalid, HasSubstr("session_id")));
}

TEST_F(SessionCallsTest, SettingsOutOfTheirRangeAreRefusedByName) {
  const auto refused = [&](const std::function<void(v1::SessionSettings*)>& change) { return Create(change).status(); };
  EXPECT_THAT(refused([](auto* settings) { settings->set_retention(static_cast<v1::Retention>(9)); }),
              StatusIs(kInvalid, HasSubstr("settings.retention is 9")));
  EXPECT_THAT(refused([](auto* settings) { settings->mutable_ttl()->set_seconds(-1); }),
              StatusIs(kInvalid, HasSubstr("settings.ttl")));
  EXPECT_THAT(refused([](auto* settings) { settings->mutable_idle_ttl()->set_nanos(-1); }),
              StatusIs(kInvalid, HasSubstr("settings.idle_ttl")));
  EXPECT_THAT(refused([](auto* settings) { settings->mutable_ttl()->set_nanos(1'000'000'000); }),
              StatusIs(kInvalid, HasSubstr("settings.ttl")));
  EXPECT_THAT(refused([](auto* settings) { settings->mutable_ttl()->set_seconds(315'576'000'001); }),
              StatusIs(kInvalid, HasSubstr("settings.ttl")));

  const auto session = Create([](auto* settings) { settings->mutable_ttl()->set_seconds(315'576'000'000); });
  ASSERT_OK(session);
  EXPECT_FALSE(session->settings().has_ttl()) << "the longest duration is for ever";
  EXPECT_FALSE(session->has_expire_time());
  TestStream stream(*stub_);
  v1::StreamRequest open = OpenRequest("streamed", /*create=*/true);
  open.mutable_open()->mutable_settings()->mutable_ttl()->set_seconds(-1);
  stream.Write(open);
  EXPECT_THAT(stream.Finish(), StatusIs(kInvalid, HasSubstr("settings.ttl")));
}

TEST_F(SessionCallsTest, AcksHaveTheThreeLevelsOfDelivery) {
  TestStream stream(*stub_);
  stream.Write(OpenRequest("book"));
  ASSERT_TRUE(stream.Read().has_opened());
  Progress progress;
  progress.sequence = 7;
  progress.durable_sequence = 6;
  progress.memorized_sequence = 5;
  engine_.writer_observer()->OnProgress(progress);
  const v1::Ack ack = stream.Read().ack();
  EXPECT_EQ(ack.sequence(), 7);
  EXPECT_EQ(ack.durable_sequence(), 6);
  EXPECT_EQ(ack.memorized_sequence(), 5);
}

TEST_F(SessionCallsTest, AQueryGoesBackAndDoesNotRemember) {
  v1::QueryRequest request;
  request.set_session_id("book");
  request.set_text("who?");
  request.set_as_of_offset(0);
  request.set_remember(true);
  EXPECT_THAT(Ask(*stub_, request).status, StatusIs(kInvalid, HasSubstr("as_of_offset")));
  request.set_remember(false);
  grpc::ClientContext context;
  const auto reader = stub_->Query(&context, request);
  engine_.AwaitQueries(1);
  EXPECT_EQ(engine_.last_query().as_of_offset, 0);
  context.TryCancel();
  EXPECT_THAT(FromGrpc(reader->Finish()), StatusIs(absl::StatusCode::kCancelled, testing::_));
}

TEST_F(SessionCallsTest, AnExportIsSentWholeAndAnImportTakesIt) {
  std::string all;
  for (int i = 0; i < 100; ++i) all += "book";
  const absl::StatusOr<std::string> bytes = Exported(*stub_, "book");
  ASSERT_OK(bytes);
  EXPECT_EQ(*bytes, all);
  EXPECT_THAT(Exported(*stub_, ""), StatusIs(kInvalid, HasSubstr("session_id")));
  EXPECT_THAT(Exported(*stub_, "none"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));

  const auto session = Import(*stub_, {ImportRequest("new", bytes->substr(0, 1)), ImportRequest("", bytes->substr(1))});
  ASSERT_OK(session);
  EXPECT_EQ(session->session_id(), "new");
  EXPECT_EQ(session->watermarks().accepted_bytes(), 400);
  engine_.AwaitTransfers(0);
}

TEST_F(SessionCallsTest, BadImportsAreRefusedAndLeaveNothing) {
  EXPECT_THAT(Import(*stub_, {}), StatusIs(kInvalid, HasSubstr("no request")));
  EXPECT_THAT(Import(*stub_, {ImportRequest("new", "some bytes"), ImportRequest("new", "more")}),
              StatusIs(kInvalid, HasSubstr("another than the first request")));
  EXPECT_THAT(Import(*stub_, {ImportRequest("", "some bytes"), ImportRequest("late", "more")}),
              StatusIs(kInvalid, HasSubstr("another than the first request")));
  EXPECT_THAT(Import(*stub_, {ImportRequest("book", "some bytes")}),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("book")));
  EXPECT_THAT(Import(*stub_, {ImportRequest("new", "broken")}), StatusIs(absl::StatusCode::kDataLoss, "it is broken"));
  EXPECT_THAT(Import(*stub_, {ImportRequest("new", "short")}), StatusIs(absl::StatusCode::kDataLoss, "truncated"));
  EXPECT_THAT(Import(*stub_, {ImportRequest("new", std::string(4 << 20, 'x'))}),
              StatusIs(absl::StatusCode::kResourceExhausted, testing::_))
      << "a part is no message of any size";
  engine_.AwaitTransfers(0);
  EXPECT_FALSE(engine_.HasSession("new"));
}

TEST_F(SessionCallsTest, AClientThatGoesMidwayEndsItsTransfer) {
  engine_.SetExportPart(std::string(256 << 10, 'x'));  // far more than flow control lets through
  {
    grpc::ClientContext context;
    v1::ExportSessionRequest request;
    request.set_session_id("book");
    const auto reader = stub_->ExportSession(&context, request);
    v1::ExportSessionResponse response;
    ASSERT_TRUE(reader->Read(&response));
    EXPECT_EQ(response.data().size(), 256 << 10);
    context.TryCancel();
    EXPECT_THAT(FromGrpc(reader->Finish()), StatusIs(absl::StatusCode::kCancelled, testing::_));
  }
  engine_.AwaitTransfers(0);
  {
    grpc::ClientContext context;
    v1::ImportSessionResponse response;
    const auto writer = stub_->ImportSession(&context, &response);
    ASSERT_TRUE(writer->Write(ImportRequest("new", "more than ten bytes")));
    engine_.AwaitImported(19);
    context.TryCancel();
    EXPECT_THAT(FromGrpc(writer->Finish()), StatusIs(absl::StatusCode::kCancelled, testing::_));
  }
  engine_.AwaitTransfers(0);
  EXPECT_FALSE(engine_.HasSession("new"));
}

TEST_F(SessionCallsTest, ADrainDoesNotWaitForTransfers) {
  engine_.SetExportPart(std::string(256 << 10, 'x'));
  grpc::ClientContext export_context, import_context;
  v1::ExportSessionRequest request;
  request.set_session_id("book");
  const auto reader = stub_->ExportSession(&export_context, request);  // that nobody reads
  v1::ImportSessionResponse response;
  const auto writer = stub_->ImportSession(&import_context, &response);
  ASSERT_TRUE(writer->Write(ImportRequest("new", "more than ten bytes")));
  engine_.AwaitImported(19);
  engine_.AwaitTransfers(2);
  EXPECT_OK(server_->Drain(absl::Now() + absl::Milliseconds(100)));
  engine_.AwaitTransfers(0);
  EXPECT_THAT(FromGrpc(writer->Finish()), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
  v1::ExportSessionResponse part;
  while (reader->Read(&part)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_FALSE(engine_.HasSession("new"));
}

TEST_F(SessionCallsTest, AServersEndEndsTransfers) {
  engine_.SetExportPart(std::string(256 << 10, 'x'));
  grpc::ClientContext export_context, import_context;
  v1::ExportSessionRequest request;
  request.set_session_id("book");
  const auto reader = stub_->ExportSession(&export_context, request);
  v1::ImportSessionResponse response;
  const auto writer = stub_->ImportSession(&import_context, &response);
  ASSERT_TRUE(writer->Write(ImportRequest("new", "more than ten bytes")));
  engine_.AwaitTransfers(2);
  server_ = nullptr;
  engine_.AwaitTransfers(0);
  EXPECT_FALSE(writer->Finish().ok());
}

TEST_F(SessionCallsTest, ABackupIsDescribed) {
  const auto admin = v1::AdminService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials()));
  v1::CreateBackupResponse response;
  {
    grpc::ClientContext context;
    ASSERT_OK(FromGrpc(admin->CreateBackup(&context, {}, &response)));
  }
  EXPECT_EQ(response.backup_id(), 7);
  EXPECT_EQ(response.bytes(), 4096);
  EXPECT_EQ(response.create_time().seconds(), 1700000000);
  engine_.FailWith(absl::UnavailableError("the disk refuses"));
  grpc::ClientContext context;
  EXPECT_THAT(FromGrpc(admin->CreateBackup(&context, {}, &response)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("disk")));
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after-ms"), 1);
}

}  // namespace
}  // namespace mnemosyne
