// Training documents: a haystack in which facts are told, and the questions that may follow it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/recall_tasks.h"

namespace mnemosyne {

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
  // Kinds of facts; the rest are uuids.
  double number_share = 0.75, word_share = 0.15, everyday_share = 0;
};

std::string TwoDigits(Random& random);  // the first is not 0

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

// A question and its answer, as byte tokens: kByteQuestion, the question, the answer, kByteEndOfAnswer.
struct Exercise {
  std::vector<int32_t> tokens;
  int64_t answer_begin = 0;  // index of the answer's first token, mostly a space
  int64_t value = 0;         // and of its value's first
};
Exercise MakeExercise(const Fact& fact, double echo_share, Random& random);

}  // namespace mnemosyne
