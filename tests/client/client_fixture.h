// A client of a fake server, whose streams lose no time when they connect again.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "client/client.h"
#include "tests/client/fake_memory_service.h"
#include "tests/status_matchers.h"

namespace mnemosyne::client {

inline std::unique_ptr<Client> ConnectTo(const FakeServer& fake) {
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(fake.target(), {});
  EXPECT_OK(client);
  return *std::move(client);
}

inline StreamOptions QuickOptions() {
  StreamOptions options;
  options.initial_backoff = absl::Milliseconds(1);
  options.max_backoff = absl::Milliseconds(5);
  options.reconnect_timeout = absl::Seconds(30);
  return options;
}

inline std::string Content(FakeServer& fake, const std::string& id) {
  absl::MutexLock lock(&fake.service.mutex);
  return fake.service.sessions[id].content;
}

}  // namespace mnemosyne::client
