// The commands of `mnemo`, over any streams: main() brings the terminal, tests bring strings.
#pragma once

#include <ostream>

#include "absl/status/status.h"
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
};

// Runs one command to its end; what it says goes to the terminal, why it failed is the result. CANCELLED: interrupted.
absl::Status RunCommand(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal);

// `mnemo stream`, which is most of the work.
absl::Status RunStream(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal);

}  // namespace mnemosyne::client
