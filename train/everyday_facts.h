// Facts as people tell them: families of sentences about persons, places, things, dates and codes.
//
//   const EverydayFamily& family = EverydayFamilies()[0];
//   absl::Substitute(family.statements[0], "Ada Berg", "14 March 1962");  // "Ada Berg was born on 14 March 1962."
//   absl::Substitute(family.questions[0], "Ada Berg");                    // "When was Ada Berg born?"
//
// The first kTaughtFamilies are trained on; the others are only asked about in evaluation, in words never seen.
#pragma once

#include <vector>

#include "absl/types/span.h"

namespace mnemosyne {

enum class Slot { kPerson, kPlace, kThing, kDate, kCode };

struct EverydayFamily {
  const char* name;
  Slot key, value;
  std::vector<const char*> statements;  // $0 key, $1 value, which comes last of the two
  std::vector<const char*> questions;   // $0 key
};

inline constexpr int kTaughtFamilies = 10;
absl::Span<const EverydayFamily> EverydayFamilies();

}  // namespace mnemosyne
