// What the proofs share: their two forms.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

namespace mnemosyne {

// MNEMOSYNE_TORTURE=1: the long form, of hours. Otherwise the short one, of seconds.
inline bool IsLongForm() {
  const char* given = std::getenv("MNEMOSYNE_TORTURE");
  return given != nullptr && std::string(given) != "" && std::string(given) != "0";
}

}  // namespace mnemosyne
