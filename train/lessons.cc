#include "train/lessons.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mnemosyne {

namespace {

// A server's question may follow tokens that fill no block yet.
constexpr int64_t kMaxRest = 63;
constexpr double kRestShare = 0.5;
constexpr double kCompactShare = 0.3;  // of the stories: all statements one after another, at the lesson's end

double Unit(Random& random) { return std::uniform_real_distribution<double>(0, 1)(random); }

Lesson RecallLesson(const DocumentOptions& options, const LessonData& data, Random& random) {
  Document document = MakeDocument(options, data.vocabulary, data.english, data.noise, random);
  Lesson lesson;
  lesson.tokens = std::move(document.tokens);
  for (const ToldFact& one : document.facts) {
    lesson.told.push_back({one.begin, one.end, one.value, static_cast<int64_t>(one.fact.value.size())});
  }
  lesson.ask = [facts = std::move(document.facts), echo_share = options.echo_share](
                   int64_t read, int64_t recent, Random& random) -> std::optional<Exercise> {
    const auto told_by = [&](int64_t offset) {
      return std::partition_point(facts.begin(), facts.end(), [&](const ToldFact& one) { return one.end <= offset; }) -
             facts.begin();
    };
    const int64_t told = told_by(read), before = told_by(read - recent);
    if (told == 0) return std::nullopt;
    const bool is_recent = before < told && random() % 2 == 0;
    const int64_t pick = std::uniform_int_distribution<int64_t>(is_recent ? before : 0, told - 1)(random);
    Exercise exercise = MakeExercise(facts[pick].fact, echo_share, random);
    exercise.told = pick;
    return exercise;
  };
  return lesson;
}

// Text of exactly `count` tokens, cut where sentences end, so that statements can be put between them.
std::vector<std::vector<int32_t>> Sentences(const LessonData& data, int64_t count, Random& random) {
  std::vector<std::vector<int32_t>> sentences;
  while (count > 0) {
    constexpr int64_t kBytesAToken = 8;
    const std::string text = absl::StrCat(" ", data.english.Draw(kBytesAToken * count, random));
    for (size_t from = 0; from < text.size() && count > 0;) {
      const size_t end = text.find_first_of(".!?", from);
      const size_t to = end == std::string::npos ? text.size() : std::min(text.find(' ', end), text.size());
      std::vector<int32_t>& tokens = sentences.emplace_back(TokensOf(*data.tokenizer, text.substr(from, to - from)));
      if (static_cast<int64_t>(tokens.size()) > count) tokens.resize(count);
      count -= static_cast<int64_t>(tokens.size());
      from = to;
    }
  }
  return sentences;
}

// Those that can be asked just after the first `after` statements.
std::vector<const BabiStory::Question*> Open(const std::vector<BabiStory::Question>& questions, size_t after) {
  std::vector<const BabiStory::Question*> open;
  for (const BabiStory::Question& question : questions) {
    if (question.after == after) open.push_back(&question);
  }
  return open;
}

Lesson StoryLesson(int task, const LessonOptions& of_lesson, const LessonData& data, Random& random) {
  const DocumentOptions& options = of_lesson.documents;
  BabiStory story = MakeBabiStory(task, random);
  struct Statement {
    std::vector<int32_t> tokens, question, answer;  // the last two: that follow it in the text, or nothing
  };
  std::vector<Statement> statements;
  int64_t used = 0;
  for (const std::string& text : story.statements) {
    Statement& statement = statements.emplace_back();
    statement.tokens = TokensOf(*data.tokenizer, absl::StrCat(" ", text));
    const std::vector<const BabiStory::Question*> open = Open(story.questions, statements.size());
    if (!open.empty() && Unit(random) < of_lesson.inline_questions) {
      const BabiStory::Question& question = *open[random() % open.size()];
      statement.question = TokensOf(*data.tokenizer, absl::StrCat(" ", question.text));
      statement.answer = TokensOf(*data.tokenizer, absl::StrCat(" ", question.answer));
    }
    used += static_cast<int64_t>(statement.tokens.size() + statement.question.size() + statement.answer.size());
  }
  const int64_t wanted = DrawLength(options, random);
  const int64_t size = std::max(wanted, (used + options.step - 1) / options.step * options.step);
  const std::vector<std::vector<int32_t>> text = Sentences(data, size - used, random);
  std::vector<size_t> places(statements.size(), text.size());  // sentences of text before each statement
  if (Unit(random) >= kCompactShare) {
    for (size_t& place : places) place = std::uniform_int_distribution<size_t>(0, text.size())(random);
    std::sort(places.begin(), places.end());
  }

  Lesson lesson;
  const auto add = [&](const std::vector<int32_t>& tokens) {
    lesson.tokens.insert(lesson.tokens.end(), tokens.begin(), tokens.end());
  };
  size_t told = 0;
  for (size_t s = 0; s <= text.size(); ++s) {
    for (; told < places.size() && places[told] == s; ++told) {
      const auto begin = static_cast<int64_t>(lesson.tokens.size());
      add(statements[told].tokens);
      lesson.told.push_back({.begin = begin, .end = static_cast<int64_t>(lesson.tokens.size())});
      add(statements[told].question);
      for (const int32_t token : statements[told].answer) {
        lesson.answers.push_back(static_cast<int64_t>(lesson.tokens.size()));
        lesson.tokens.push_back(token);
      }
    }
    if (s < text.size()) add(text[s]);
  }

  lesson.ask = [all = lesson.tokens, told = lesson.told, questions = std::move(story.questions),
                tokenizer = data.tokenizer](int64_t read, int64_t, Random& random) -> std::optional<Exercise> {
    int64_t at = read;
    if (Unit(random) < kRestShare) at += std::uniform_int_distribution<int64_t>(0, kMaxRest)(random);
    at = std::min<int64_t>(at, all.size());
    for (const Told& one : told) {
      if (one.begin < at && at < one.end) at = one.begin >= read ? one.begin : one.end;
    }
    const auto count =
        static_cast<size_t>(std::count_if(told.begin(), told.end(), [&](const Told& one) { return one.end <= at; }));
    const std::vector<const BabiStory::Question*> open = Open(questions, count);
    if (open.empty()) return std::nullopt;
    const BabiStory::Question& question = *open[random() % open.size()];
    Exercise exercise;
    exercise.tokens.assign(all.begin() + read, all.begin() + at);
    const auto add = [&](const std::vector<int32_t>& tokens) {
      exercise.tokens.insert(exercise.tokens.end(), tokens.begin(), tokens.end());
    };
    if (tokenizer->question()) exercise.tokens.push_back(*tokenizer->question());
    add(TokensOf(*tokenizer, question.text));
    exercise.answer_begin = exercise.value = static_cast<int64_t>(exercise.tokens.size());
    add(TokensOf(*tokenizer, absl::StrCat(" ", question.answer)));
    exercise.tokens.push_back(*tokenizer->end_of_answer());
    return exercise;
  };
  return lesson;
}

}  // namespace

