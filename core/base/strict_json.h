// JSON text to a value, refusing what JSON parsers usually let through: a key that is there twice.
//
//   ASSIGN_OR_RETURN(nlohmann::json root, ParseStrictJson(text, "config"));
//
// INVALID_ARGUMENT: "config is not JSON: ...", "config key 'memory.heads' is there twice".
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace mnemosyne {

// `what` names the text in messages.
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text, absl::string_view what);

// A piece of an untrusted text that is fit for a message: bounded in length, printable, UTF-8.
std::string ForMessage(absl::string_view text);

}  // namespace mnemosyne
