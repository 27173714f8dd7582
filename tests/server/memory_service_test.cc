// The service against an engine that does what the test says, over real gRPC.
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "absl/time/clock.h"
#include "core/engine/engine.h"
#include "gmock/gmock.h"
#include "tests/server/fake_engine_fixture.h"

namespace mnemosyne {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class MemoryServiceTest : public FakeEngineTest {
 protected:
  // Opens "book" and reads the answer.
  std::unique_ptr<TestStream> OpenBook() {
    auto stream = std::make_unique<TestStream>(*stub_);
    stream->Write(OpenRequest("book"));
    EXPECT_TRUE(stream->Read().has_opened());
    return stream;
  }
  absl::Status StreamStatus(const std::vector<v1::StreamRequest>& requests) {
    TestStream stream(*stub_);
    for (const v1::StreamRequest& request : requests) stream.Write(request);
    return stream.Finish();
  }
  static v1::QueryRequest Question() {
    v1::QueryRequest request;
    request.set_session_id("book");
    request.set_text("who?");
    return request;
  }
  absl::Status QueryStatus(const std::function<void(v1::QueryRequest*)>& change) {
    v1::QueryRequest request = Question();
    change(&request);
    return Ask(*stub_, request).status;
  }
  static Progress At(uint64_t sequence, uint64_t durable_sequence, bool flushed = false) {
    Progress progress;
    progress.sequence = sequence;
    progress.durable_sequence = durable_sequence;
    progress.watermarks = {.accepted = static_cast<int64_t>(sequence) * 10,
                           .durable = static_cast<int64_t>(durable_sequence) * 10,
                           .memorized = 0,
                           .accepted_bytes = 0};
    progress.flushed = flushed;
    return progress;
  }
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST_F(MemoryServiceTest, OpenedSaysWhereToGoOn) {
  TestStream stream(*stub_);
  stream.Write(OpenRequest("new", /*create=*/true));
  const v1::Opened opened = stream.Read().opened();
  EXPECT_EQ(opened.session().session_id(), "new");
  EXPECT_EQ(opened.session().next_sequence(), 5);
  EXPECT_EQ(opened.max_append_bytes(), 4096);
  EXPECT_EQ(opened.block_tokens(), engine_.models()[0].config.block_tokens());
  EXPECT_TRUE(opened.created());
}

TEST_F(MemoryServiceTest, AnIdIsMadeForAnOpenWithoutOne) {
  TestStream stream(*stub_);
  stream.Write(OpenRequest("", /*create=*/true));
  const v1::Opened opened = stream.Read().opened();
  EXPECT_THAT(opened.session().session_id(), HasSubstr("made-"));
  EXPECT_TRUE(opened.created());
}

TEST_F(MemoryServiceTest, BadStreamsAreRefusedByName) {
  EXPECT_THAT(StreamStatus({TextRequest(5, "a")}), StatusIs(kInvalid, HasSubstr("open")));
  EXPECT_THAT(StreamStatus({v1::StreamRequest()}), StatusIs(kInvalid, HasSubstr("open")));
  EXPECT_THAT(StreamStatus({OpenRequest("")}), StatusIs(kInvalid, HasSubstr("session_id")));
  EXPECT_THAT(StreamStatus({OpenRequest("book"), OpenRequest("book")}),
              StatusIs(kInvalid, HasSubstr("only the first")));
  EXPECT_THAT(StreamStatus({OpenRequest("book"), v1::StreamRequest()}), StatusIs(kInvalid, HasSubstr("none of")));
  EXPECT_THAT(StreamStatus({OpenRequest("book"), TextRequest(0, "a")}), StatusIs(kInvalid, HasSubstr("sequence")));
  EXPECT_THAT(StreamStatus({OpenRequest("book"), TextRequest(5, "")}), StatusIs(kInvalid, HasSubstr("text")));
  EXPECT_THAT(StreamStatus({OpenRequest("book"), TokensRequest(5, {})}), StatusIs(kInvalid, HasSubstr("token_ids")));
  v1::StreamRequest nothing;
  nothing.mutable_append()->set_sequence(5);
  EXPECT_THAT(StreamStatus({OpenRequest("book"), nothing}), StatusIs(kInvalid, HasSubstr("content")));
  EXPECT_THAT(StreamStatus({OpenRequest("book"), TextRequest(7, "a")}),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("5 is expected")));
  EXPECT_THAT(StreamStatus({OpenRequest("missing")}), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'missing'")));
  engine_.FailFlushWith(absl::FailedPreconditionError("the session's memory stopped at 64"));
  EXPECT_THAT(StreamStatus({OpenRequest("book"), FlushRequest()}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("stopped at 64")));
}

TEST_F(MemoryServiceTest, AStreamThatEndsBeforeItsFirstRequestIsInvalid) {
  TestStream stream(*stub_);
  stream.WritesDone();
  EXPECT_THAT(stream.Finish(), StatusIs(kInvalid, HasSubstr("open")));
}

TEST_F(MemoryServiceTest, AMessageOverTheLimitIsResourceExhausted) {
  EXPECT_THAT(StreamStatus({OpenRequest("book"), TextRequest(5, std::string(4 << 20, 'a'))}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("larger than max")));
}

TEST_F(MemoryServiceTest, AppendsArriveInOrderAndAreAcked) {
  const auto stream = OpenBook();
  stream->Write(TextRequest(5, "one"));
  stream->Write(TokensRequest(6, {1, 2, 3}));
  engine_.AwaitAccepted(2);
  const auto accepted = engine_.accepted();
  EXPECT_EQ(accepted[0].content.bytes, "one");
  EXPECT_THAT(accepted[1].content.tokens, ElementsAre(1, 2, 3));
  engine_.writer_observer()->OnProgress(At(6, 6));
  const v1::Ack ack = stream->Read().ack();
  EXPECT_EQ(ack.sequence(), 6);
  EXPECT_EQ(ack.durable_sequence(), 6);
  EXPECT_EQ(ack.watermarks().accepted(), 60);
  EXPECT_FALSE(ack.has_mean_surprise());
  EXPECT_FALSE(ack.flushed());
}

TEST_F(MemoryServiceTest, ARepeatIsAckedAgainAndNotApplied) {
  const auto stream = OpenBook();
  stream->Write(TextRequest(4, "known"));
  const v1::Ack ack = stream->Read().ack();
  EXPECT_EQ(ack.sequence(), 4);
  EXPECT_EQ(ack.durable_sequence(), 4);
  EXPECT_TRUE(engine_.accepted().empty());
}

TEST_F(MemoryServiceTest, NoRoomHoldsTheStreamUntilThereIs) {
  const auto stream = OpenBook();
  engine_.SetRoom(1);
  for (int i = 0; i < 5; ++i) stream->Write(TextRequest(5 + i, absl::StrCat("part ", i)));
  engine_.AwaitRefusals(1);
  EXPECT_EQ(engine_.accepted().size(), 1);
  engine_.SetRoom(2);
  engine_.writer_observer()->OnRoom();
  engine_.AwaitRefusals(2);
  engine_.SetRoom(100);
  engine_.writer_observer()->OnRoom();
  engine_.AwaitAccepted(5);
  EXPECT_EQ(engine_.refusals(), 2);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(engine_.accepted()[i].content.bytes, absl::StrCat("part ", i));
  stream->WritesDone();
  engine_.writer_observer()->OnProgress(At(9, 9));
  EXPECT_OK(stream->Finish());
}

TEST_F(MemoryServiceTest, EveryFlushIsAnsweredOnceHoweverFastTheyCome) {
  const auto stream = OpenBook();
  constexpr int kFlushes = 200;
  for (int i = 0; i < kFlushes; ++i) stream->Write(FlushRequest());
  engine_.AwaitFlushes(kFlushes);
  const std::shared_ptr<WriterObserver> observer = engine_.writer_observer();
  for (int i = 0; i < kFlushes; ++i) {
    observer->OnProgress(At(4, 4, /*flushed=*/true));
    observer->OnProgress(At(4, 4));
  }
  stream->WritesDone();
  int flushed = 0;
  for (v1::StreamResponse response = stream->Read(); response.has_ack(); response = stream->Read()) {
    flushed += response.ack().flushed() ? 1 : 0;
  }
  EXPECT_EQ(flushed, kFlushes);
  EXPECT_OK(stream->Finish());
}

TEST_F(MemoryServiceTest, SurpriseIsTheMeanOfWhatIsMerged) {
  const auto stream = OpenBook();
  const std::shared_ptr<WriterObserver> observer = engine_.writer_observer();
  constexpr int kReports = 50;
  for (int i = 1; i <= kReports; ++i) {
    Progress progress = At(4, 4);
    progress.watermarks.memorized = i * 64;
    progress.mean_surprise = 2.0f;
    observer->OnProgress(progress);
  }
  stream->WritesDone();
  int acks = 0;
  int64_t memorized = 0;
  for (v1::StreamResponse response = stream->Read(); response.has_ack(); response = stream->Read()) {
    EXPECT_FLOAT_EQ(response.ack().mean_surprise(), 2.0f);
    memorized = response.ack().watermarks().memorized();
    ++acks;
  }
  EXPECT_EQ(memorized, kReports * 64) << "the newest watermarks come last";
  EXPECT_GE(acks, 1);
  EXPECT_LE(acks, kReports);
}

TEST_F(MemoryServiceTest, AHalfClosedStreamEndsWhenAllIsDurable) {
  const auto stream = OpenBook();
  stream->Write(TextRequest(5, "one"));
  stream->WritesDone();
  engine_.AwaitAccepted(1);
  engine_.writer_observer()->OnProgress(At(5, 4));
  EXPECT_EQ(stream->Read().ack().durable_sequence(), 4);
  engine_.writer_observer()->OnProgress(At(5, 5));
  EXPECT_EQ(stream->Read().ack().durable_sequence(), 5);
  EXPECT_OK(stream->Finish());
  engine_.AwaitWriters(0);
}

TEST_F(MemoryServiceTest, ALostSeatEndsTheStreamWithItsReason) {
  const auto stream = OpenBook();
  engine_.writer_observer()->OnLost(absl::AbortedError("another writer took over"));
  EXPECT_THAT(stream->Finish(), StatusIs(absl::StatusCode::kAborted, HasSubstr("took over")));
  engine_.AwaitWriters(0);
}

TEST_F(MemoryServiceTest, TwoWritersTheSecondIsRefusedOrTakesOver) {
  const auto first = OpenBook();
  const std::shared_ptr<WriterObserver> observer = engine_.writer_observer();
  EXPECT_THAT(StreamStatus({OpenRequest("book")}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("has a writer")));
  TestStream second(*stub_);
  second.Write(OpenRequest("book", /*create=*/false, /*take_over=*/true));
  EXPECT_TRUE(second.Read().has_opened());
  observer->OnLost(absl::AbortedError("another writer took over"));
  EXPECT_THAT(first->Finish(), StatusIs(absl::StatusCode::kAborted, HasSubstr("took over")));
  second.Write(TextRequest(5, "mine"));
  engine_.AwaitAccepted(1);
}

TEST_F(MemoryServiceTest, AClientThatVanishesGivesTheSeatBack) {
  OpenBook()->Cancel();
  engine_.AwaitWriters(0);
  {  // also while it waits for room
    const auto stream = OpenBook();
    engine_.SetRoom(0);
    stream->Write(TextRequest(5, "one"));
    engine_.AwaitRefusals(1);
    const std::shared_ptr<WriterObserver> observer = engine_.writer_observer();
    stream->Cancel();
    engine_.AwaitWriters(0);
    observer->OnRoom();
    observer->OnProgress(At(5, 5));
    observer->OnLost(absl::AbortedError("late"));
  }
}

TEST_F(MemoryServiceTest, ProgressFromManyThreadsWhileClientsVanish) {
  for (int round = 0; round < 20; ++round) {
    const auto stream = OpenBook();
    const std::shared_ptr<WriterObserver> observer = engine_.writer_observer();
    std::thread engine_thread([&] {
      for (int i = 0; i < 200; ++i) observer->OnProgress(At(4, 4, i % 2 == 0));
    });
    stream->Cancel();
    engine_thread.join();
    engine_.AwaitWriters(0);
  }
}

TEST_F(MemoryServiceTest, AnAnswerIsStreamedAndItsSummaryIsLast) {
  v1::QueryRequest request = Question();
  request.add_stop("\n");
  request.set_temperature(0.5f);
  request.set_top_k(3);
  request.set_seed(7);
  std::thread decoding([&] {
    engine_.AwaitQueries(1);
    const std::shared_ptr<QueryObserver> observer = engine_.query_observer();
    observer->OnPiece({.text = "a", .tokens = {97}, .log_probabilities = {-0.5f}});
    observer->OnPiece({.text = "b", .tokens = {98}, .log_probabilities = {-0.25f}});
    QuerySummary summary;
    summary.stop_reason = StopReasonKind::kStopString;
    summary.answer_tokens = 2;
    summary.total_time = absl::Milliseconds(1500);
    observer->OnDone(summary);
  });
  const Answer answer = Ask(*stub_, request);
  decoding.join();
  EXPECT_OK(answer.status);
  EXPECT_EQ(answer.text, "ab");
  EXPECT_THAT(answer.tokens, ElementsAre(97, 98));
  EXPECT_EQ(answer.summary.stop_reason(), v1::STOP_REASON_STOP_STRING);
  EXPECT_EQ(answer.summary.total_time().seconds(), 1);
  EXPECT_EQ(answer.summary.total_time().nanos(), 500000000);
  const QueryOptions asked = engine_.last_query();
  EXPECT_EQ(asked.prompt.bytes, "who?");
  EXPECT_EQ(asked.max_tokens, 256);
  EXPECT_EQ(asked.temperature, 0.5f);
  EXPECT_EQ(asked.top_k, 3);
  EXPECT_EQ(asked.seed, 7);
  EXPECT_THAT(asked.stop, ElementsAre("\n"));
  EXPECT_EQ(asked.deadline, absl::InfiniteFuture());
  engine_.AwaitQueries(0);
}

TEST_F(MemoryServiceTest, AQueryThatFailsSaysWhatWasDecodedFirst) {
  std::thread decoding([&] {
    engine_.AwaitQueries(1);
    const std::shared_ptr<QueryObserver> observer = engine_.query_observer();
    observer->OnPiece({.text = "a", .tokens = {97}, .log_probabilities = {-0.5f}});
    observer->OnDone(absl::DataLossError("a record is damaged"));
  });
  const Answer answer = Ask(*stub_, Question());
  decoding.join();
  EXPECT_THAT(answer.status, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")));
  EXPECT_EQ(answer.text, "a");
}

TEST_F(MemoryServiceTest, BadQueriesAreRefusedByName) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(QueryStatus([](auto* q) { q->clear_session_id(); }), StatusIs(kInvalid, HasSubstr("session_id")));
  EXPECT_THAT(QueryStatus([](auto* q) { q->clear_prompt(); }), StatusIs(kInvalid, HasSubstr("prompt")));
  EXPECT_THAT(QueryStatus([](auto* q) { q->set_text(""); }), StatusIs(kInvalid, HasSubstr("prompt")));
  EXPECT_THAT(QueryStatus([](auto* q) { q->mutable_token_ids(); }), StatusIs(kInvalid, HasSubstr("prompt")));
  EXPECT_THAT(QueryStatus([](auto* q) { q->set_max_tokens(0); }), StatusIs(kInvalid, HasSubstr("max_tokens is 0")));
  EXPECT_THAT(QueryStatus([](auto* q) { q->set_max_tokens(65537); }), StatusIs(kInvalid, HasSubstr("65536")));
  for (const float temperature : {kNan, INFINITY, -1.0f, 0.001f, 101.0f}) {
    EXPECT_THAT(QueryStatus([&](auto* q) { q->set_temperature(temperature); }),
                StatusIs(kInvalid, HasSubstr("temperature")));
  }
  EXPECT_THAT(QueryStatus([](auto* q) { q->set_top_k(0); }), StatusIs(kInvalid, HasSubstr("top_k")));
  for (const float top_p : {kNan, 0.0f, -0.5f, 1.5f}) {
    EXPECT_THAT(QueryStatus([&](auto* q) { q->set_top_p(top_p); }), StatusIs(kInvalid, HasSubstr("top_p")));
  }
  EXPECT_THAT(QueryStatus([](auto* q) { q->add_stop(std::string()); }), StatusIs(kInvalid, HasSubstr("stop[0]")));
  EXPECT_THAT(QueryStatus([](auto* q) { q->add_stop(std::string(257, 'a')); }), StatusIs(kInvalid, HasSubstr("256")));
  EXPECT_THAT(QueryStatus([](auto* q) {
                for (int i = 0; i < 17; ++i) q->add_stop(std::string(1, 'x'));
              }),
              StatusIs(kInvalid, HasSubstr("17")));
  EXPECT_THAT(QueryStatus([](auto* q) { q->set_session_id("missing"); }),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("'missing'")));
  engine_.FailWith(absl::ResourceExhaustedError("256 queries wait; the maximum is 256"));
  EXPECT_THAT(QueryStatus([](auto*) {}), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("256 queries")));
}

