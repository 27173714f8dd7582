// How often a model is right about what it has read.
//
// Needles: facts hidden at uniform depths, told and asked in RULER's words, decoded greedily. One fact a haystack is
// RULER's single needle (S-NIAH); several, of which some are asked, its multi-key task (MK-NIAH). Stories: the bAbI
// world's, scattered in a haystack, as BABILong has them (arXiv 2406.10149).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/model.h"
#include "train/babi_world.h"
#include "train/recall_tasks.h"

namespace mnemosyne {

struct RecallTask {
  std::string name;
  FactKind kind = FactKind::kNumber;
  bool is_in_noise = false;
  int story = 0;  // 1 to kBabiTasks: a story of that task, and no fact
};
// "number", "word", "uuid", "everyday", "untaught": a fact of that kind in English; "passkey": a number in noise; "qa1"
// to "qa5": a story. INVALID_ARGUMENT: there is no such task.
absl::StatusOr<RecallTask> FindRecallTask(absl::string_view name);

struct RecallCell {
  RecallTask task;
  int64_t bytes = 2048;   // of haystack and needles together; a story may take more
  int64_t facts = 1;      // in each haystack
  int64_t asked = 0;      // of them, drawn at random; 0: all
  int64_t samples = 100;  // haystacks
  uint64_t seed = 1;
};
struct RecallSample {
  std::string text;
  std::vector<std::string> questions, answers;
  std::vector<Fact> facts;  // what each question asks for; none about a story
};
struct RecallScore {
  int64_t questions = 0, right = 0;  // the whole answer, spaces around it left out
  int64_t contained = 0;             // what is wanted stands somewhere in the answer: as RULER counts
  int64_t characters = 0, characters_right = 0;

  void Add(const RecallSample& sample, const std::vector<std::string>& answers);
  void Add(const RecallScore& other);
};

// Reads a sample's text, then answers its questions, none of which hears of the others.
using RecallReader = absl::FunctionRef<absl::StatusOr<std::vector<std::string>>(const RecallSample&)>;

// Of `english`, or of RULER's noise.
RecallSample MakeRecallSample(const RecallCell& cell, int64_t index, const Vocabulary& vocabulary,
                              const Haystack& english);
absl::StatusOr<RecallScore> ScoreRecall(const RecallCell& cell, const Vocabulary& vocabulary, const Haystack& english,
                                        RecallReader reader);

// A reader that steps blocks and decodes in this process, as the server does.
absl::StatusOr<std::vector<std::string>> ReadAndAnswer(const Model& model, const RecallSample& sample);

}  // namespace mnemosyne
