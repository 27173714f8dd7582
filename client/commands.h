// The commands of `mnemo`, over any streams: main() brings the terminal, tests bring strings.
#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "client/client.h"
#include "client/command_line.h"
#include "client/interrupt.h"

namespace mnemosyne::client {

struct Terminal {
  std::ostream& out;
  std::ostream& err;
  int input = 0;                // file that "-" and chat read
  bool shows_progress = false;  // err is a terminal
  bool prompts = false;         // input and out are terminals
  bool out_is_terminal = false;
};

// Runs one command to its end; what it says goes to the terminal, why it failed is the result. CANCELLED: interrupted.
absl::Status RunCommand(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal);

// `mnemo stream`, which is most of the work.
absl::Status RunStream(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal);

// What makes, changes, shows or deletes sessions.
absl::Status RunSessionCommand(const CommandLine& line, Client* client, const Terminal& terminal);

// `mnemo export`, `import` and `backup`. A file that is exported to is there whole, or as it was.
absl::Status RunTransfer(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal);

void PrintSession(const CommandLine& line, const SessionInfo& session, const Terminal& terminal);

// An open file that is read, and its size where it has one. "-" is the terminal's input.
struct Input {
  int file = -1;
  std::string name;
  absl::optional<int64_t> bytes;
};
absl::StatusOr<Input> OpenInput(const std::string& path, const Terminal& terminal);
void CloseInput(const Input& input, const Terminal& terminal);

}  // namespace mnemosyne::client
