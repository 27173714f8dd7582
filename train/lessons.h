// The lessons that models are trained on: facts told in text (document.h), and stories of the bAbI world (babi_world.h)
// scattered in text, as BABILong has them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/model/config.h"
#include "core/model/tokenizer.h"
#include "train/babi_world.h"
#include "train/document.h"
#include "train/lesson.h"

namespace mnemosyne {

struct LessonOptions {
  // Lengths and the haystack are also those of stories; the weights of facts and of stories are against each other.
  DocumentOptions documents;
  std::array<double, kBabiTasks> babi{};  // how often a lesson is a story of qa1, qa2 ...
  double inline_questions = 0;            // statements of stories that are followed by a question and its answer
};

struct LessonData {
  Vocabulary vocabulary;
  Haystack english;
  Haystack noise;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string tokenizer_file;  // its bytes, for who writes a model's folder; empty with `bytes`
};

// INVALID_ARGUMENT: the model's tokens are not what such lessons need.
absl::Status CheckLessons(const LessonOptions& options, const ModelConfig& config);

// The options have been checked.
Lesson MakeLesson(const LessonOptions& options, const LessonData& data, Random& random);

// Text that stands alone, as the server would tokenize it. The tokenizer is not `none`.
std::vector<int32_t> TokensOf(const Tokenizer& tokenizer, absl::string_view text);

}  // namespace mnemosyne
