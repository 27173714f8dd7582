// The gRPC server: MemoryService, health, reflection, metrics, and an end in order.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::Start({.listen = "127.0.0.1:0"}, *engine));
//   server->port();
//   RETURN_IF_ERROR(server->Drain(absl::Now() + absl::Seconds(30)));
//
// Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "core/engine/engine.h"
#include "grpcpp/server.h"
#include "server/access/access_control.h"
#include "server/access/audit_log.h"
#include "server/access/tls.h"
#include "server/admin_service.h"
#include "server/http_endpoint.h"
#include "server/memory_service.h"
#include "server/metrics.h"

namespace mnemosyne {

class Server {
 public:
  struct Options {
    std::string version = "unknown";                 // for the metrics
    std::string listen = "127.0.0.1:50051";          // host:port; port 0 takes a free one
    std::string metrics_address = "127.0.0.1:9464";  // as above; empty: no metrics over HTTP
    bool debug_page = true;      // with the metrics: sessions' ids and how they fare, for everyone who asks
    TlsFiles tls;                // empty: in the clear
    std::string audit_log_path;  // empty: none
    int max_streams_per_connection = 1024;
    int max_metadata_bytes = 16384;                                // of a call's headers
    absl::Duration max_connection_age = absl::InfiniteDuration();  // then the client is asked to connect anew
    MemoryService::Options service;
  };
  // `engine` must outlive the server, and `access`; null: everyone may do everything. UNAVAILABLE names an address that
  // cannot be listened on, and why; INVALID_ARGUMENT a file for TLS.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options, Engine& engine,
                                                       std::shared_ptr<const AccessControl> access = nullptr);
  // Cancels the calls that are still under way; Drain first to end in order.
  ~Server();

  int port() const { return port_; }
  int metrics_port() const { return metrics_endpoint_ == nullptr ? 0 : metrics_endpoint_->port(); }

  // Health and /healthz of the metrics' port say so; the engine drains: queries are answered, what was accepted is
  // stored; streams end with UNAVAILABLE; the server stops, and cancels what is left at `deadline`. Waits. The engine's
  // status.
  absl::Status Drain(absl::Time deadline);

 private:
  Server(const Options& options, Engine& engine, std::shared_ptr<const AccessControl> access,
         std::unique_ptr<AuditLog> audit_log, std::unique_ptr<TlsCertificates> tls);
  Metrics::Sources SourcesOfMetrics(const Options& options) const;
  absl::Status Listen(const Options& options);
  absl::optional<HttpPage> PageOf(const HttpRequest& request, bool has_debug) const;
  void Shutdown(absl::Time deadline);

  Engine& engine_;
  const std::shared_ptr<const AccessControl> access_;
  const std::unique_ptr<AuditLog> audit_log_;
  const std::unique_ptr<TlsCertificates> tls_;  // null: in the clear
  const std::shared_ptr<Metrics> metrics_;
  MemoryService service_;
  AdminService admin_service_;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<bool> draining_ = false;
  std::unique_ptr<HttpEndpoint> metrics_endpoint_;  // last but for numbers: it asks the members above
  int port_ = 0;
};

}  // namespace mnemosyne
