// What training reads and asks: tokens, the places where they tell something worth remembering, and questions.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "train/random.h"

namespace mnemosyne {

// A fact or a statement: tokens [begin, end) of a lesson. Its value, when it has one that answers repeat literally, is
// the `length` tokens from `value` on.
struct Told {
  int64_t begin = 0, end = 0;
  int64_t value = 0, length = 0;
};

// A question and its answer, as tokens.
struct Exercise {
  std::vector<int32_t> tokens;
  int64_t answer_begin = 0;  // index of the answer's first token
  int64_t value = 0;         // and of its value's first
  int64_t told = -1;         // which of the lesson's `told` says that value; -1: none does literally
};

struct Lesson {
  std::vector<int32_t> tokens;
  std::vector<int64_t> answers;  // which of them answer a question that comes before them in the lesson itself
  std::vector<Told> told;        // in the order of their ends
  // A question that can be answered from the first `read` tokens; half of the time about what their last `recent` tell,
  // when they tell anything. nullopt: there is nothing to ask.
  std::function<std::optional<Exercise>(int64_t read, int64_t recent, Random& random)> ask;
};

}  // namespace mnemosyne
