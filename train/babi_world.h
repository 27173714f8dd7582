// A small world in the manner of the bAbI tasks (arXiv 1502.05698): persons walk between rooms, take, drop and give
// things, and are told about in short sentences. Tasks qa1 to qa5 are those that BABILong scatters in text (arXiv
// 2406.10149). Written anew: the sentences, names and rules are those that the published stories show.
//
//   1  where is a person                           one statement says it
//   2  where is a thing                            who has or dropped it, and where that person was
//   3  where was a thing before it came to a room  the journey of whoever had it
//   4  what is north of a room                     one of two statements, perhaps turned around
//   5  who gave what to whom
//
// A question has one answer, a word, which follows from the statements before it. As in bAbI it is about something that
// one of the last five statements touched, and a story has an even number of statements.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/recall_tasks.h"

namespace mnemosyne {

inline constexpr int kBabiTasks = 5;

struct BabiStory {
  // What can be asked when just the first `after` statements are told.
  struct Question {
    size_t after = 0;
    std::string text, answer;
  };
  std::vector<std::string> statements;
  std::vector<Question> questions;  // never empty; in the order of `after`; the last one after all statements
};

BabiStory MakeBabiStory(int task, Random& random);  // task: 1 to kBabiTasks

// The story's statements, in order, between sentences of a haystack, at uniform places: `bytes` bytes in all, or the
// story alone where it is as long.
std::string ScatterStory(const BabiStory& story, const Haystack& haystack, int64_t bytes, Random& random);

}  // namespace mnemosyne