absl::Status CheckLessons(const LessonOptions& options, const ModelConfig& config) {
  const bool is_bytes = config.tokenizer.kind == TokenizerKind::kBytes && config.vocab_size >= 258;
  if (options.documents.facts.sum() > 0 && !is_bytes) {
    return absl::InvalidArgumentError("facts need the tokenizer 'bytes' and a vocab_size of at least 258");
  }
  if (!is_bytes && config.tokenizer.kind != TokenizerKind::kSentencePiece) {
    return absl::InvalidArgumentError(
        "stories need the tokenizer 'sentencepiece', or 'bytes' with a vocab_size of at least 258");
  }
  return absl::OkStatus();
}

std::vector<int32_t> TokensOf(const Tokenizer& tokenizer, absl::string_view text) {
  std::vector<int32_t> tokens;
  const auto add = [&](absl::string_view piece) {
    const absl::StatusOr<std::vector<int32_t>> more = tokenizer.Encode(piece);
    ABSL_ASSERT(more.ok());
    tokens.insert(tokens.end(), more->begin(), more->end());
  };
  for (std::optional<size_t> size; (size = tokenizer.NextPiece(text)); text.remove_prefix(*size)) {
    add(text.substr(0, *size));
  }
  if (!text.empty()) add(text);
  return tokens;
}

Lesson MakeLesson(const LessonOptions& options, const LessonData& data, Random& random) {
  const double facts = options.documents.facts.sum();
  const double stories = std::accumulate(options.babi.begin(), options.babi.end(), 0.0);
  if (stories == 0) return RecallLesson(options.documents, data, random);
  double pick = Unit(random) * (facts + stories) - facts;
  if (pick < 0) return RecallLesson(options.documents, data, random);
  size_t task = 0;
  while (task + 1 < options.babi.size() && pick >= options.babi[task]) pick -= options.babi[task++];
  return StoryLesson(static_cast<int>(task) + 1, options, data, random);
}

}  // namespace mnemosyne
