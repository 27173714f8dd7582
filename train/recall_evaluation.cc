#include "train/recall_evaluation.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/decoder.h"

namespace mnemosyne {

absl::StatusOr<RecallTask> FindRecallTask(absl::string_view name) {
  if (name == "passkey") return RecallTask{"passkey", FactKind::kNumber, true};
  for (const FactKind kind :
       {FactKind::kNumber, FactKind::kWord, FactKind::kUuid, FactKind::kEveryday, FactKind::kUntaught}) {
    if (name == FactKindName(kind)) return RecallTask{std::string(name), kind, false};
  }
  for (int story = 1; story <= kBabiTasks; ++story) {
    if (name == absl::StrCat("qa", story)) return RecallTask{.name = std::string(name), .story = story};
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "task '", name, "' is not number, word, uuid, everyday, untaught, passkey or qa1 to qa", kBabiTasks));
}

namespace {

RecallSample Needles(const RecallCell& cell, const Vocabulary& vocabulary, const Haystack& haystack, Random& random) {
  RecallSample sample;
  std::vector<Insert> inserts(cell.facts);
  int64_t told = 0;
  std::set<std::pair<int, std::string>> told_of;
  for (Insert& insert : inserts) {
    Fact& fact = sample.facts.emplace_back();
    do {
      fact = vocabulary.Draw(cell.task.kind, Split::kHeldOut, random);
    } while (!told_of.emplace(fact.family, fact.key).second);
    insert.text = Statement(fact, 0);
    told += static_cast<int64_t>(insert.text.size()) + 1;
  }
  const std::string hay = haystack.Draw(std::max<int64_t>(1, cell.bytes - told), random);
  for (Insert& insert : inserts) insert.depth = std::uniform_real_distribution<double>(0, 1)(random);
  sample.text = HideInHaystack(hay, std::move(inserts));
  if (cell.asked > 0 && cell.asked < cell.facts) {
    std::shuffle(sample.facts.begin(), sample.facts.end(), random);
    sample.facts.resize(cell.asked);
  }
  for (const Fact& fact : sample.facts) {
    sample.questions.push_back(Question(fact, 0));
    sample.answers.push_back(fact.value);
  }
  return sample;
}

RecallSample Story(const RecallCell& cell, const Haystack& haystack, Random& random) {
  const BabiStory story = MakeBabiStory(cell.task.story, random);
  const BabiStory::Question& question = story.questions.back();
  return {.text = ScatterStory(story, haystack, cell.bytes, random),
          .questions = {question.text},
          .answers = {question.answer}};
}

}  // namespace

RecallSample MakeRecallSample(const RecallCell& cell, int64_t index, const Vocabulary& vocabulary,
                              const Haystack& english) {
  std::seed_seq seed{cell.seed, static_cast<uint64_t>(cell.bytes), static_cast<uint64_t>(index)};
  Random random(seed);
  if (cell.task.story > 0) return Story(cell, english, random);
  return Needles(cell, vocabulary, cell.task.is_in_noise ? Haystack::Noise() : english, random);
}

void RecallScore::Add(const RecallSample& sample, const std::vector<std::string>& answers) {
  for (size_t i = 0; i < answers.size(); ++i) {
    const absl::string_view answer = absl::StripAsciiWhitespace(answers[i]);
    const std::string& wanted = sample.answers[i];
    questions += 1;
    right += answer == wanted ? 1 : 0;
    contained += absl::StrContains(absl::AsciiStrToLower(answer), absl::AsciiStrToLower(wanted)) ? 1 : 0;
    characters += static_cast<int64_t>(wanted.size());
    for (size_t c = 0; c < std::min(answer.size(), wanted.size()); ++c) characters_right += answer[c] == wanted[c];
  }
}

void RecallScore::Add(const RecallScore& other) {
  questions += other.questions;
  right += other.right;
  contained += other.contained;
  characters += other.characters;
  characters_right += other.characters_right;
}

absl::StatusOr<RecallScore> ScoreRecall(const RecallCell& cell, const Vocabulary& vocabulary, const Haystack& english,
                                        RecallReader reader) {
  RecallScore score;
  for (int64_t i = 0; i < cell.samples; ++i) {
    const RecallSample sample = MakeRecallSample(cell, i, vocabulary, english);
    ASSIGN_OR_RETURN(const std::vector<std::string> answers, reader(sample));
    score.Add(sample, answers);
  }
  return score;
}

absl::StatusOr<std::vector<std::string>> ReadAndAnswer(const Model& model, const RecallSample& sample) {
  const size_t block = model.config().block_tokens();
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, model.tokenizer().Encode(sample.text));
  absl::Span<const int32_t> rest = tokens;
  StatePtr state = model.InitialState();
  for (; rest.size() >= block; rest.remove_prefix(block)) {
    BlockResult step = model.StepBlocks({{state, rest.first(block)}})[0];
    RETURN_IF_ERROR(step.status);
    state = step.state;
  }
  std::vector<std::string> answers;
  for (const std::string& question : sample.questions) {
    std::vector<int32_t> before(rest.begin(), rest.end());
    if (model.tokenizer().question()) before.push_back(*model.tokenizer().question());
    ASSIGN_OR_RETURN(const std::vector<int32_t> asked, model.tokenizer().Encode(question));
    before.insert(before.end(), asked.begin(), asked.end());
    Decoder decoder(model.NewFork(state), &model.tokenizer(), {.max_tokens = 64});
    RETURN_IF_ERROR(decoder.Read(before));
    std::string& answer = answers.emplace_back();
    while (!decoder.stop_reason()) {
      ASSIGN_OR_RETURN(const Decoder::Piece piece, decoder.Next());
      answer += piece.text;
    }
  }
  return answers;
}

}  // namespace mnemosyne
