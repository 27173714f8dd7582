// What was typed after `mnemo`: a command, its arguments and the flags.
//
//   ASSIGN_OR_RETURN(CommandLine line, ParseCommandLine({"query", "book", "Where", "is", "it?", "--json"}));
//   line.command;    // "query"
//   line.arguments;  // {"book", "Where", "is", "it?"}
//
// Flags may stand anywhere before a "--"; what follows one is never a flag. The flags themselves are global
// (absl::Flag): parse once a process, or under an absl::FlagSaver.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/client.h"

namespace mnemosyne::client {

struct CommandLine {
  std::string command;
  std::vector<std::string> arguments;
  std::string server;
  absl::optional<Tls> tls;
  std::string token;
  absl::Duration connect_timeout;
  absl::Duration timeout;  // of one question
  bool json = false;
  bool verbose = false;
  std::string model;
  Labels labels;
  bool resume = false;
  bool take_over = false;
  DeliveryLevel wait = DeliveryLevel::kMemorized;  // what a stream waits for before it ends
  absl::optional<int64_t> offset;
  std::string session;         // --session of an import
  int64_t begin = 0, end = 0;  // the span of an erasure
  bool has_labels = false;     // --label was given
  SessionSettings settings;
  QueryOptions query;
};

// INVALID_ARGUMENT, in a sentence for the user: an unknown command or flag, a value that does not fit, too few or too
// many arguments. `arguments` are without the program's name.
absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments);

// What --help prints.
absl::string_view HelpText();

}  // namespace mnemosyne::client
