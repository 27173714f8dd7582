#include "server/http_endpoint.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/thread_name.h"
#include "server/listening_socket.h"

namespace mnemosyne {
namespace {

constexpr size_t kMaxRequestBytes = 8192;
constexpr absl::Duration kPatience = absl::Seconds(2);  // with one connection, however it goes on: others wait

// Bounds the next read or write. False: the time is over.
bool SetTimeout(int connection, absl::Time deadline) {
  const absl::Duration left = deadline - absl::Now();
  if (left <= absl::ZeroDuration()) return false;
  const timeval timeout = absl::ToTimeval(std::max(left, absl::Milliseconds(1)));
  return setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0 &&
         setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0;
}

std::string ReadRequest(int connection, absl::Time deadline) {
  std::string request;
  char buffer[1024];
  while (request.size() < kMaxRequestBytes && !absl::StrContains(request, "\r\n\r\n") &&
         SetTimeout(connection, deadline)) {
    const ssize_t bytes = recv(connection, buffer, sizeof(buffer), 0);
    if (bytes <= 0) break;
    request.append(buffer, bytes);
  }
  return request;
}

absl::string_view StatusLine(int status) {
  switch (status) {
    case 200:
      return "200 OK";
    case 404:
      return "404 Not Found";
    case 421:
      return "421 Misdirected Request";
    default:
      return "503 Service Unavailable";
  }
}

// Of the header Host, without the port and an IPv6 address's brackets.
absl::string_view HostOf(absl::string_view request) {
  for (absl::string_view line : absl::StrSplit(request, "\r\n")) {
    if (line.empty()) break;
    if (!absl::StartsWithIgnoreCase(line, "host:")) continue;
    const absl::string_view host = absl::StripAsciiWhitespace(line.substr(5));
    const size_t bracket = host.find(']');
    if (absl::StartsWith(host, "[") && bracket != host.npos) return host.substr(1, bracket - 1);
    return host.substr(0, host.find(':', 1));
  }
  return "";
}

std::string Decoded(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && absl::ascii_isxdigit(text[i + 1]) &&
        absl::ascii_isxdigit(text[i + 2])) {
      out += absl::HexStringToBytes(text.substr(i + 1, 2));
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

}  // namespace

bool IsAddressOrLocalhost(absl::string_view host) {
  const std::string text(host);
  char address[sizeof(in6_addr)];
  return absl::EqualsIgnoreCase(host, "localhost") || inet_pton(AF_INET, text.c_str(), address) == 1 ||
         inet_pton(AF_INET6, text.c_str(), address) == 1;
}

std::string QueryValue(absl::string_view target, absl::string_view key) {
  const size_t question = target.find('?');
  if (question == absl::string_view::npos) return "";
  for (const absl::string_view pair : absl::StrSplit(target.substr(question + 1), '&')) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    if (parts.first == key) return Decoded(parts.second);
  }
  return "";
}

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Start(const std::string& address, Pages pages) {
  const absl::StatusOr<int> socket = ListenOn(address);
  if (!socket.ok()) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, " for metrics: ", socket.status().message()));
  }
  return absl::WrapUnique(new HttpEndpoint(*socket, std::move(pages)));
}

HttpEndpoint::HttpEndpoint(int socket, Pages pages)
    : socket_(socket), port_(PortOf(socket)), pages_(std::move(pages)), thread_([this] {
        NameThread("mn-http");
        Serve();
      }) {}

HttpEndpoint::~HttpEndpoint() {
  shutdown(socket_, SHUT_RDWR);  // ends accept
  thread_.join();
  close(socket_);
}

void HttpEndpoint::Serve() {
  while (true) {
    const int connection = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno == EINVAL) return;  // shut down
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) usleep(100000);
      continue;
    }
    Answer(connection);
    close(connection);
  }
}

void HttpEndpoint::Answer(int connection) const {
  const absl::Time deadline = absl::Now() + kPatience;
  const std::string request = ReadRequest(connection, deadline);
  const absl::string_view line = absl::string_view(request).substr(0, request.find("\r\n"));
  const std::vector<absl::string_view> parts = absl::StrSplit(line, ' ');
  absl::optional<HttpPage> page;
  if (parts.size() == 3 && parts[0] == "GET") page = pages_({.target = parts[1], .host = HostOf(request)});
  if (!page) page = HttpPage{"text/plain; charset=utf-8", "see /metrics\n", 404};
  // What a page says it is made of is all that a browser may take into it.
  const std::string answer = absl::StrCat(
      "HTTP/1.1 ", StatusLine(page->status), "\r\nContent-Type: ", page->content_type,
      "\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\nX-Content-Type-Options: nosniff",
      "\r\nCache-Control: no-store\r\nContent-Length: ", page->body.size(), "\r\nConnection: close\r\n\r\n",
      page->body);
  for (size_t at = 0; at < answer.size() && SetTimeout(connection, deadline);) {
    const ssize_t bytes = send(connection, answer.data() + at, answer.size() - at, MSG_NOSIGNAL);
    if (bytes <= 0) return;
    at += bytes;
  }
}

}  // namespace mnemosyne
