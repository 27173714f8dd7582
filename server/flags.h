// The flags of mnemosyned, checked: docs/server.md lists them.
//
//   ASSIGN_OR_RETURN(ServerFlags flags, ParseServerFlags({"--listen=127.0.0.1:0", "--max_append_bytes=4MiB"},
//   environment));
//
// A value comes from the command line, else from a --flagfile named there (a flag a line; # begins a comment), else
// from the environment (MNEMOSYNE_LISTEN for --listen), else it is the default. INVALID_ARGUMENT names the flag or the
// variable, its value, and what it may be; an unknown flag or MNEMOSYNE_ variable is refused the same way.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "core/engine/engine.h"
#include "server/server.h"

namespace mnemosyne {

struct ServerFlags {
  Engine::Options engine;  // models empty: FindDefaultModel
  Server::Options server;
  std::string access_file;      // empty: everyone may do everything
  bool allow_insecure = false;  // listen in the clear where other machines reach it
  bool json_log = false;
  absl::optional<bool> debug_page;  // unset: where only this machine reaches the metrics' address
  absl::Duration drain_timeout = absl::Seconds(30);
  bool help = false;
  bool version = false;
};

// `arguments` without the program's name; `environment` as NAME=value, whatever does not begin with MNEMOSYNE_ is left
// alone.
absl::StatusOr<ServerFlags> ParseServerFlags(const std::vector<std::string>& arguments,
                                             const std::vector<std::string>& environment);

// What --help prints.
std::string ServerFlagsHelp();

// "65536", "64KiB", "1.5GiB": bytes. "recall=PATH,other=PATH": models, the first is the default.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);
absl::StatusOr<std::vector<Engine::ModelSource>> ParseModels(absl::string_view text);

// The folder of the model that comes with Mnemosyne, looked for from the program's folder in a build tree, an
// installation and the current folder. NOT_FOUND lists the places.
absl::StatusOr<std::string> FindDefaultModel(const std::string& program_folder);

}  // namespace mnemosyne
