// Errors for people: one line, and an exit code.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/command_line.h"

namespace mnemosyne::client {

inline constexpr int kExitDone = 0;
inline constexpr int kExitRefused = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnreachable = 3;
inline constexpr int kExitInterrupted = 130;

// What to print after "mnemo: ", without a line break.
std::string ErrorText(const CommandLine& line, const absl::Status& error);

int ExitCodeOf(const absl::Status& status);

}  // namespace mnemosyne::client
