#include "server/server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "server/blocking_calls.h"
#include "server/log.h"
#include "tests/server/fake_engine.h"
#include "tests/server/service_fixture.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;
using testing::Not;

// The body of a GET, by hand: a socket is all it takes.
std::string HttpGet(int port, const std::string& path, const std::string& headers = "") {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n", headers, "\r\n");
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string out;
  char buffer[4096];
  for (ssize_t n = read(fd, buffer, sizeof(buffer)); n > 0; n = read(fd, buffer, sizeof(buffer))) out.append(buffer, n);
  close(fd);
  return out;
}

std::string Health(int port, const std::string& service) {
  // grpc.health.v1 by its bytes: field 1 of the request is the service, of the response the status.
  std::string request;
  if (!service.empty()) request = absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
  const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  grpc::ClientContext context;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer sent(&slice, 1);
  grpc::ByteBuffer received;
  grpc::Status status;
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", sent, &queue);
  call->StartCall();
  call->Finish(&received, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok) && ok);
  if (!status.ok()) return status.error_message();
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(received.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& one : slices) bytes.append(reinterpret_cast<const char*>(one.begin()), one.size());
  if (bytes == std::string("\x08\x01")) return "SERVING";
  if (bytes == std::string("\x08\x02")) return "NOT_SERVING";
  return bytes;
}

TEST(Server, HealthIsServingForAllAndForTheService) {
  FakeEngine engine;
  const auto server = Server::Start({.listen = "127.0.0.1:0", .metrics_address = ""}, engine);
  ASSERT_OK(server);
  EXPECT_EQ(Health((*server)->port(), ""), "SERVING");
  EXPECT_EQ(Health((*server)->port(), "mnemosyne.v1.MemoryService"), "SERVING");
}

TEST(Server, ATakenAddressIsNamed) {
  FakeEngine engine;
  const auto first = Server::Start({.listen = "127.0.0.1:0", .metrics_address = "127.0.0.1:0"}, engine);
  ASSERT_OK(first);
  const std::string taken = absl::StrCat("127.0.0.1:", (*first)->port());
  EXPECT_THAT(Server::Start({.listen = taken, .metrics_address = ""}, engine),
              StatusIs(absl::StatusCode::kUnavailable, absl::StrCat("cannot listen on ", taken, ": address in use")));
  const std::string metrics = absl::StrCat("127.0.0.1:", (*first)->metrics_port());
  EXPECT_THAT(Server::Start({.listen = "127.0.0.1:0", .metrics_address = metrics}, engine),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(absl::StrCat("cannot listen on ", metrics))));
  EXPECT_THAT(Server::Start({.listen = "192.0.2.1:1", .metrics_address = ""}, engine),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cannot listen on 192.0.2.1:1: ")));
}

TEST(Server, MetricsHoldTheEnginesCountsAndTheCalls) {
  FakeEngine engine;
  engine.AddSession("secret-session");
  const auto server = Server::Start({.listen = "127.0.0.1:0", .metrics_address = "127.0.0.1:0"}, engine);
  ASSERT_OK(server);
  const auto stub = StubFor((*server)->port());
  v1::GetSessionResponse response;
  for (const char* id : {"secret-session", "secret-session", "missing-session"}) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id(id);
    stub->GetSession(&context, request, &response);
  }
  const std::string metrics = HttpGet((*server)->metrics_port(), "/metrics");
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_sessions 3"));
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_resident_state_bytes 4096"));
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_tokens_memorized_total 77"));
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_commit_seconds_sum 1.5"));
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_expired_sessions_total 5"));
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_rpcs_total{code=\"OK\",method=\"GetSession\"} 2"));
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_rpcs_total{code=\"NOT_FOUND\",method=\"GetSession\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("mnemosyne_query_first_token_seconds_bucket"));
  EXPECT_THAT(metrics, Not(HasSubstr("-session")));
  EXPECT_THAT(HttpGet((*server)->metrics_port(), "/other"), HasSubstr("404"));
}

