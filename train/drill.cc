#include "train/drill.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace mnemosyne {

using at::Tensor;

namespace {

constexpr double kFactsOfMeasure = 20;
constexpr int64_t kMinGap = 32, kMaxGap = 64;  // bytes of text before a question
constexpr int64_t kSliceRows = 4;              // computed together on a CPU: few enough for a core's cache

// A question looks for its keys among all of the drill: nats by which a softmax over them misses it.
constexpr double kMatchScale = 20, kMatchCost = 0.3;
constexpr double kValueCost = 1;
// Few keys that are much alike do more harm than many that are a little: the fourth power finds them.
constexpr double kTail = 8;

}  // namespace

bool HasAddresses(const ModelConfig& config) {
  const auto memory = std::find_if(config.blocks.begin(), config.blocks.end(), HasMemory);
  return memory != config.blocks.end() && *memory != BlockKind::kMac;
}

Drill MakeDrill(const DocumentOptions& options, int64_t facts, int64_t row_tokens, const Vocabulary& vocabulary,
                const Haystack& english, const Haystack& noise, Random& random) {
  DocumentOptions dense = options;
  dense.min_tokens = dense.max_tokens = dense.step = row_tokens;
  dense.min_facts = dense.max_facts = row_tokens / 48;
  // In half of the drills all numbers have the same two digits: what came before a character then says even less about
  // whose it is than in one document of such numbers.
  if (random() % 2 == 0) dense.digits = TwoDigits(random);
  std::vector<int64_t> tokens, told, asked, fact, place;
  size_t longest = 0;
  std::vector<Exercise> exercises;
  while (static_cast<int64_t>(told.size()) < facts) {
    const Document document = MakeDocument(dense, vocabulary, english, noise, random);
    for (const ToldFact& one : document.facts) {
      if (one.value < kDrillReach || static_cast<int64_t>(told.size()) == facts) continue;
      for (size_t c = 0; c < one.fact.value.size(); ++c) {
        fact.push_back(static_cast<int64_t>(told.size()));
        place.push_back(static_cast<int64_t>(c));
      }
      longest = std::max(longest, one.fact.value.size());
      told.push_back(static_cast<int64_t>(tokens.size()) + one.value);
      exercises.push_back(MakeExercise(one.fact, options.echo_share, random));
    }
    tokens.insert(tokens.end(), document.tokens.begin(), document.tokens.end());
  }
  const auto add_text = [&](int64_t bytes) {
    if (bytes == 0) return;
    for (const unsigned char byte : english.Draw(bytes, random)) tokens.push_back(byte);
  };
  const auto room = [&] { return row_tokens - static_cast<int64_t>(tokens.size()) % row_tokens; };
  for (const Exercise& exercise : exercises) {
    const int64_t gap = std::uniform_int_distribution<int64_t>(kMinGap, kMaxGap)(random);
    if (gap + static_cast<int64_t>(exercise.tokens.size()) > room()) add_text(room() % row_tokens);
    add_text(gap);
    asked.push_back(static_cast<int64_t>(tokens.size()) + exercise.value);
    tokens.insert(tokens.end(), exercise.tokens.begin(), exercise.tokens.end());
  }
  add_text(room() % row_tokens);
  return {at::tensor(tokens, at::kLong).view({-1, row_tokens}),
          at::tensor(told, at::kLong),
          at::tensor(asked, at::kLong),
          at::tensor(fact, at::kLong),
          at::tensor(place, at::kLong),
          static_cast<int64_t>(longest)};
}

Drill Drill::On(at::Device device) const {
  return {tokens.to(device), told.to(device), asked.to(device), fact.to(device), place.to(device), longest};
}

