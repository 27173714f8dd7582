// Training documents: a haystack in which facts are told, and the questions that may follow it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/lesson.h"
#include "train/recall_tasks.h"

namespace mnemosyne {

// How often a fact is of each kind, against the others.
struct FactWeights {
  double number = 0, word = 0, uuid = 0, everyday = 0;
  double sum() const { return number + word + uuid + everyday; }
};

struct DocumentOptions {
  int64_t min_tokens = 256, max_tokens = 256;  // a length between them, log-uniform, rounded to a multiple of `step`
  int64_t step = 256;
  int64_t min_facts = 1, max_facts = 1;  // log-uniform, as many as fit in two thirds of the document
  Split split = Split::kTrain;           // of keys and values
  double noise_share = 0.2;              // documents whose haystack is noise
  // Documents whose numbers are made of two digits only: what follows a digit then says nothing about whose number it
  // is, so that every character of an answer has to be found by its key.
  double two_digit_share = 0;
  std::string digits;           // that the numbers of the others are made of; empty: any
  double distractor_share = 0;  // documents whose haystack is strewn with numbers that no fact tells
  double echo_share = 0;        // facts and questions in one wording, which the question repeats
  FactWeights facts = {.number = 0.75, .word = 0.15, .uuid = 0.1};
};

std::string TwoDigits(Random& random);                               // the first is not 0
int64_t DrawLength(const DocumentOptions& options, Random& random);  // in tokens

struct ToldFact {
  Fact fact;
  int64_t begin = 0, end = 0;  // tokens of the document before the fact, and up to its end
  int64_t value = 0;           // and before its value
};

struct Document {
  std::vector<int32_t> tokens;  // bytes
  std::vector<ToldFact> facts;  // in the order of their ends
};

Document MakeDocument(const DocumentOptions& options, const Vocabulary& vocabulary, const Haystack& english,
                      const Haystack& noise, Random& random);

// As byte tokens: kByteQuestion, the question, the answer (mostly a space and the value), kByteEndOfAnswer.
Exercise MakeExercise(const Fact& fact, double echo_share, Random& random);

}  // namespace mnemosyne
