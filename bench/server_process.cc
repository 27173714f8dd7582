#include "bench/server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {

// "... serving on 127.0.0.1:50051"; empty: not yet.
std::string AddressIn(absl::string_view log) {
  constexpr absl::string_view kSaid = "serving on ";
  for (const absl::string_view line : absl::StrSplit(log, '\n')) {
    const size_t found = line.find(kSaid);
    if (found == absl::string_view::npos) continue;
    return std::string(absl::StripSuffix(line.substr(found + kSaid.size()), "\""));
  }
  return "";
}

}  // namespace

absl::StatusOr<ServerProcess> ServerProcess::Start(const std::string& program, const std::string& folder,
                                                   const std::vector<std::string>& flags) {
  const std::string log = folder + "/log";
  std::vector<std::string> words = {program, absl::StrCat("--data=", folder, "/data"), "--listen=127.0.0.1:0",
                                    "--metrics_address="};
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ServerProcess server;
  const absl::Time begin = absl::Now();
  const int failed = posix_spawnp(&server.pid_, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    server.pid_ = 0;
    return absl::NotFoundError(absl::StrCat("cannot start '", program, "': ", std::strerror(failed)));
  }
  std::string said;
  while (absl::Now() < begin + absl::Seconds(30)) {
    if (waitpid(server.pid_, nullptr, WNOHANG) != 0) {
      server.pid_ = 0;  // it has ended
      break;
    }
    if (absl::StatusOr<std::string> text = ReadFile(log); text.ok()) said = *std::move(text);
    // The whole line, and not the beginning of a port.
    server.address_ = AddressIn(absl::string_view(said).substr(0, said.rfind('\n') + 1));
    if (!server.address_.empty()) {
      server.time_to_serving_ = absl::Now() - begin;
      return server;
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  if (absl::StatusOr<std::string> text = ReadFile(log); text.ok()) said = *std::move(text);
  return absl::UnavailableError(absl::StrCat("'", program, "' does not serve; it said: ", said));
}

int64_t ServerProcess::resident_bytes() const {
  const absl::StatusOr<std::string> status = ReadFile(absl::StrCat("/proc/", pid_, "/status"));
  if (!status.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*status, '\n')) {
    int64_t kilobytes = 0;
    if (absl::ConsumePrefix(&line, "VmRSS:") && absl::ConsumeSuffix(&line, "kB") &&
        absl::SimpleAtoi(absl::StripAsciiWhitespace(line), &kilobytes)) {
      return kilobytes << 10;
    }
  }
  return 0;
}

double ServerProcess::cpu_seconds(absl::string_view thread_name) const {
  double seconds = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid_, "/task"), error)) {
    const absl::StatusOr<std::string> name = ReadFile(entry.path().string() + "/comm");
    const absl::StatusOr<std::string> times = ReadFile(entry.path().string() + "/schedstat");
    if (!name.ok() || !times.ok()) continue;  // the thread has ended
    if (!thread_name.empty() && absl::StripAsciiWhitespace(*name) != thread_name) continue;
    int64_t nanoseconds = 0;  // on a processor; then those of waiting for one
    if (absl::SimpleAtoi(times->substr(0, times->find(' ')), &nanoseconds)) seconds += 1e-9 * nanoseconds;
  }
  return seconds;
}

void ServerProcess::Kill() {
  if (pid_ == 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

}  // namespace mnemosyne
