#include "server/server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"

namespace mnemosyne {
namespace {

// A message holds an append or a prompt: a token id counts 4 bytes there and takes up to 10 here, and there is more to
// a message than its content. What is larger is refused by gRPC with RESOURCE_EXHAUSTED before it is read.
int MaxMessageBytes(const Engine::Options& options) {
  const int64_t content = std::max(options.max_append_bytes, 4 * options.max_prompt_tokens);
  const int64_t bytes = std::min(content, int64_t{1} << 30) / 4 * 10 + 65536;
  return static_cast<int>(std::min<int64_t>(bytes, std::numeric_limits<int>::max()));
}

// gRPC says that it could not bind, not why: asks the system again.
std::string WhyNotBound(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return "the address has no port";
  std::string host = address.substr(0, colon);
  if (host.size() > 1 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.empty() ? nullptr : host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (code != 0) return gai_strerror(code);
  std::string reason = "no reason given";
  const int fd = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
  const int on = 1;
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
    reason = errno == EADDRINUSE ? "address in use" : std::strerror(errno);
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return reason;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options, Engine& engine) {
  std::unique_ptr<Server> server = absl::WrapUnique(new Server(options, engine));
  RETURN_IF_ERROR(server->Listen(options));
  return server;
}

Server::Server(const Options& options, Engine& engine)
    : engine_(engine), metrics_(std::make_shared<Metrics>(engine)), service_(engine, *metrics_, options.service) {}

absl::Status Server::Listen(const Options& options) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&service_);
  builder.SetMaxReceiveMessageSize(MaxMessageBytes(engine_.options()));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port is an error
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60 * 1000);  // a client that vanished is found out
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10 * 1000);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen, ": ", WhyNotBound(options.listen)));
  }
  server_->GetHealthCheckService()->SetServingStatus(v1::MemoryService::service_full_name(), true);
  if (!options.metrics_address.empty()) {
    ASSIGN_OR_RETURN(metrics_endpoint_, MetricsEndpoint::Start(options.metrics_address, metrics_));
  }
  return absl::OkStatus();
}

Server::~Server() { Shutdown(absl::Now()); }

absl::Status Server::Drain(absl::Time deadline) {
  server_->GetHealthCheckService()->SetServingStatus(false);
  const absl::Status drained = engine_.Drain(deadline);
  service_.EndStreams(absl::UnavailableError("the server is draining; what was acknowledged as durable is kept"));
  Shutdown(std::max(deadline, absl::Now() + absl::Seconds(1)));  // at least a moment for the last messages to go out
  return drained;
}

void Server::Shutdown(absl::Time deadline) {
  if (server_ == nullptr) return;
  service_.EndStreams(absl::UnavailableError("the server is shutting down"));
  server_->Shutdown(absl::ToChronoTime(deadline));
}

}  // namespace mnemosyne
