// How a model is trained: the keys of a recipe.json. Every key is required; an unknown one is an error that names it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "train/lessons.h"

namespace mnemosyne {

struct Stage {
  int64_t steps = 0;
  double write_cost = 0;     // of write gates that are open outside facts or closed at values (trainer.cc)
  double key_cost = 0;       // loss per unit of what keys of all tokens have in common (trainer.cc)
  double keys_pace = 1;      // learning rate of what makes keys, against the others'; with echo_init
  double spread_cost = 0;    // loss per unit of the mean square of what keys of values have in common (trainer.cc)
  double match_cost = 0;     // loss per nat by which an answer's queries miss the keys it was told under (trainer.cc)
  int64_t drill_facts = 0;   // in each of a step's two drills (drill.h); 0: no drills
  double drill_cost = 0;     // of their loss
  double text_weight = 1;    // of the documents' loss, nats a byte
  double answer_weight = 1;  // of the answers' loss, nats a byte
  double first_weight = 1;   // of an answer's first characters, which alone say whose value it is, against its others
  // Lessons that begin in the state that the row's last one left: memories are used that are full of other things.
  double carried_share = 0;
  LessonOptions lessons;
};

struct Recipe {
  uint64_t seed = 1;
  int64_t rows = 16;             // documents read side by side
  int64_t segment_tokens = 256;  // of each row a step; gradients go no further back, states do
  int64_t questions = 1;         // asked of each row after each step
  double learning_rate = 2e-3;   // peak; cosine to a tenth of it
  int64_t warmup_steps = 100;
  double weight_decay = 0.01;  // of matrices
  double clip_norm = 1.0;
  double gate_bias = -4.0;  // theta's bias at the start
  bool echo_init = false;   // queries begin aligned with keys (trainer.cc); needs a convolution of 3 or more taps
  std::vector<Stage> stages;

  int64_t steps() const;
  const Stage& StageAt(int64_t step) const;
  double LearningRateAt(int64_t step) const;
};

absl::StatusOr<Recipe> ParseRecipe(absl::string_view json_text);

}  // namespace mnemosyne
