// A TCP socket that listens.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace mnemosyne {

// Listens on host:port or [ipv6]:port; port 0 takes a free one. The caller closes the descriptor. UNAVAILABLE says why
// not: "address in use".
absl::StatusOr<int> ListenOn(const std::string& address);

// Whether only this machine reaches the address: "localhost:1", "127.0.0.1:1", "[::1]:1".
bool IsLoopback(const std::string& address);

int PortOf(int socket);

}  // namespace mnemosyne