TEST(Server, AClientThatPingsTooOftenIsCutOff) {
  FakeEngine engine;
  engine.AddSession("book");
  const auto server = Server::Start({.listen = "127.0.0.1:0", .metrics_address = ""}, engine);
  ASSERT_OK(server);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 50);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  const auto stub = v1::MemoryService::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", (*server)->port()), grpc::InsecureChannelCredentials(), arguments));
  TestStream stream(*stub);
  stream.Write(OpenRequest("book"));
  ASSERT_TRUE(stream.Read().has_opened());
  EXPECT_THAT(stream.Finish(), StatusIs(absl::StatusCode::kUnavailable));  // nobody else ends it
  engine.AwaitWriters(0);
}

TEST(Server, HeadersHaveALimit) {
  FakeEngine engine;
  engine.AddSession("book");
  const auto server =
      Server::Start({.listen = "127.0.0.1:0", .metrics_address = "", .max_metadata_bytes = 2048}, engine);
  ASSERT_OK(server);
  const auto stub = StubFor((*server)->port());
  for (const size_t bytes : {size_t{1000}, size_t{5000}}) {
    grpc::ClientContext context;
    context.AddMetadata("padding", std::string(bytes, 'x'));
    v1::GetSessionRequest request;
    request.set_session_id("book");
    v1::GetSessionResponse response;
    const absl::Status status = FromGrpc(stub->GetSession(&context, request, &response));
    EXPECT_EQ(status.code(), bytes < 2048 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted) << status;
  }
}

TEST(Server, AConnectionHasSoManyCallsAtATime) {
  FakeEngine engine;
  engine.AddSession("book");
  engine.AddSession("other");
  const auto server =
      Server::Start({.listen = "127.0.0.1:0", .metrics_address = "", .max_streams_per_connection = 1}, engine);
  ASSERT_OK(server);
  const auto stub = StubFor((*server)->port());
  const auto get = [&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
    v1::GetSessionRequest request;
    request.set_session_id("other");
    v1::GetSessionResponse response;
    return FromGrpc(stub->GetSession(&context, request, &response));
  };
  {
    TestStream stream(*stub);
    stream.Write(OpenRequest("book"));
    ASSERT_TRUE(stream.Read().has_opened());
    EXPECT_THAT(get(), StatusIs(absl::StatusCode::kDeadlineExceeded));  // it waits in the client
    stream.WritesDone();
    ASSERT_OK(stream.Finish());
  }
  absl::Status status = get();
  for (int i = 0; i < 100 && !status.ok(); ++i) status = get();  // a busy machine
  EXPECT_OK(status);
}

TEST(Server, ACallThatAsksForATraceGetsItsStages) {
  FakeEngine engine;
  engine.AddSession("book");
  const auto server = Server::Start({.listen = "127.0.0.1:0", .metrics_address = ""}, engine);
  ASSERT_OK(server);
  const auto stub = StubFor((*server)->port());
  for (const bool asks : {false, true}) {
    grpc::ClientContext context;
    if (asks) context.AddMetadata("mnemosyne-trace", "1");
    v1::GetSessionRequest request;
    request.set_session_id("book");
    v1::GetSessionResponse response;
    ASSERT_OK(FromGrpc(stub->GetSession(&context, request, &response)));
    const auto found = context.GetServerTrailingMetadata().find("mnemosyne-trace");
    ASSERT_EQ(found != context.GetServerTrailingMetadata().end(), asks);
    if (asks) {
      EXPECT_THAT(std::string(found->second.data(), found->second.size()), HasSubstr("total="));
    }
  }
}

