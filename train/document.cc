#include "train/document.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/model/tokenizer.h"

namespace mnemosyne {

namespace {

int64_t LogUniform(int64_t low, int64_t high, Random& random) {
  const double t = std::uniform_real_distribution<double>(std::log(low), std::log(high + 1))(random);
  return std::clamp<int64_t>(static_cast<int64_t>(std::exp(t)), low, high);
}

// `echo`: a question that repeats the statement's words, from which what a key is for is learned first.
int DrawWording(int echo, int count, double echo_share, Random& random) {
  if (echo < count && std::uniform_real_distribution<double>(0, 1)(random) < echo_share) return echo;
  return std::uniform_int_distribution<int>(0, count - 1)(random);
}

FactKind DrawKind(const FactWeights& weights, double unit) {
  double pick = unit * weights.sum();
  if ((pick -= weights.number) < 0) return FactKind::kNumber;
  if ((pick -= weights.word) < 0) return FactKind::kWord;
  if ((pick -= weights.everyday) < 0) return FactKind::kEveryday;
  return FactKind::kUuid;
}

void AddBytes(absl::string_view text, std::vector<int32_t>* tokens) {
  for (const unsigned char byte : text) tokens->push_back(byte);
}

// Writes numbers over words of `text`: years, counts, "12:34". Its length stays.
void StrewNumbers(std::string* text, Random& random) {
  const auto uniform = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (size_t at = text->find(' ', uniform(0, 100)); at != std::string::npos;
       at = text->find(' ', at + uniform(20, 200))) {
    const std::string number = uniform(0, 2) == 0 ? absl::StrCat(uniform(1, 150), ":", uniform(1, 60))
                                                  : absl::StrCat(LogUniform(1, 9999999, random));
    if (at + number.size() + 2 > text->size()) return;
    text->replace(at + 1, number.size() + 1, number + " ");
  }
}

}  // namespace

std::string TwoDigits(Random& random) {
  return {static_cast<char>('1' + random() % 9), static_cast<char>('0' + random() % 10)};
}

int64_t DrawLength(const DocumentOptions& options, Random& random) {
  const int64_t tokens = LogUniform(options.min_tokens, options.max_tokens, random);
  return std::max(options.step, tokens / options.step * options.step);
}

Document MakeDocument(const DocumentOptions& options, const Vocabulary& vocabulary, const Haystack& english,
                      const Haystack& noise, Random& random) {
  const auto unit = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };
  const int64_t tokens = DrawLength(options, random);
  const int64_t wanted = LogUniform(options.min_facts, options.max_facts, random);

  struct Planned {
    double depth;
    Fact fact;
    std::string text;
  };
  std::vector<Planned> told;
  std::string digits = options.digits;
  if (unit() < options.two_digit_share) digits = TwoDigits(random);
  int64_t used = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    Fact fact = vocabulary.Draw(DrawKind(options.facts, unit()), options.split, random);
    if (!digits.empty() && fact.kind == FactKind::kNumber) {
      for (char& digit : fact.value) digit = digits[random() % digits.size()];
    }
    const int wording = DrawWording(kEchoedStatement, StatementWordings(fact), options.echo_share, random);
    const std::string text = absl::StrCat(" ", Statement(fact, wording));
    if (used + static_cast<int64_t>(text.size()) > tokens * 2 / 3) break;
    used += text.size();
    const double u = unit();
    told.push_back({u * std::sqrt(u), fact, text});  // more of them early: what is told late is not kept for long
  }
  std::stable_sort(told.begin(), told.end(), [](const Planned& a, const Planned& b) { return a.depth < b.depth; });

  std::string hay = (unit() < options.noise_share ? noise : english).Draw(tokens - used, random);
  if (unit() < options.distractor_share) StrewNumbers(&hay, random);
  Document document;
  document.tokens.reserve(tokens);
  size_t done = 0;
  for (const Planned& one : told) {
    const size_t at = std::max<size_t>(done, static_cast<size_t>(one.depth * static_cast<double>(hay.size())));
    const size_t to = std::min(hay.find(' ', at), hay.size());
    AddBytes(absl::string_view(hay).substr(done, to - done), &document.tokens);
    const int64_t begin = document.tokens.size();
    AddBytes(one.text, &document.tokens);
    const int64_t value = begin + static_cast<int64_t>(one.text.rfind(one.fact.value));
    document.facts.push_back({one.fact, begin, static_cast<int64_t>(document.tokens.size()), value});
    done = to;
  }
  AddBytes(absl::string_view(hay).substr(done), &document.tokens);
  return document;
}

Exercise MakeExercise(const Fact& fact, double echo_share, Random& random) {
  Exercise exercise;
  exercise.tokens.push_back(kByteQuestion);
  AddBytes(Question(fact, DrawWording(kEchoingQuestion, QuestionWordings(fact), echo_share, random)), &exercise.tokens);
  exercise.answer_begin = exercise.tokens.size();
  if (exercise.tokens.back() != '=') exercise.tokens.push_back(' ');
  exercise.value = exercise.tokens.size();
  AddBytes(fact.value, &exercise.tokens);
  exercise.tokens.push_back(kByteEndOfAnswer);
  return exercise;
}

}  // namespace mnemosyne
