// mnemosyned as a process of its own, which can be killed and looked at from outside.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

extern char** environ;

namespace mnemosyne {

class ServerProcess {
 public:
  // Starts `program` with the flags and port 0, and waits until it serves. port() is 0 when it does not.
  ServerProcess(const std::string& program, std::vector<std::string> flags) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    flags.insert(flags.begin(), {program, "--listen=127.0.0.1:0", "--metrics_address="});
    std::vector<char*> arguments;
    for (std::string& flag : flags) arguments.push_back(flag.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    FILE* log = fdopen(ends[0], "r");
    char line[4096];
    constexpr char kServing[] = "serving on ";
    while (port_ == 0 && std::fgets(line, sizeof(line), log) != nullptr) {
      log_ += line;
      const std::string text = line;
      if (const size_t at = text.find(kServing); at != std::string::npos) {
        port_ = std::atoi(text.substr(text.rfind(':') + 1).c_str());
      }
    }
    // What it logs from now on is read too, or it would wait for a reader.
    reader_ = std::thread([log] {
      char rest[4096];
      while (std::fgets(rest, sizeof(rest), log) != nullptr) {
      }
      std::fclose(log);
    });
  }
  ~ServerProcess() {
    if (pid_ > 0) Stop(SIGKILL);
    reader_.join();
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  int port() const { return port_; }
  const std::string& log() const { return log_; }  // until it served
  void Signal(int signal) { kill(pid_, signal); }
  int Stop(int signal) {  // the wait status
    kill(pid_, signal);
    return Wait();
  }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return status;
  }
  // From /proc: VmRSS or VmHWM, in bytes.
  int64_t MemoryBytes(absl::string_view field) const {
    std::ifstream in(absl::StrCat("/proc/", pid_, "/status"));
    for (std::string line; std::getline(in, line);) {
      int64_t kibibytes = 0;
      if (absl::StartsWith(line, absl::StrCat(field, ":"))) {
        EXPECT_EQ(std::sscanf(line.c_str() + field.size() + 1, "%ld", &kibibytes), 1);
        return kibibytes * 1024;
      }
    }
    return 0;
  }

 private:
  pid_t pid_ = 0;
  int port_ = 0;
  std::string log_;
  std::thread reader_;
};

}  // namespace mnemosyne
