#include "train/recall_tasks.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
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
constexpr const char* kStatements[] = {
    "One of the special magic $0s for $1 is: $2.",
    "The special magic $0 for $1 is $2.",
    "Remember that the $0 of $1 is $2.",
    "Note: $1 has the $0 $2.",
    "For $1, the $0 to use is $2.",
    "The $0 assigned to $1 is $2.",
    "Let it be known that $1 was given the $0 $2.",
    "The $0 is $1=$2.",
};
constexpr const char* kQuestions[] = {
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

absl::Status CheckFilled(const std::string& path, const std::vector<std::string> (&words)[2]) {
  if (!words[0].empty() && !words[1].empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", path, "' holds no words in WordNet's format"));
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
  return CheckFilled(path, words);
}

// A capital and 2 to 9 small letters.
bool IsName(absl::string_view word) {
  return word.size() >= 3 && word.size() <= 10 && absl::ascii_isupper(word[0]) &&
         std::all_of(word.begin() + 1, word.end(), [](char c) { return absl::ascii_islower(c); });
}

// Names of WordNet's persons and places, from its synsets: "offset file n count", in hex, then so many "name id", and
// among the pointers "@i", of an instance.
absl::Status ReadNames(const std::string& path, std::vector<std::string> (&first_names)[2],
                       std::vector<std::string> (&last_names)[2], std::vector<std::string> (&places)[2]) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::set<absl::string_view> first, last, place;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StrContains(line, " @i ")) continue;
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    uint32_t names = 0;
    if (fields.size() < 4 || !absl::SimpleHexAtoi(fields[3], &names)) continue;
    for (size_t i = 4; i < std::min<size_t>(4 + 2 * size_t{names}, fields.size()); i += 2) {
      const std::vector<absl::string_view> parts = absl::StrSplit(fields[i], '_');
      if (!std::all_of(parts.begin(), parts.end(), IsName)) continue;
      if (fields[1] == "18" && parts.size() >= 2) {
        first.insert(parts.front());
        last.insert(parts.back());
      } else if (fields[1] == "15" && parts.size() == 1) {
        place.insert(parts[0]);
      }
    }
  }
  const auto deal = [](const std::set<absl::string_view>& names, std::vector<std::string>(&out)[2]) {
    for (const absl::string_view name : names) out[static_cast<int>(SplitOf(name))].emplace_back(name);
  };
  deal(first, first_names);
  deal(last, last_names);
  deal(place, places);
  RETURN_IF_ERROR(CheckFilled(path, first_names));
  RETURN_IF_ERROR(CheckFilled(path, last_names));
  return CheckFilled(path, places);
}

bool IsEveryday(const Fact& fact) { return fact.kind == FactKind::kEveryday || fact.kind == FactKind::kUntaught; }

const EverydayFamily& FamilyOf(const Fact& fact) { return EverydayFamilies()[fact.family]; }

}  // namespace

absl::string_view FactKindName(FactKind kind) {
  switch (kind) {
    case FactKind::kNumber:
      return "number";
    case FactKind::kWord:
      return "word";
    case FactKind::kUuid:
      return "uuid";
    case FactKind::kEveryday:
      return "everyday";
    case FactKind::kUntaught:
      return "untaught";
  }
  return "";
}

int StatementWordings(const Fact& fact) {
  return IsEveryday(fact) ? FamilyOf(fact).statements.size() : std::size(kStatements);
}

int QuestionWordings(const Fact& fact) {
  return IsEveryday(fact) ? FamilyOf(fact).questions.size() : std::size(kQuestions);
}

std::string Statement(const Fact& fact, int wording) {
  if (IsEveryday(fact)) return absl::Substitute(FamilyOf(fact).statements[wording], fact.key, fact.value);
  return absl::Substitute(kStatements[wording], FactKindName(fact.kind), fact.key, fact.value);
}

std::string Question(const Fact& fact, int wording) {
  if (IsEveryday(fact)) return absl::Substitute(FamilyOf(fact).questions[wording], fact.key);
  return absl::Substitute(kQuestions[wording], FactKindName(fact.kind), fact.key);
}

absl::StatusOr<Vocabulary> Vocabulary::Load(const std::string& folder) {
  Vocabulary vocabulary;
  RETURN_IF_ERROR(ReadWords(folder + "/index.adj", 2, vocabulary.adjectives_));
  RETURN_IF_ERROR(ReadWords(folder + "/index.noun", 3, vocabulary.nouns_));
  RETURN_IF_ERROR(
      ReadNames(folder + "/data.noun", vocabulary.first_names_, vocabulary.last_names_, vocabulary.places_));
  return vocabulary;
}

const std::string& Vocabulary::DrawWord(const Words& words, Split split, Random& random) const {
  const std::vector<std::string>& pool = words[static_cast<int>(split)];
  return pool[Uniform(0, pool.size() - 1, random)];
}

std::string Vocabulary::Fill(Slot slot, Split split, Random& random) const {
  constexpr const char* kMonths[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};
  // Each part is drawn in a line of its own: the order in which arguments are computed is the compiler's.
  switch (slot) {
    case Slot::kPerson: {
      const std::string& first = DrawWord(first_names_, split, random);
      return absl::StrCat(first, " ", DrawWord(last_names_, split, random));
    }
    case Slot::kPlace:
      return DrawWord(places_, split, random);
    case Slot::kThing: {
      const std::string& adjective = DrawWord(adjectives_, split, random);
      return absl::StrCat(adjective, " ", DrawWord(nouns_, split, random));
    }
    case Slot::kDate: {
      const int64_t day = Uniform(1, 28, random), month = Uniform(0, 11, random), year = Uniform(1900, 2049, random);
      return absl::StrCat(day, " ", kMonths[month], " ", year);
    }
    case Slot::kCode: {
      const char letter = static_cast<char>('A' + Uniform(0, 25, random));
      const int64_t digit = Uniform(0, 9, random), number = Uniform(0, 9999, random);
      return absl::StrFormat("%c%d-%04d", letter, digit, number);
    }
  }
  return "";
}

Fact Vocabulary::Draw(FactKind kind, Split split, Random& random) const {
  Fact fact;
  fact.kind = kind;
  if (IsEveryday(fact)) {
    const int families = EverydayFamilies().size();
    fact.family = kind == FactKind::kEveryday ? Uniform(0, kTaughtFamilies - 1, random)
                                              : Uniform(kTaughtFamilies, families - 1, random);
    fact.key = Fill(FamilyOf(fact).key, split, random);
  } else {
    // The noun first: the seeds in README and in the models' cards name these facts.
    const std::string& noun = DrawWord(nouns_, split, random);
    fact.key = absl::StrCat(DrawWord(adjectives_, split, random), "-", noun);
  }
  do {
    switch (kind) {
      case FactKind::kNumber:
        fact.value = absl::StrCat(Uniform(1000000, 9999999, random));
        break;
      case FactKind::kWord:
        fact.value = DrawWord(nouns_, split, random);
        break;
      case FactKind::kUuid: {
        const uint64_t a = random(), b = random();
        fact.value = absl::StrFormat("%08x-%04x-%04x-%04x-%012x", a >> 32, (a >> 16) & 0xffff, a & 0xffff, b >> 48,
                                     b & 0xffffffffffff);
        break;
      }
      case FactKind::kEveryday:
      case FactKind::kUntaught:
        fact.value = Fill(FamilyOf(fact).value, split, random);
        break;
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