TEST_F(MemoryServiceTest, AClientThatVanishesCancelsItsQuery) {
  grpc::ClientContext context;
  const auto reader = stub_->Query(&context, Question());
  engine_.AwaitQueries(1);
  const std::shared_ptr<QueryObserver> observer = engine_.query_observer();
  observer->OnPiece({.text = "a", .tokens = {97}, .log_probabilities = {-0.5f}});
  v1::QueryResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  engine_.AwaitQueries(0);
  observer->OnPiece({.text = "b", .tokens = {98}, .log_probabilities = {-0.5f}});
  observer->OnDone(QuerySummary());
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(MemoryServiceTest, ADeadlineGoesToTheEngineAndEndsTheQuery) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(300)));
  const auto reader = stub_->Query(&context, Question());
  engine_.AwaitQueries(1);
  EXPECT_LT(engine_.last_query().deadline, absl::Now() + absl::Seconds(10));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  engine_.AwaitQueries(0);
}

TEST_F(MemoryServiceTest, ASlowReaderLosesNothing) {
  grpc::ClientContext context;
  const auto reader = stub_->Query(&context, Question());
  engine_.AwaitQueries(1);
  const std::shared_ptr<QueryObserver> observer = engine_.query_observer();
  constexpr int kTokens = 65536;
  for (int i = 0; i < kTokens; ++i) observer->OnPiece({.text = "x", .tokens = {i}, .log_probabilities = {-1.0f}});
  observer->OnDone(QuerySummary());
  int next = 0, messages = 0;
  v1::QueryResponse response;
  while (reader->Read(&response)) {
    for (const int32_t token : response.delta().token_ids()) EXPECT_EQ(token, next++);
    ++messages;
  }
  EXPECT_EQ(next, kTokens);
  EXPECT_LT(messages, kTokens) << "pieces are merged while a write is in flight";
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(MemoryServiceTest, SessionsAreMadeFoundListedResetAndDeleted) {
  {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_session_id("second");
    request.set_model("another");
    (*request.mutable_labels())["kind"] = "test";
    v1::CreateSessionResponse response;
    ASSERT_OK(FromGrpc(stub_->CreateSession(&context, request, &response)));
    EXPECT_EQ(response.session().labels().at("kind"), "test");
    EXPECT_EQ(response.session().model(), "another");
    grpc::ClientContext again;
    EXPECT_THAT(FromGrpc(stub_->CreateSession(&again, request, &response)),
                StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("second")));
  }
  {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id("second");
    v1::GetSessionResponse response;
    ASSERT_OK(FromGrpc(stub_->GetSession(&context, request, &response)));
    EXPECT_EQ(response.session().watermarks().accepted(), 40);
    EXPECT_EQ(response.session().create_time().seconds(), 1700000000);
    EXPECT_FALSE(response.session().has_failure());
  }
  {
    grpc::ClientContext context, back, too_far;
    v1::ResetRequest request;
    request.set_session_id("second");
    v1::ResetResponse response;
    ASSERT_OK(FromGrpc(stub_->Reset(&context, request, &response)));
    EXPECT_EQ(response.session().epoch(), 2);
    EXPECT_EQ(response.session().watermarks().accepted(), 0);
    request.set_offset(30);
    ASSERT_OK(FromGrpc(stub_->Reset(&back, request, &response)));
    EXPECT_EQ(response.session().watermarks().accepted(), 30);
    request.set_offset(64);
    EXPECT_THAT(FromGrpc(stub_->Reset(&too_far, request, &response)),
                StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("64")));
  }
  {
    grpc::ClientContext context, again, unnamed;
    v1::DeleteSessionRequest request;
    request.set_session_id("second");
    v1::DeleteSessionResponse response;
    ASSERT_OK(FromGrpc(stub_->DeleteSession(&context, request, &response)));
    EXPECT_THAT(FromGrpc(stub_->DeleteSession(&again, request, &response)),
                StatusIs(absl::StatusCode::kNotFound, HasSubstr("second")));
    EXPECT_THAT(FromGrpc(stub_->DeleteSession(&unnamed, {}, &response)), StatusIs(kInvalid, HasSubstr("session_id")));
  }
}

