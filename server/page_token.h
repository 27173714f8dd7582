// Page tokens of List calls: where the next page begins, tied to what was listed.
//
//   std::string token = PageToken("sessions", "book");
//   PageStart("sessions", token);  // "book"
//   PageStart("models", token);    // INVALID_ARGUMENT
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

// `list`: the method and its filter.
std::string PageToken(absl::string_view list, absl::string_view next);

// An empty token is the beginning. INVALID_ARGUMENT for a token that was not given for this list.
absl::StatusOr<std::string> PageStart(absl::string_view list, absl::string_view token);

}  // namespace mnemosyne
