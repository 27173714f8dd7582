// A mnemosyned of a test's own, in a process that can be killed.
//
//   ServerProcess server(MNEMOSYNED, {"--data=" + folder}, folder + "/log");
//   ASSERT_TRUE(server.WaitUntilItServes());
//   auto stub = server.Connect();
//   server.Kill();
//
// Bound to one thread, but for Signal.
#pragma once

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"

namespace mnemosyne {

class ServerProcess {
 public:
  // Starts it on a free port. What it logs goes to `log`, a file.
  ServerProcess(const std::string& program, std::vector<std::string> flags, std::string log) : log_(std::move(log)) {
    flags.insert(flags.begin(), {program, "--listen=127.0.0.1:0", "--metrics_address="});
    std::vector<char*> arguments, environment;
    for (std::string& flag : flags) arguments.push_back(flag.data());
    arguments.push_back(nullptr);
    for (char** variable = environ; *variable != nullptr; ++variable) {  // those of tests it would refuse
      if (!absl::StartsWith(*variable, "MNEMOSYNE_")) environment.push_back(*variable);
    }
    environment.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments.data(), environment.data()) != 0) pid_ = 0;
    posix_spawn_file_actions_destroy(&actions);
  }
  ~ServerProcess() { Kill(); }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // False: it ended, or did not serve within a minute; Log() says why.
  bool WaitUntilItServes() {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (absl::Now() < deadline && IsRunning()) {
      const std::string log = Log(), key = "serving on ";
      if (const size_t at = log.find(key); at != std::string::npos && log.find('\n', at) != std::string::npos) {
        address_ = log.substr(at + key.size(), log.find_first_of(" \"\n", at + key.size()) - at - key.size());
        return true;
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }
  std::unique_ptr<v1::MemoryService::Stub> Connect() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::MemoryService::NewStub(
        grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments));
  }

  bool IsRunning() {
    if (pid_ > 0 && waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ > 0;
  }
  void Signal(int number) const {
    if (pid_ > 0) kill(pid_, number);
  }
  // Returns when it is gone. False: it had ended before.
  bool Kill() {
    if (!IsRunning()) return false;
    kill(pid_, SIGKILL);
    waitpid(pid_, &status_, 0);
    pid_ = 0;
    return WIFSIGNALED(status_) && WTERMSIG(status_) == SIGKILL;
  }
  bool EndedWell() const { return pid_ == 0 && WIFEXITED(status_) && WEXITSTATUS(status_) == 0; }
  std::string Log() const { return ReadFile(log_).value_or(""); }
  // VmRSS or VmHWM of /proc, in bytes; 0 when it is gone.
  int64_t MemoryBytes(const std::string& field) const {
    const std::string status = ReadFile(absl::StrCat("/proc/", pid_, "/status")).value_or("");
    const size_t at = status.find(field + ":");
    return at == std::string::npos ? 0 : std::atoll(status.c_str() + at + field.size() + 1) * 1024;
  }

 private:
  const std::string log_;
  pid_t pid_ = 0;
  int status_ = 0;
  std::string address_;
};

}  // namespace mnemosyne
