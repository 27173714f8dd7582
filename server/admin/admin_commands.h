// The commands of mnemosyne-admin, over any streams (docs/operations.md).
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace mnemosyne {

inline constexpr int kAdminDone = 0, kAdminBad = 1, kAdminUsage = 2;

// `arguments` are without the program's name. What was found or done goes to `out`, why a command failed to `err`.
// Returns the exit code: kAdminBad also for damage that was found, or is left.
int RunAdmin(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err);

}  // namespace mnemosyne
