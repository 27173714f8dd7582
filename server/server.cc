#include "server/server.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "prometheus/text_serializer.h"
#include "server/debug_page.h"
#include "server/listening_socket.h"

namespace mnemosyne {
namespace {

constexpr char kHtml[] = "text/html; charset=utf-8";

// A message holds an append or a prompt: a token id counts 4 bytes there and takes up to 10 here, and there is more to
// a message than its content. What is larger is refused by gRPC with RESOURCE_EXHAUSTED before it is read.
int MaxMessageBytes(const Engine::Options& options) {
  constexpr int64_t kLeast = 1 << 20;  // a part of an import
  const int64_t content = std::max({kLeast, options.max_append_bytes, 4 * options.max_prompt_tokens});
  const int64_t bytes = std::min(content, int64_t{1} << 30) / 4 * 10 + 65536;
  return static_cast<int>(std::min<int64_t>(bytes, std::numeric_limits<int>::max()));
}

// gRPC says that it could not bind, not why: asks the system again.
std::string WhyNotBound(const std::string& address) {
  const absl::StatusOr<int> socket = ListenOn(address);
  if (!socket.ok()) return std::string(socket.status().message());
  close(*socket);
  return "no reason given";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options, Engine& engine,
                                                      std::shared_ptr<const AccessControl> access) {
  if (access == nullptr) {
    ASSIGN_OR_RETURN(access, AccessControl::Start(""));
  }
  std::unique_ptr<AuditLog> audit_log;
  if (!options.audit_log_path.empty()) {
    ASSIGN_OR_RETURN(audit_log, AuditLog::Open(options.audit_log_path));
  }
  std::unique_ptr<TlsCertificates> tls;
  if (!options.tls.certificate.empty()) {
    ASSIGN_OR_RETURN(tls, TlsCertificates::Start(options.tls));
  }
  std::unique_ptr<Server> server =
      absl::WrapUnique(new Server(options, engine, std::move(access), std::move(audit_log), std::move(tls)));
  RETURN_IF_ERROR(server->Listen(options));
  return server;
}

Server::Server(const Options& options, Engine& engine, std::shared_ptr<const AccessControl> access,
               std::unique_ptr<AuditLog> audit_log, std::unique_ptr<TlsCertificates> tls)
    : engine_(engine),
      access_(std::move(access)),
      audit_log_(std::move(audit_log)),
      tls_(std::move(tls)),
      metrics_(std::make_shared<Metrics>(engine, SourcesOfMetrics(options))),
      service_(engine, *metrics_, *access_, audit_log_.get(), options.service),
      admin_service_(service_.environment()) {}

Metrics::Sources Server::SourcesOfMetrics(const Options& options) const {
  Metrics::Sources sources = {.version = options.version};
  if (audit_log_ != nullptr) sources.audit_failures = [this] { return audit_log_->failures(); };
  if (tls_ != nullptr) {
    sources.tls_reloads = [this](bool succeeded) { return tls_->reloads(succeeded); };
    sources.tls_not_after = [this] { return tls_->not_after(); };
  }
  if (!access_->is_open()) {
    sources.access_reloads = [this](bool succeeded) { return access_->reloads(succeeded); };
    sources.tenant_uses = [this] { return service_.tenant_uses(); };
  }
  return sources;
}

absl::Status Server::Listen(const Options& options) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, tls_ == nullptr ? grpc::InsecureServerCredentials() : tls_->credentials(),
                           &port_);
  builder.RegisterService(&service_);
  builder.RegisterService(&admin_service_);
  builder.SetMaxReceiveMessageSize(MaxMessageBytes(engine_.options()));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port is an error
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.max_metadata_bytes);
  if (options.max_connection_age != absl::InfiniteDuration()) {
    // Calls under way go on for as long as they take: the age is for spreading clients over servers.
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                               static_cast<int>(absl::ToInt64Milliseconds(options.max_connection_age)));
  }
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60 * 1000);  // a client that vanished is found out
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10 * 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);  // a client that pings more often is cut off
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen, ": ", WhyNotBound(options.listen)));
  }
  server_->GetHealthCheckService()->SetServingStatus(v1::MemoryService::service_full_name(), true);
  if (!options.metrics_address.empty()) {
    ASSIGN_OR_RETURN(metrics_endpoint_,
                     HttpEndpoint::Start(options.metrics_address,
                                         [this, has_debug = options.debug_page](const HttpRequest& request) {
                                           return PageOf(request, has_debug);
                                         }));
  }
  return absl::OkStatus();
}

absl::optional<HttpPage> Server::PageOf(const HttpRequest& request, bool has_debug) const {
  const absl::string_view path = request.target.substr(0, request.target.find('?'));
  if (path == "/metrics") {
    return HttpPage{"text/plain; version=0.0.4; charset=utf-8",
                    prometheus::TextSerializer().Serialize(metrics_->Collect())};
  }
  if (path == "/healthz") {
    const bool drains = draining_;
    return HttpPage{"text/plain; charset=utf-8", drains ? "draining\n" : "serving\n", drains ? 503 : 200};
  }
  if (!has_debug || (path != "/debug" && path != "/debug/session")) return absl::nullopt;
  if (!request.host.empty() && !IsAddressOrLocalhost(request.host)) {
    return HttpPage{"text/plain; charset=utf-8", "call this server by an address or localhost\n", 421};
  }
  if (path == "/debug") return HttpPage{kHtml, DebugPage(engine_, service_.calls())};
  return HttpPage{kHtml, SessionDebugPage(engine_, QueryValue(request.target, "id"))};
}

Server::~Server() { Shutdown(absl::Now()); }

absl::Status Server::Drain(absl::Time deadline) {
  draining_ = true;
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
