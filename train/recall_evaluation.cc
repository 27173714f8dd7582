#include "train/recall_evaluation.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "core/base/status_macros.h"
#include "core/model/decoder.h"

namespace mnemosyne {

RecallSample MakeRecallSample(const RecallCell& cell, int64_t index, const Vocabulary& vocabulary,
                              const Haystack& haystack) {
  std::seed_seq seed{cell.seed, static_cast<uint64_t>(cell.bytes), static_cast<uint64_t>(index)};
  Random random(seed);
  RecallSample sample;
  sample.fact = vocabulary.Draw(cell.kind, Split::kHeldOut, random);
  const std::string needle = Statement(sample.fact, 0);
  const std::string hay = haystack.Draw(std::max<int64_t>(1, cell.bytes - needle.size() - 1), random);
  sample.text = HideInHaystack(hay, {{std::uniform_real_distribution<double>(0, 1)(random), needle}});
  sample.question = Question(sample.fact, 0);
  return sample;
}

void RecallScore::Add(const Fact& fact, absl::string_view raw) {
  const absl::string_view answer = absl::StripAsciiWhitespace(raw);
  samples += 1;
  right += answer == fact.value;
  characters += fact.value.size();
  for (size_t c = 0; c < std::min(answer.size(), fact.value.size()); ++c) characters_right += answer[c] == fact.value[c];
}

void RecallScore::Add(const RecallScore& other) {
  samples += other.samples;
  right += other.right;
  characters += other.characters;
  characters_right += other.characters_right;
}

absl::StatusOr<RecallScore> ScoreRecall(const RecallCell& cell, const Vocabulary& vocabulary, const Haystack& haystack,
                                        RecallReader reader) {
  RecallScore score;
  for (int64_t i = 0; i < cell.samples; ++i) {
    const RecallSample sample = MakeRecallSample(cell, i, vocabulary, haystack);
    ASSIGN_OR_RETURN(const std::string raw, reader(sample));
    score.Add(sample.fact, raw);
  }
  return score;
}

absl::StatusOr<std::string> ReadAndAnswer(const Model& model, const RecallSample& sample) {
  const size_t block = model.config().block_tokens();
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, model.tokenizer().Encode(sample.text));
  absl::Span<const int32_t> rest = tokens;
  StatePtr state = model.InitialState();
  for (; rest.size() >= block; rest.remove_prefix(block)) {
    BlockResult step = model.StepBlocks({{state, rest.first(block)}})[0];
    RETURN_IF_ERROR(step.status);
    state = step.state;
  }
  std::vector<int32_t> before(rest.begin(), rest.end());
  if (model.tokenizer().question()) before.push_back(*model.tokenizer().question());
  ASSIGN_OR_RETURN(const std::vector<int32_t> question, model.tokenizer().Encode(sample.question));
  before.insert(before.end(), question.begin(), question.end());
  Decoder decoder(model.NewFork(state), &model.tokenizer(), {.max_tokens = 64});
  RETURN_IF_ERROR(decoder.Read(before));
  std::string answer;
  while (!decoder.stop_reason()) {
    ASSIGN_OR_RETURN(const Decoder::Piece piece, decoder.Next());
    answer += piece.text;
  }
  return answer;
}

}  // namespace mnemosyne