// A linear memory that was told values v_j under keys k_j answers query q_i with the sum of v_j (q_i . k_j). With c the
// heads' mean cosine, the wanted part is c_ii and what other values add has the mean square sum of c_ij^2; the loss is
// their ratio, with a tail, and the miss of a softmax; and of the values, by their directions in each head, how far
// equal characters are from parallel and others from orthogonal, or a head says nothing about what it was told. Keys of
// other facts count as if there were kFactsOfMeasure; those of the same value are always few.
DrillScore ScoreDrill(const Titans& titans, int64_t taps, const Drill& drill) {
  std::vector<Tensor> slices;
  const int64_t slice_rows = drill.tokens.is_cpu() ? kSliceRows : drill.tokens.size(0);
  for (const Tensor& rows : drill.tokens.split(slice_rows)) slices.push_back(titans.FirstMemoryInput(rows));
  const Tensor x = at::cat(slices).flatten(0, 1);  // [N T, D]

  // The key of a character is of the token itself, its query of the one before.
  const int64_t longest = drill.longest;
  const auto index = drill.fact.options();
  const Tensor chosen = drill.fact * longest + drill.place;
  const auto vectors = [&](const Tensor& first, int64_t shift, Tensor (NeuralMemory::*addresses)(const Tensor&) const) {
    const Tensor window = at::arange(1 - taps, longest, index) + shift;
    const Tensor places =
        (first.unsqueeze(1) + window.unsqueeze(0)).clamp_max(x.size(0) - 1);  // [F, taps - 1 + longest]
    const Tensor inputs = x.index_select(0, places.flatten()).view({places.size(0), places.size(1), x.size(1)});
    return (titans.FirstMemory().*addresses)(inputs)
        .transpose(1, 2)
        .reshape({places.size(0) * longest, -1})
        .index_select(0, chosen);  // [n, H d]
  };
  const Tensor keys = vectors(drill.told, 0, &NeuralMemory::Keys);
  const Tensor queries = vectors(drill.asked, -1, &NeuralMemory::Queries);
  const int64_t heads = titans.FirstMemory().heads();
  const Tensor common = queries.mm(keys.t()) / static_cast<double>(heads);  // [n, n]

  const int64_t n = common.size(0);
  const Tensor is_other = (drill.fact.unsqueeze(0) != drill.fact.unsqueeze(1)).to(at::kFloat);
  const double each = (kFactsOfMeasure - 1) / std::max<double>(1, static_cast<double>(drill.told.size(0) - 1));
  const Tensor weight = is_other * each + (1 - is_other) * (1 - at::eye(n, common.options()));
  const Tensor squares = common.pow(2), signal = common.diagonal().clamp_min(0.1).pow(2);
  const Tensor noise = (weight * squares).sum(1) / signal;
  const Tensor tail = (weight * squares.pow(2)).sum(1) / signal;
  const Tensor miss = -(kMatchScale * common).log_softmax(-1).diagonal();

  const Tensor values = vectors(drill.told, 0, &NeuralMemory::Values).view({n, heads, -1}).transpose(0, 1);
  const Tensor directions = values / values.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
  const Tensor alike = directions.bmm(directions.transpose(1, 2));  // [H, n, n]
  const Tensor bytes = drill.tokens.flatten().index_select(0, drill.told.index_select(0, drill.fact) + drill.place);
  const Tensor is_equal = (bytes.unsqueeze(0) == bytes.unsqueeze(1)).to(at::kFloat);
  const Tensor unequal = (1 - is_equal) / (1 - is_equal).sum().clamp_min(1), equal = is_equal / is_equal.sum();
  const Tensor confused = (alike.pow(2) * unequal + (1 - alike).pow(2) * equal).sum(at::IntArrayRef({1, 2})).mean();

  DrillScore score;
  score.loss = (noise + kTail * tail + kMatchCost * miss).mean() + kValueCost * confused;
  const at::NoGradGuard no_grad;
  score.found = (common.argmax(1) == at::arange(n, index)).to(at::kFloat).mean().item<double>();
  score.noise = noise.mean().item<double>();
  score.confused = confused.item<double>();
  return score;
}

}  // namespace mnemosyne
