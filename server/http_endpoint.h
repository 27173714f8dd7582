// Serves pages over HTTP to those who watch the server: GET only, one request at a time, each on a connection of its
// own.
//
// prometheus-cpp has a server for this, whose threads have stacks of 100 KiB: next to LibTorch, whose thread-local data
// is larger than that, none of them can be started.
//
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace mnemosyne {

struct HttpPage {
  std::string content_type;
  std::string body;
  int status = 200;  // or 421, 503
};

struct HttpRequest {
  absl::string_view target;  // "/metrics", "/debug/session?id=book"
  absl::string_view host;    // what the client calls this server, without a port; empty: it does not say
};

class HttpEndpoint {
 public:
  // The page that a request gets; nullopt: 404. Called on the endpoint's thread.
  using Pages = std::function<absl::optional<HttpPage>(const HttpRequest& request)>;

  // `address` as host:port; port 0 takes a free one. UNAVAILABLE names an address that cannot be listened on, and why.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Start(const std::string& address, Pages pages);
  ~HttpEndpoint();
  int port() const { return port_; }

 private:
  HttpEndpoint(int socket, Pages pages);
  void Serve();
  void Answer(int connection) const;

  const int socket_;
  const int port_;
  const Pages pages_;
  std::thread thread_;  // last: it uses the members above
};

// Whether `host` is an address or localhost. A web page of elsewhere that has its own name point here, and would read
// what the browser's user may read (DNS rebinding), calls the server by that name.
bool IsAddressOrLocalhost(absl::string_view host);

// The value of `key` in a target's query, decoded; empty when it is not there.
std::string QueryValue(absl::string_view target, absl::string_view key);

}  // namespace mnemosyne
