// mnemo: the command-line client. Wiring only.
#include <signal.h>
#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/command_line.h"
#include "client/commands.h"
#include "client/error_text.h"
#include "client/interrupt.h"

namespace mnemosyne::client {
namespace {

int Main(const std::vector<std::string>& arguments) {
  absl::StatusOr<CommandLine> line = ParseCommandLine(arguments);
  if (!line.ok()) {
    std::cerr << "mnemo: " << line.status().message() << std::endl;
    return kExitUsage;
  }
  if (line->command == "help") {
    std::cout << HelpText();
    return kExitDone;
  }
  signal(SIGPIPE, SIG_IGN);
  absl::StatusOr<std::unique_ptr<Client>> client =
      Client::Connect(line->server, {.tls = line->tls, .token = line->token, .connect_timeout = line->connect_timeout});
  absl::Status status = client.status();
  if (status.ok()) {
    Interrupt interrupt;
    const Terminal terminal = {.out = std::cout,
                               .err = std::cerr,
                               .input = STDIN_FILENO,
                               .shows_progress = isatty(STDERR_FILENO) != 0,
                               .prompts = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0,
                               .out_is_terminal = isatty(STDOUT_FILENO) != 0};
    status = RunCommand(*line, client->get(), &interrupt, terminal);
    interrupt.SetAction(nullptr);
    if (absl::IsCancelled(status) && !interrupt.happened()) status = absl::UnavailableError(status.message());
  }
  if (!status.ok()) std::cerr << "mnemo: " << ErrorText(*line, status) << std::endl;
  std::cout.flush();
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace mnemosyne::client

int main(int argc, char** argv) { return mnemosyne::client::Main(std::vector<std::string>(argv + 1, argv + argc)); }
