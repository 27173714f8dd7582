// How often a model finds a needle: one fact hidden at a uniform depth, asked in RULER's words, decoded greedily.
#pragma once

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "core/model/model.h"
#include "train/recall_tasks.h"

namespace mnemosyne {

struct RecallCell {
  ValueKind kind = ValueKind::kNumber;
  int64_t bytes = 2048;  // of haystack and needle together
  int64_t samples = 100;
  uint64_t seed = 1;
};
struct RecallSample {
  std::string text;
  std::string question;
  Fact fact;
};
struct RecallScore {
  int64_t samples = 0, right = 0;        // the whole value, spaces around it left out
  int64_t characters = 0, characters_right = 0;

  void Add(const Fact& fact, absl::string_view answer);
  void Add(const RecallScore& other);
};

// Reads text, then answers a question about it.
using RecallReader = absl::FunctionRef<absl::StatusOr<std::string>(const RecallSample&)>;

RecallSample MakeRecallSample(const RecallCell& cell, int64_t index, const Vocabulary& vocabulary,
                              const Haystack& haystack);
absl::StatusOr<RecallScore> ScoreRecall(const RecallCell& cell, const Vocabulary& vocabulary, const Haystack& haystack,
                                        RecallReader reader);

// A reader that steps blocks and decodes in this process, as the server does.
absl::StatusOr<std::string> ReadAndAnswer(const Model& model, const RecallSample& sample);

}  // namespace mnemosyne
