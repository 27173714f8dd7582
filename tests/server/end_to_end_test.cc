// The real engine behind a real server, spoken to over gRPC: what a client is promised.
#include <limits>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/server/end_to_end_fixture.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST_F(EndToEndTest, AStreamIsMemorizedAndAnswered) {
  const v1::Ack ack = Tell("book", {TextRequest(1, Story(500)), TextRequest(2, Story(100))});
  EXPECT_EQ(ack.sequence(), 2);
  EXPECT_EQ(ack.durable_sequence(), 2);
  EXPECT_EQ(ack.watermarks().accepted(), 600);
  EXPECT_EQ(ack.watermarks().durable(), 600);
  EXPECT_EQ(ack.watermarks().memorized(), 576);
  EXPECT_EQ(ack.watermarks().accepted_bytes(), 600);

  const Answer answer = Ask(*stub_, Question("book"));
  ASSERT_OK(answer.status);
  EXPECT_EQ(answer.summary.answer_tokens(), static_cast<int64_t>(answer.tokens.size()));
  EXPECT_EQ(answer.summary.as_of_offset(), 600);
  EXPECT_EQ(answer.summary.pending_tokens(), 600 - 576);
  EXPECT_EQ(answer.summary.prompt_tokens(), 12 + 1) << "with the question token";
  EXPECT_EQ(Ask(*stub_, Question("book")).tokens, answer.tokens) << "a query changes nothing";
  EXPECT_EQ(Session("book").watermarks().accepted(), 600);
}

TEST_F(EndToEndTest, AnAnswerDoesNotDependOnHowTheStreamWasCut) {
  const std::string story = Story(700);
  Tell("whole", {TextRequest(1, story)});
  std::vector<v1::StreamRequest> pieces;
  for (size_t at = 0; at < story.size(); at += 7) pieces.push_back(TextRequest(pieces.size() + 1, story.substr(at, 7)));
  Tell("cut", pieces);
  const Answer whole = Ask(*stub_, Question("whole"));
  ASSERT_OK(whole.status);
  EXPECT_EQ(Ask(*stub_, Question("cut")).tokens, whole.tokens);
}

TEST_F(EndToEndTest, ARestartChangesNoAnswer) {
  Tell("book", {TextRequest(1, Story(1000))});
  const Answer before = Ask(*stub_, Question("book"));
  ASSERT_OK(before.status);
  Stop();  // without a drain: as it happens
  Start();
  EXPECT_EQ(Session("book").next_sequence(), 2);
  EXPECT_EQ(Session("book").watermarks().accepted(), 1000);
  const Answer after = Ask(*stub_, Question("book"));
  ASSERT_OK(after.status);
  EXPECT_EQ(after.tokens, before.tokens);
  EXPECT_EQ(after.text, before.text);

  ASSERT_OK(server_->Drain(absl::Now() + absl::Seconds(30)));
  Stop();
  Start();
  EXPECT_EQ(Ask(*stub_, Question("book")).tokens, before.tokens);
}

TEST_F(EndToEndTest, WhatIsSentAgainIsNotAppliedAgain) {
  Tell("once", {TextRequest(1, Story(100)), TextRequest(2, Story(200))});
  const v1::Ack again = Tell("once", {TextRequest(1, Story(100)), TextRequest(2, Story(200)), TextRequest(3, "end")});
  EXPECT_EQ(again.durable_sequence(), 3);
  EXPECT_EQ(again.watermarks().accepted(), 303);
  EXPECT_EQ(Tell("once", {TextRequest(2, Story(200))}).watermarks().accepted(), 303);
  const Answer answer = Ask(*stub_, Question("once"));
  Tell("fresh", {TextRequest(1, Story(100)), TextRequest(2, Story(200)), TextRequest(3, "end")});
  EXPECT_EQ(Ask(*stub_, Question("fresh")).tokens, answer.tokens);
}

TEST_F(EndToEndTest, SequencesFollow) {
  Tell("book", {TextRequest(1, "a"), TextRequest(2, "b")});
  EXPECT_THAT(StreamStatus("book", {TextRequest(4, "d")}), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("3")));
  EXPECT_THAT(StreamStatus("book", {TextRequest(0, "d")}), StatusIs(kInvalid, HasSubstr("sequence")));
  EXPECT_OK(StreamStatus("book", {TextRequest(3, "c"), TextRequest(2, "b"), TextRequest(1, "a"), TextRequest(4, "d")}));
  EXPECT_EQ(Session("book").watermarks().accepted(), 4);
  EXPECT_EQ(Session("book").next_sequence(), 5);
}

