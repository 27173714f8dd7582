// How a fuzz target tells that a promise is broken: libFuzzer keeps the input of a run that aborts.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

inline void Require(bool holds, absl::string_view promise) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %.*s\n", static_cast<int>(promise.size()), promise.data());
  std::abort();
}

// An error has one of the codes that its header names, and says something.
inline void RequireError(const absl::Status& status, std::initializer_list<absl::StatusCode> codes) {
  bool is_named = false;
  for (const absl::StatusCode code : codes) is_named |= status.code() == code;
  if (!is_named) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  Require(is_named, "the error's code is one that the header names");
  Require(!status.message().empty(), "an error has a message");
}

}  // namespace mnemosyne
