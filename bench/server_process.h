// A mnemosyned of one's own: started over a data folder, on a port that it chooses, and killed at the end.
//
//   ASSIGN_OR_RETURN(ServerProcess server, ServerProcess::Start("build/release/bin/mnemosyned", folder,
//   {"--workers=2"})); ASSIGN_OR_RETURN(auto client, client::Client::Connect(server.address(), {}));
//
// Thread-compatible.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mnemosyne {

class ServerProcess {
 public:
  // Returns when it serves. `folder` exists; data and log of the server go into it. The status tells the server's
  // log when it does not come up within half a minute.
  static absl::StatusOr<ServerProcess> Start(const std::string& program, const std::string& folder,
                                             const std::vector<std::string>& flags);
  ServerProcess(ServerProcess&& other) noexcept { *this = std::move(other); }
  ServerProcess& operator=(ServerProcess&& other) noexcept {
    std::swap(pid_, other.pid_);
    address_ = other.address_;
    time_to_serving_ = other.time_to_serving_;
    return *this;
  }
  ~ServerProcess() { Kill(); }

  const std::string& address() const { return address_; }
  absl::Duration time_to_serving() const { return time_to_serving_; }  // from the process's start
  int64_t resident_bytes() const;                                      // of physical memory now
  // Of processor time that threads of that name have taken; of all with "".
  double cpu_seconds(absl::string_view thread_name) const;
  void Kill();  // as kill -9 does

 private:
  ServerProcess() = default;
  pid_t pid_ = 0;
  std::string address_;
  absl::Duration time_to_serving_;
};

}  // namespace mnemosyne