TEST_F(EndToEndTest, BadAppendsAreRefusedAndChangeNothing) {
  Tell("book", {TextRequest(1, "a")});
  Tell("ids", {TokensRequest(1, {0, kTitanVocabulary - 1})}, "titan");
  EXPECT_THAT(StreamStatus("book", {TextRequest(2, "")}), StatusIs(kInvalid, HasSubstr("empty")));
  EXPECT_THAT(StreamStatus("book", {TextRequest(2, std::string(4097, 'a'))}), StatusIs(kInvalid, HasSubstr("4096")));
  EXPECT_THAT(StreamStatus("book", {TextRequest(2, std::string(4 << 20, 'a'))}),
              StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
  EXPECT_THAT(StreamStatus("ids", {TokensRequest(2, {1, kTitanVocabulary})}), StatusIs(kInvalid, HasSubstr("40")));
  EXPECT_THAT(StreamStatus("ids", {TokensRequest(2, {-1})}), StatusIs(kInvalid, HasSubstr("-1")));
  EXPECT_THAT(StreamStatus("ids", {TextRequest(2, "text")}), StatusIs(kInvalid, HasSubstr("tokenizer")));
  EXPECT_EQ(Session("book").next_sequence(), 2);
  EXPECT_EQ(Session("ids").next_sequence(), 2);
  EXPECT_EQ(Session("ids").watermarks().accepted(), 2);
}

TEST_F(EndToEndTest, WhatDoesNotExistIsNamed) {
  TestStream stream(*stub_);
  stream.Write(OpenRequest("missing"));
  EXPECT_THAT(stream.Finish(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("missing")));
  EXPECT_THAT(QueryStatus(Question("missing")), StatusIs(absl::StatusCode::kNotFound, HasSubstr("missing")));
  EXPECT_THAT(StreamStatus("new", {}, "no-such-model"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no-such-model")));
  EXPECT_THAT(StreamStatus("sp ace", {}), StatusIs(kInvalid, HasSubstr("sp ace")));
  EXPECT_THAT(StreamStatus(std::string(129, 'a'), {}), StatusIs(kInvalid, HasSubstr("128")));
  Tell("book", {TextRequest(1, "a")});
  EXPECT_THAT(StreamStatus("book", {}, "titan"), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("bytes")));
}

TEST_F(EndToEndTest, OneWriterAtATime) {
  TestStream first(*stub_);
  first.Write(OpenRequest("book", /*create=*/true));
  ASSERT_TRUE(first.Read().has_opened());
  TestStream refused(*stub_);
  refused.Write(OpenRequest("book"));
  EXPECT_THAT(refused.Finish(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("book")));
  TestStream second(*stub_);
  second.Write(OpenRequest("book", /*create=*/false, /*take_over=*/true));
  ASSERT_TRUE(second.Read().has_opened());
  EXPECT_THAT(first.Finish(), StatusIs(absl::StatusCode::kAborted, HasSubstr("took over")));
  second.Write(TextRequest(1, "mine"));
  second.WritesDone();
  EXPECT_OK(second.Finish());
  EXPECT_EQ(Session("book").watermarks().accepted(), 4);
}

TEST_F(EndToEndTest, AWriterThatVanishesLeavesWhatWasAccepted) {
  {
    TestStream stream(*stub_);
    stream.Write(OpenRequest("book", /*create=*/true));
    ASSERT_TRUE(stream.Read().has_opened());
    stream.Write(TextRequest(1, Story(100)));
    ASSERT_EQ(stream.Read().ack().sequence(), 1);
    stream.Cancel();
  }
  EXPECT_EQ(Session("book").watermarks().accepted(), 100);
  // The seat comes free once the server has noticed: a client tries again, or takes over.
  TestStream next(*stub_);
  next.Write(OpenRequest("book", /*create=*/false, /*take_over=*/true));
  EXPECT_EQ(next.Read().opened().session().next_sequence(), 2);
}

TEST_F(EndToEndTest, BadQueriesAreRefusedByName) {
  Tell("book", {TextRequest(1, Story(100))});
  Tell("ids", {TokensRequest(1, {1, 2, 3})}, "titan");
  v1::QueryRequest request = Question("book");
  request.set_max_tokens(0);
  EXPECT_THAT(QueryStatus(request), StatusIs(kInvalid, HasSubstr("max_tokens")));
  request.set_max_tokens(std::numeric_limits<int32_t>::max());
  EXPECT_THAT(QueryStatus(request), StatusIs(kInvalid, HasSubstr("max_tokens")));
  request = Question("book");
  request.set_temperature(std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(QueryStatus(request), StatusIs(kInvalid, HasSubstr("temperature")));
  EXPECT_THAT(QueryStatus(Question("book", Story(257))), StatusIs(kInvalid, HasSubstr("256")));
  request = Question("book");
  request.mutable_token_ids()->add_ids(258);
  EXPECT_THAT(QueryStatus(request), StatusIs(kInvalid, HasSubstr("258")));
  EXPECT_THAT(QueryStatus(Question("ids")), StatusIs(kInvalid, HasSubstr("tokenizer")));
  EXPECT_THAT(QueryStatus(Question("not an id")), StatusIs(kInvalid, HasSubstr("not an id")));
  EXPECT_OK(QueryStatus(Question("book"))) << "none of it hurt the session";
}

TEST_F(EndToEndTest, TokenIdsAreAnsweredWithoutATokenizer) {
  std::vector<int32_t> tokens(200);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % kTitanVocabulary);
  EXPECT_EQ(Tell("ids", {TokensRequest(1, tokens)}, "titan").watermarks().accepted_bytes(), 800);
  v1::QueryRequest request;
  request.set_session_id("ids");
  request.mutable_token_ids()->add_ids(3);
  request.set_max_tokens(5);
  const Answer answer = Ask(*stub_, request);
  ASSERT_OK(answer.status);
  EXPECT_EQ(answer.tokens.size(), 5);
  EXPECT_EQ(answer.summary.stop_reason(), v1::STOP_REASON_MAX_TOKENS);
}

TEST_F(EndToEndTest, RememberAppendsQuestionAndAnswer) {
  Tell("book", {TextRequest(1, Story(100))});
  v1::QueryRequest request = Question("book");
  request.set_remember(true);
  const Answer answer = Ask(*stub_, request);
  ASSERT_OK(answer.status);
  EXPECT_GT(answer.summary.remembered_offset(), 100);
  EXPECT_EQ(Session("book").watermarks().accepted(), answer.summary.remembered_offset());
  EXPECT_EQ(Session("book").next_sequence(), 2) << "it takes no number of the writer's";
}

TEST_F(EndToEndTest, SessionsAreResetListedAndDeleted) {
  Tell("b", {TextRequest(1, Story(200))});
  Tell("a", {TextRequest(1, Story(200))});
  grpc::ClientContext reset_context, list_context, delete_context, create_context;
  v1::ResetRequest reset;
  reset.set_session_id("a");
  v1::ResetResponse reset_response;
  ASSERT_OK(FromGrpc(stub_->Reset(&reset_context, reset, &reset_response)));
  EXPECT_EQ(reset_response.session().watermarks().accepted(), 0);
  EXPECT_EQ(reset_response.session().epoch(), 2);
  EXPECT_EQ(reset_response.session().next_sequence(), 2);
  EXPECT_EQ(Tell("a", {TextRequest(2, Story(70))}).watermarks().memorized(), 64);
  grpc::ClientContext back_context, beyond_context;
  reset.set_offset(50);
  ASSERT_OK(FromGrpc(stub_->Reset(&back_context, reset, &reset_response)));
  EXPECT_EQ(reset_response.session().watermarks().accepted(), 50);
  reset.set_offset(51);
  EXPECT_THAT(FromGrpc(stub_->Reset(&beyond_context, reset, &reset_response)),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("51")));

  v1::DeleteSessionRequest remove;
  remove.set_session_id("b");
  v1::DeleteSessionResponse removed;
  ASSERT_OK(FromGrpc(stub_->DeleteSession(&delete_context, remove, &removed)));
  v1::CreateSessionRequest create;
  create.set_session_id("labelled");
  (*create.mutable_labels())["kind"] = "test";
  v1::CreateSessionResponse created;
  ASSERT_OK(FromGrpc(stub_->CreateSession(&create_context, create, &created)));
  v1::ListSessionsResponse listed;
  ASSERT_OK(FromGrpc(stub_->ListSessions(&list_context, {}, &listed)));
  ASSERT_EQ(listed.sessions_size(), 2);
  EXPECT_EQ(listed.sessions(0).session_id(), "a");
  EXPECT_EQ(listed.sessions(1).labels().at("kind"), "test");
}

TEST_F(EndToEndTest, ADrainKeepsWhatWasAccepted) {
  TestStream stream(*stub_);
  stream.Write(OpenRequest("book", /*create=*/true));
  ASSERT_TRUE(stream.Read().has_opened());
  stream.Write(TextRequest(1, Story(640)));
  ASSERT_EQ(stream.Read().ack().sequence(), 1);
  EXPECT_OK(server_->Drain(absl::Now() + absl::Seconds(30)));
  EXPECT_EQ(stream.Finish().code(), absl::StatusCode::kUnavailable);
  Stop();
  Start();
  const v1::Session session = Session("book");
  EXPECT_EQ(session.watermarks().accepted(), 640);
  EXPECT_EQ(session.watermarks().memorized(), 640);
}

}  // namespace
}  // namespace mnemosyne
