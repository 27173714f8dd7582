// Facts hidden in text and questions about them, in the forms of RULER's single needle in a haystack (arXiv
// 2404.06654): keys of words, values that are 7-digit numbers, words or uuids, noise or English around them; and facts
// as people tell them (everyday_facts.h).
//
//   ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Load("/usr/share/wordnet"));
//   Fact fact = vocabulary.Draw(FactKind::kNumber, Split::kTrain, random);
//   Statement(fact, 0);  // "One of the special magic numbers for lively-panda is: 1234567."
//   Question(fact, 1);   // "What is the special magic number for lively-panda?"
//
// Words and values are dealt to two splits by their hash: what evaluation asks was never seen in training.
// Thread-compatible: const after Load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "train/everyday_facts.h"
#include "train/random.h"

namespace mnemosyne {

enum class FactKind { kNumber, kWord, kUuid, kEveryday, kUntaught };  // the last: of a family never trained on
enum class Split { kTrain, kHeldOut };

struct Fact {
  FactKind kind = FactKind::kNumber;
  std::string key;    // "lively-panda"
  std::string value;  // "1234567"
  int family = 0;     // of EverydayFamilies(), with kEveryday and kUntaught
};

// Wordings of a fact and of its question; 0 is RULER's.
int StatementWordings(const Fact& fact);
int QuestionWordings(const Fact& fact);
std::string Statement(const Fact& fact, int wording);  // a sentence, no space around it
std::string Question(const Fact& fact, int wording);   // the answer follows after a space

// The statement and the question that begin with the same words up to the value, of numbers, words and uuids.
inline constexpr int kEchoedStatement = 7, kEchoingQuestion = 7;

absl::string_view FactKindName(FactKind kind);  // "number", "word", "uuid", "everyday", "untaught"

class Vocabulary {
 public:
  // `folder` holds WordNet's index.adj, index.noun and data.noun (Debian: wordnet-base). NOT_FOUND names a missing
  // file.
  static absl::StatusOr<Vocabulary> Load(const std::string& folder);

  Fact Draw(FactKind kind, Split split, Random& random) const;

 private:
  using Words = std::vector<std::string>[2];  // by split
  const std::string& DrawWord(const Words& words, Split split, Random& random) const;
  std::string Fill(Slot slot, Split split, Random& random) const;
  Words adjectives_, nouns_, first_names_, last_names_, places_;
};

// Text to hide facts in.
class Haystack {
 public:
  // RULER's noise sentences, repeated.
  static Haystack Noise();
  // The files' text; NOT_FOUND names a missing file, INVALID_ARGUMENT one that is empty.
  static absl::StatusOr<Haystack> FromFiles(const std::vector<std::string>& paths);

  // `bytes` bytes in one piece, from a random place between words; starts over at the text's end.
  std::string Draw(int64_t bytes, Random& random) const;

 private:
  explicit Haystack(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

// Puts `inserts` (sentences, in any order) into `haystack` between words, each at its fraction [0, 1] of the haystack.
struct Insert {
  double depth = 0;
  std::string text;
};
std::string HideInHaystack(absl::string_view haystack, std::vector<Insert> inserts);

}  // namespace mnemosyne
