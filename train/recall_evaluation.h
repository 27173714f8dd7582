// How often a model finds a needle: facts hidden at uniform depths, told and asked in RULER's words, decoded greedily.
// One fact a haystack is RULER's single needle (S-NIAH); several, of which each is asked, its multi-key task (MK-NIAH).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/model.h"
#include "train/recall_tasks.h"

namespace mnemosyne {

struct RecallTask {
  std::string name;
  FactKind kind = FactKind::kNumber;
  bool is_in_noise = false;
};
// "number", "word", "uuid", "everyday", "untaught": a fact of that kind in English; "passkey": a number in noise.
// INVALID_ARGUMENT: there is no such task.
absl::StatusOr<RecallTask> FindRecallTask(absl::string_view name);

struct RecallCell {
  FactKind kind = FactKind::kNumber;
  int64_t bytes = 2048;   // of haystack and needles together
  int64_t facts = 1;      // in each haystack
  int64_t asked = 0;      // of them, drawn at random; 0: all
  int64_t samples = 100;  // haystacks
  uint64_t seed = 1;
};
struct RecallSample {
  std::string text;
  std::vector<std::string> questions;
  std::vector<Fact> facts;  // what each question asks for
};
struct RecallScore {
  int64_t questions = 0, right = 0;  // the whole value, spaces around it left out
  int64_t characters = 0, characters_right = 0;

  void Add(const RecallSample& sample, const std::vector<std::string>& answers);
  void Add(const RecallScore& other);
};

// Reads a sample's text, then answers its questions, none of which hears of the others.
using RecallReader = absl::FunctionRef<absl::StatusOr<std::vector<std::string>>(const RecallSample&)>;

RecallSample MakeRecallSample(const RecallCell& cell, int64_t index, const Vocabulary& vocabulary,
                              const Haystack& haystack);
absl::StatusOr<RecallScore> ScoreRecall(const RecallCell& cell, const Vocabulary& vocabulary, const Haystack& haystack,
                                        RecallReader reader);

// A reader that steps blocks and decodes in this process, as the server does.
absl::StatusOr<std::vector<std::string>> ReadAndAnswer(const Model& model, const RecallSample& sample);

}  // namespace mnemosyne
