// Serves metrics over HTTP: GET /metrics, one scrape at a time, each on a connection of its own.
//
// prometheus-cpp has a server for this, whose threads have stacks of 100 KiB: next to LibTorch, whose thread-local data
// is larger than that, none of them can be started.
//
// Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/metrics.h"

namespace mnemosyne {

class MetricsEndpoint {
 public:
  // `address` as host:port; port 0 takes a free one. UNAVAILABLE names an address that cannot be listened on, and why.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const std::string& address,
                                                                std::shared_ptr<Metrics> metrics);
  ~MetricsEndpoint();
  int port() const { return port_; }

 private:
  MetricsEndpoint(int socket, std::shared_ptr<Metrics> metrics);
  void Serve();
  void Answer(int connection) const;

  const int socket_;
  const int port_;
  const std::shared_ptr<Metrics> metrics_;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace mnemosyne
