#include "server/metrics_endpoint.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"
#include "server/listening_socket.h"

namespace mnemosyne {
namespace {

constexpr size_t kMaxRequestBytes = 8192;
constexpr timeval kPatience = {.tv_sec = 2, .tv_usec = 0};  // with a client that does not go on

std::string ReadRequest(int connection) {
  std::string request;
  char buffer[1024];
  while (request.size() < kMaxRequestBytes && !absl::StrContains(request, "\r\n\r\n")) {
    const ssize_t bytes = recv(connection, buffer, sizeof(buffer), 0);
    if (bytes <= 0) break;
    request.append(buffer, bytes);
  }
  return request;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const std::string& address,
                                                                        std::shared_ptr<Metrics> metrics) {
  const absl::StatusOr<int> socket = ListenOn(address);
  if (!socket.ok()) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, " for metrics: ", socket.status().message()));
  }
  return absl::WrapUnique(new MetricsEndpoint(*socket, std::move(metrics)));
}

MetricsEndpoint::MetricsEndpoint(int socket, std::shared_ptr<Metrics> metrics)
    : socket_(socket), port_(PortOf(socket)), metrics_(std::move(metrics)), thread_([this] { Serve(); }) {}

MetricsEndpoint::~MetricsEndpoint() {
  shutdown(socket_, SHUT_RDWR);  // ends accept
  thread_.join();
  close(socket_);
}

void MetricsEndpoint::Serve() {
  while (true) {
    const int connection = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno == EINVAL) return;  // shut down
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) usleep(100000);
      continue;
    }
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof(kPatience));
    Answer(connection);
    close(connection);
  }
}

void MetricsEndpoint::Answer(int connection) const {
  const std::string request = ReadRequest(connection);
  const bool found = absl::StartsWith(request, "GET /metrics ") || absl::StartsWith(request, "GET /metrics?");
  const std::string body = found ? prometheus::TextSerializer().Serialize(metrics_->Collect()) : "see /metrics\n";
  const std::string answer =
      absl::StrCat("HTTP/1.1 ", found ? "200 OK" : "404 Not Found", "\r\nContent-Type: text/plain; version=0.0.4\r\n",
                   "Content-Length: ", body.size(), "\r\nConnection: close\r\n\r\n", body);
  for (size_t at = 0; at < answer.size();) {
    const ssize_t bytes = send(connection, answer.data() + at, answer.size() - at, MSG_NOSIGNAL);
    if (bytes <= 0) return;
    at += bytes;
  }
}

}  // namespace mnemosyne
