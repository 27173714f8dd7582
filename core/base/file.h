// Whole files in and out.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

// NOT_FOUND when the file is missing, PERMISSION_DENIED when it cannot be opened, INTERNAL when a read fails.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Replaces the file whole: written beside it, fsynced, renamed. A crash leaves the old file or the new one.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes);

}  // namespace mnemosyne
