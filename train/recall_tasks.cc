#include "train/recall_tasks.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/substitute.h"
#include "core/base/checksum.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {

// $0 kind of value, $1 key, $2 value.
constexpr const char* kStatements[kStatementWordings] = {
    "One of the special magic $0s for $1 is: $2.",
    "The special magic $0 for $1 is $2.",
    "Remember that the $0 of $1 is $2.",
    "Note: $1 has the $0 $2.",
    "For $1, the $0 to use is $2.",
    "The $0 assigned to $1 is $2.",
    "Let it be known that $1 was given the $0 $2.",
    "The $0 is $1=$2.",
};
constexpr const char* kQuestions[kQuestionWordings] = {
    "What is the special magic $0 for $1 mentioned in the provided text? The special magic $0 for $1 mentioned in the "
    "provided text is",
    "What is the special magic $0 for $1?",
    "What is the $0 of $1?",
    "Which $0 does $1 have?",
    "Tell me the $0 for $1.",
    "What $0 was $1 given?",
    "The special magic $0 for $1 is",
    "The $0 is $1=",
};

constexpr absl::string_view kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";

constexpr uint64_t kHeldOutShare = 8;  // one word or value in eight

Split SplitOf(absl::string_view text) {
  return Checksum64(text) % kHeldOutShare == 0 ? Split::kHeldOut : Split::kTrain;
}

int64_t Uniform(int64_t low, int64_t high, Random& random) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Common words of WordNet: 4 to 8 letters, at least `senses` meanings.
absl::Status ReadWords(const std::string& path, int senses, std::vector<std::string> (&words)[2]) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (fields.size() < 4 || fields[0].size() < 4 || fields[0].size() > 8) continue;
    if (!std::all_of(fields[0].begin(), fields[0].end(), [](char c) { return absl::ascii_islower(c); })) continue;
    if (std::atoi(std::string(fields[2]).c_str()) < senses) continue;
    words[static_cast<int>(SplitOf(fields[0]))].emplace_back(fields[0]);
  }
  if (words[0].empty() || words[1].empty()) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' holds no words in WordNet's index format"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view ValueKindName(ValueKind kind) {
  switch (kind) {
    case ValueKind::kNumber:
      return "number";
    case ValueKind::kWord:
      return "word";
    case ValueKind::kUuid:
      return "uuid";
  }
  return "";
}

std::string Statement(const Fact& fact, int wording) {
  return absl::Substitute(kStatements[wording], ValueKindName(fact.kind), fact.key, fact.value);
}

std::string Question(const Fact& fact, int wording) {
  return absl::Substitute(kQuestions[wording], ValueKindName(fact.kind), fact.key);
}

absl::StatusOr<Vocabulary> Vocabulary::Load(const std::string& folder) {
  Vocabulary vocabulary;
  RETURN_IF_ERROR(ReadWords(folder + "/index.adj", 2, vocabulary.adjectives_));
  RETURN_IF_ERROR(ReadWords(folder + "/index.noun", 3, vocabulary.nouns_));
  return vocabulary;
}

const std::string& Vocabulary::DrawWord(const std::vector<std::string> (&words)[2], Split split, Random& random) const {
  const std::vector<std::string>& pool = words[static_cast<int>(split)];
  return pool[Uniform(0, pool.size() - 1, random)];
}

Fact Vocabulary::Draw(ValueKind kind, Split split, Random& random) const {
  Fact fact;
  fact.kind = kind;
  fact.key = absl::StrCat(DrawWord(adjectives_, split, random), "-", DrawWord(nouns_, split, random));
  do {
    switch (kind) {
      case ValueKind::kNumber:
        fact.value = absl::StrCat(Uniform(1000000, 9999999, random));
        break;
      case ValueKind::kWord:
        fact.value = DrawWord(nouns_, split, random);
        break;
      case ValueKind::kUuid: {
        const uint64_t a = random(), b = random();
        fact.value = absl::StrFormat("%08x-%04x-%04x-%04x-%012x", a >> 32, (a >> 16) & 0xffff, a & 0xffff, b >> 48,
                                     b & 0xffffffffffff);
        break;
      }
    }
  } while (SplitOf(fact.value) != split);
  return fact;
}

Haystack Haystack::Noise() { return Haystack(std::string(kNoise)); }

absl::StatusOr<Haystack> Haystack::FromFiles(const std::vector<std::string>& paths) {
  std::string text;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(std::string more, ReadFile(path));
    if (more.empty()) return absl::InvalidArgumentError(absl::StrCat("'", path, "' is empty"));
    absl::StrAppend(&text, more, "\n");
  }
  if (text.empty()) return absl::InvalidArgumentError("no haystack file is given");
  return Haystack(std::move(text));
}

std::string Haystack::Draw(int64_t bytes, Random& random) const {
  size_t from = Uniform(0, text_.size() - 1, random);
  from = text_.find(' ', from);
  from = from == std::string::npos ? 0 : from + 1;
  std::string out;
  while (static_cast<int64_t>(out.size()) < bytes) {
    out.append(text_, from, bytes - out.size());
    from = 0;
  }
  return out;
}

std::string HideInHaystack(absl::string_view haystack, std::vector<Insert> inserts) {
  std::stable_sort(inserts.begin(), inserts.end(), [](const Insert& a, const Insert& b) { return a.depth < b.depth; });
  std::string out;
  size_t done = 0;
  for (const Insert& insert : inserts) {
    size_t to = std::max<size_t>(done, static_cast<size_t>(insert.depth * static_cast<double>(haystack.size())));
    to = to >= haystack.size() ? haystack.size() : std::min(haystack.find(' ', to), haystack.size());
    absl::StrAppend(&out, haystack.substr(done, to - done), " ", insert.text);
    done = to;
  }
  absl::StrAppend(&out, haystack.substr(done));
  return out;
}

}  // namespace mnemosyne