TEST_F(MemoryServiceTest, ListsArePaged) {
  for (int i = 0; i < 7; ++i) engine_.AddSession(absl::StrCat("s", i));
  std::vector<std::string> ids;
  v1::ListSessionsRequest request;
  request.set_page_size(3);
  do {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    ASSERT_OK(FromGrpc(stub_->ListSessions(&context, request, &response)));
    EXPECT_LE(response.sessions_size(), 3);
    for (const v1::Session& session : response.sessions()) ids.push_back(session.session_id());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(ids, ElementsAre("book", "s0", "s1", "s2", "s3", "s4", "s5", "s6"));

  grpc::ClientContext first, other_labels, made_up, negative, models, more_models;
  v1::ListSessionsResponse response;
  ASSERT_OK(FromGrpc(stub_->ListSessions(&first, request, &response)));
  request.set_page_token(response.next_page_token());
  (*request.mutable_labels())["kind"] = "test";
  EXPECT_THAT(FromGrpc(stub_->ListSessions(&other_labels, request, &response)),
              StatusIs(kInvalid, HasSubstr("page_token")));
  request.set_page_token("made up");
  EXPECT_THAT(FromGrpc(stub_->ListSessions(&made_up, request, &response)), StatusIs(kInvalid, HasSubstr("page_token")));
  request.set_page_size(-1);
  EXPECT_THAT(FromGrpc(stub_->ListSessions(&negative, request, &response)), StatusIs(kInvalid, HasSubstr("page_size")));

  v1::ListModelsRequest model_request;
  model_request.set_page_size(1);
  v1::ListModelsResponse model_response;
  ASSERT_OK(FromGrpc(stub_->ListModels(&models, model_request, &model_response)));
  EXPECT_EQ(model_response.models(0).name(), "another");
  EXPECT_EQ(model_response.models(0).tokenizer(), v1::TOKENIZER_KIND_BYTES);
  model_request.set_page_token(model_response.next_page_token());
  ASSERT_OK(FromGrpc(stub_->ListModels(&more_models, model_request, &model_response)));
  EXPECT_EQ(model_response.models(0).name(), "recall");
  EXPECT_TRUE(model_response.next_page_token().empty());
}

TEST_F(MemoryServiceTest, UnavailableComesWithARetryHint) {
  engine_.FailWith(absl::UnavailableError("the disk refuses writes"));
  TestStream stream(*stub_);
  stream.Write(OpenRequest("book"));
  EXPECT_THAT(stream.Finish(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("disk")));
  EXPECT_EQ(stream.TrailingMetadata("retry-after-ms"), "500");
}

TEST_F(MemoryServiceTest, ALongErrorIsCutAtACharacter) {
  std::string message;
  for (int i = 0; i < 5000; ++i) message += "ü";
  engine_.FailWith(absl::NotFoundError(message));
  const absl::Status status = StreamStatus({OpenRequest("book")});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), message.substr(0, 1024));
}

TEST_F(MemoryServiceTest, ADrainTellsStreamsAndEnds) {
  const auto stream = OpenBook();
  TestStream silent(*stub_);  // has not opened anything
  std::thread draining([&] { EXPECT_OK(server_->Drain(absl::Now() + absl::Seconds(20))); });
  EXPECT_THAT(stream->Finish(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
  // A call that gRPC had not handed over yet when the server shut down is cancelled by gRPC itself.
  EXPECT_THAT(silent.Finish(), testing::AnyOf(StatusIs(absl::StatusCode::kUnavailable, testing::_),
                                              StatusIs(absl::StatusCode::kCancelled, testing::_)));
  draining.join();
  engine_.AwaitWriters(0);
}

}  // namespace
}  // namespace mnemosyne
