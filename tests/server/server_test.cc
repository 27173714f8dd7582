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
std::string HttpGet(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
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
