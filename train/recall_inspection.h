// Why a model recalls as well as it does: what its keys and queries have in common, beside what it answers.
//
// A linear memory answers a query with the sum of what it was told, each by the cosine of its key. So recall can be
// told from the cosines alone: `signal` squared against `noise` (docs/training.md).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "train/document.h"

namespace mnemosyne {

// Means over the characters of the values of all facts, each asked for at its document's end. Cosines are means over
// the heads of the first memory, whose block must be lmm, mag or mal.
struct RecallInspection {
  int64_t characters = 0, answers = 0;
  double signal = 0;  // cosine of a query and the key it was told under
  double noise = 0;   // sum of the squares of its cosines with the keys of all other facts' characters
  double found = 0;   // share whose own key is the nearest among all of the document's tokens
  double linear = 0;  // share that the sum of told characters, by cosine, gets right
  double right = 0;   // share that the model gets right, each given the ones before
  double exact = 0;   // share of answers right in every character, each given the ones before
};
// `documents` documents of one length. Reads `folder`: errors as of ParseModelConfig and LoadParameters;
// INVALID_ARGUMENT also for a model of another kind, or whose tokens are not bytes.
absl::StatusOr<RecallInspection> InspectRecall(const std::string& folder, const DocumentOptions& options,
                                               int64_t documents, uint64_t seed, const Vocabulary& vocabulary,
                                               const Haystack& haystack);

}  // namespace mnemosyne
