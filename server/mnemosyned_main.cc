// mnemosyned: the server. Wiring only; docs/server.md has the flags and the exit codes.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/engine/engine.h"
#include "server/access/access_control.h"
#include "server/flags.h"
#include "server/log.h"
#include "server/server.h"

namespace mnemosyne {
namespace {

constexpr char kVersion[] = MNEMOSYNE_VERSION;
constexpr int kCannotStart = 1, kUsage = 2, kSecondSignal = 130;

// The first SIGTERM or SIGINT makes AwaitSignal return; a second one ends the process at once. Handlers, as a mask
// would not reach the threads that libraries start before main.
int signal_pipe[2] = {-1, -1};
std::atomic<int> signals_seen = 0;

extern "C" void OnSignal(int) {
  if (signals_seen.fetch_add(1) > 0) _exit(kSecondSignal);
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(signal_pipe[1], &byte, 1);  // an empty pipe has room
}

bool WatchSignals() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  return pipe2(signal_pipe, O_CLOEXEC) == 0 && sigaction(SIGTERM, &action, nullptr) == 0 &&
         sigaction(SIGINT, &action, nullptr) == 0;
}

void AwaitSignal() {
  char byte = 0;
  while (read(signal_pipe[0], &byte, 1) < 0 && errno == EINTR) {
  }
}

absl::Status AddDefaultModel(Engine::Options* options) {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  ASSIGN_OR_RETURN(const std::string folder, FindDefaultModel(error ? "." : program.parent_path().string()));
  options->models.push_back({.name = "recall", .folder = folder});
  return absl::OkStatus();
}

std::string WithPort(const std::string& address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

absl::Status Serve(ServerFlags flags) {
  if (flags.json_log) LogAsJson();
  flags.server.version = kVersion;
  ASSIGN_OR_RETURN(const std::shared_ptr<AccessControl> access, AccessControl::Start(flags.access_file));
  flags.engine.tenant_limits = [access](absl::string_view tenant) { return access->QuotasOf(tenant).sessions; };
  if (flags.engine.models.empty()) RETURN_IF_ERROR(AddDefaultModel(&flags.engine));
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Start(flags.engine));
  const TlsFiles& tls = flags.server.tls;
  Log(LogLevel::kInfo, "mnemosyned",
      {{"version", kVersion},
       {"blas", engine->blas()},
       {"device", flags.engine.device},
       {"tls", tls.certificate.empty() ? "off"
               : tls.client_ca.empty() ? "on"
                                       : "mutual"},
       {"access", flags.access_file.empty() ? "open" : "token"}});
  for (const ModelInfo& model : engine->models()) {
    Log(LogLevel::kInfo, "model loaded",
        {{"name", model.name},
         {"fingerprint", model.fingerprint},
         {"parameters", absl::StrCat(model.parameter_count)},
         {"state_bytes", absl::StrCat(model.state_bytes)}});
  }
  Log(LogLevel::kInfo, "data folder opened",
      {{"path", flags.engine.data_path}, {"sessions", absl::StrCat(engine->stats().sessions)}});
  ASSIGN_OR_RETURN(const std::unique_ptr<Server> server, Server::Start(flags.server, *engine, access));
  if (!flags.server.metrics_address.empty()) {
    Log(LogLevel::kInfo,
        absl::StrCat("metrics on ", WithPort(flags.server.metrics_address, server->metrics_port()), "/metrics"));
  }
  Log(LogLevel::kInfo, absl::StrCat("serving on ", WithPort(flags.server.listen, server->port())));
  AwaitSignal();
  Log(LogLevel::kInfo, "draining", {{"timeout", absl::FormatDuration(flags.drain_timeout)}});
  const absl::Time begin = absl::Now();
  const absl::Status drained = server->Drain(begin + flags.drain_timeout);
  if (!drained.ok()) {
    Log(LogLevel::kWarning, "the drain is not complete; what was acknowledged as durable is kept",
        {{"reason", drained.ToString()}});
  }
  Log(LogLevel::kInfo, "stopped", {{"drain_seconds", absl::StrCat(absl::ToDoubleSeconds(absl::Now() - begin))}});
  return absl::OkStatus();
}

int Main(int argc, char** argv, char** environment) {
  std::vector<std::string> variables;
  for (char** variable = environment; *variable != nullptr; ++variable) variables.push_back(*variable);
  const absl::StatusOr<ServerFlags> flags = ParseServerFlags({argv + 1, argv + argc}, variables);
  if (!flags.ok()) {
    std::fprintf(stderr, "mnemosyned: %s\n", std::string(flags.status().message()).c_str());
    return kUsage;
  }
  if (flags->help || flags->version) {
    std::fputs(flags->help ? ServerFlagsHelp().c_str() : absl::StrCat("mnemosyned ", kVersion, "\n").c_str(), stdout);
    return 0;
  }
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);  // what goes wrong is in our own records
  const absl::Status status =
      WatchSignals() ? Serve(*flags) : absl::InternalError(absl::StrCat("signals: ", std::strerror(errno)));
  if (status.ok()) return 0;
  std::fprintf(stderr, "mnemosyned: %s\n", std::string(status.message()).c_str());
  return kCannotStart;
}

}  // namespace
}  // namespace mnemosyne

int main(int argc, char** argv, char** environment) { return mnemosyne::Main(argc, argv, environment); }
