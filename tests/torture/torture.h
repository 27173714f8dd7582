// What the proofs share: their two forms.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"

namespace mnemosyne {

// MNEMOSYNE_TORTURE=1: the long form, of hours. Otherwise the short one, of seconds.
inline bool IsLongForm() {
  const char* given = std::getenv("MNEMOSYNE_TORTURE");
  return given != nullptr && std::string(given) != "" && std::string(given) != "0";
}

// How many random cases: MNEMOSYNE_TORTURE_CASES, or what the form has. Case i takes the test's seed + i.
inline int64_t Cases(int64_t short_form, int64_t long_form) {
  const char* given = std::getenv("MNEMOSYNE_TORTURE_CASES");
  return given != nullptr ? std::atoll(given) : IsLongForm() ? long_form : short_form;
}

// What repeats one case alone.
inline std::string Repeat(uint64_t case_seed) {
  return absl::StrCat("repeat with ", IsLongForm() ? "MNEMOSYNE_TORTURE=1 " : "", "MNEMOSYNE_TORTURE_CASES=1 ",
                      "MNEMOSYNE_TEST_SEED=", case_seed, "\n");
}

}  // namespace mnemosyne