TEST(Server, DebugPagesAreShownOnlyIfAsked) {
  FakeEngine engine;
  engine.AddSession("book");
  for (const bool has_debug : {true, false}) {
    const auto server =
        Server::Start({.listen = "127.0.0.1:0", .metrics_address = "127.0.0.1:0", .debug_page = has_debug}, engine);
    ASSERT_OK(server);
    const std::string page = HttpGet((*server)->metrics_port(), "/debug");
    const std::string session = HttpGet((*server)->metrics_port(), "/debug/session?id=%3Cscript%3E%26");
    EXPECT_EQ(page.find("200 OK") != std::string::npos, has_debug);
    EXPECT_EQ(page.find("/debug/session?id=book") != std::string::npos, has_debug);
    EXPECT_EQ(session.find("<polyline") != std::string::npos, has_debug);
    EXPECT_EQ(session.find("session &lt;script&gt;&amp;") != std::string::npos, has_debug);
    EXPECT_THAT(session, Not(HasSubstr("<script")));
    EXPECT_THAT(HttpGet((*server)->metrics_port(), "/metrics"), HasSubstr("200 OK"));
  }
}

// A web page of elsewhere can have its own name point here, but not change what the browser calls the server by.
TEST(Server, DebugPagesAnswerToAddressesOnly) {
  FakeEngine engine;
  engine.AddSession("book");
  const auto server = Server::Start({.listen = "127.0.0.1:0", .metrics_address = "127.0.0.1:0"}, engine);
  ASSERT_OK(server);
  const auto status = [&](const std::string& path, const std::string& host) {
    return HttpGet((*server)->metrics_port(), path, "Accept: */*\r\nHost: " + host + "\r\n").substr(9, 3);
  };
  for (const std::string host :
       {"127.0.0.1:9464", "localhost:9464", "LOCALHOST", "10.1.2.3", "[::1]:9464", "[fe80::1]"}) {
    EXPECT_EQ(status("/debug", host), "200") << host;
  }
  for (const std::string host :
       {"evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", "[", "[::1", "1"}) {
    EXPECT_EQ(status("/debug", host), "421") << host;
    EXPECT_EQ(status("/debug/session?id=book", host), "421") << host;
    EXPECT_EQ(status("/metrics", host), "200") << host;
  }
}

TEST(Server, ItEndsWithCallsUnderWay) {
  FakeEngine engine;
  engine.AddSession("book");
  auto server = Server::Start({.listen = "127.0.0.1:0", .metrics_address = ""}, engine);
  ASSERT_OK(server);
  const auto stub = StubFor((*server)->port());
  TestStream stream(*stub);
  stream.Write(OpenRequest("book"));
  ASSERT_TRUE(stream.Read().has_opened());
  grpc::ClientContext context;
  v1::QueryRequest request;
  request.set_session_id("book");
  request.set_text("?");
  const auto reader = stub->Query(&context, request);
  engine.AwaitQueries(1);
  server->reset();
  EXPECT_FALSE(stream.Finish().ok());
  EXPECT_FALSE(reader->Finish().ok());
  engine.AwaitWriters(0);
  engine.AwaitQueries(0);
}

TEST(Server, AFullQueueOfBlockingCallsIsUnavailableAtOnce) {
  FakeEngine engine;
  const auto server = Server::Start(
      {.listen = "127.0.0.1:0", .metrics_address = "", .service = {.blocking_threads = 1, .max_blocking_waiting = 0}},
      engine);
  ASSERT_OK(server);
  const auto stub = StubFor((*server)->port());
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_session_id("book");
  v1::GetSessionResponse response;
  EXPECT_THAT(FromGrpc(stub->GetSession(&context, request, &response)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("try again")));
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after-ms"), 1);
}

TEST(BlockingCalls, RunsWhatItTookBeforeItEnds) {
  std::atomic<int> ran = 0;
  {
    BlockingCalls calls(2, 100);
    for (int i = 0; i < 50; ++i) EXPECT_TRUE(calls.Schedule([&] { ++ran; }));
    calls.Continue([&] { ++ran; });
  }
  EXPECT_EQ(ran, 51);
}

TEST(Log, ARecordIsOneLine) {
  EXPECT_EQ(FormatLogRecord(LogFormat::kText, absl::FromUnixMillis(1769860800123), LogLevel::kInfo, "serving\non",
                            {{"path", "a b"}, {"count", "12"}, {"empty", ""}}),
            "2026-01-31T12:00:00.123Z info serving\\non path=\"a b\" count=12 empty=\"\"");
}

}  // namespace
}  // namespace mnemosyne
