#include "train/recall_inspection.h"

#include <ATen/ATen.h>

#include "core/base/status_macros.h"
#include "core/model/titans.h"
#include "train/drill.h"
#include "train/loaded_titans.h"

namespace mnemosyne {

using at::Tensor;

namespace {

// A document's state, and where its keys of values are.
struct ReadDocument {
  BatchState state;
  Tensor keys;         // [H d, T]: of every token, heads side by side
  Tensor is_value;     // [T], 1 where a fact's value is
  Tensor byte_values;  // [T, 256], one-hot
};

void InspectFact(const Titans& titans, const ReadDocument& told, const ToldFact& fact, Random& random,
                 RecallInspection* sums) {
  const Exercise exercise = MakeExercise(fact.fact, /*echo_share=*/0, random);
  const Tensor tokens = AsBatch(exercise.tokens);
  BatchState fork = told.state;
  const Titans::Output answered = titans.Forward(tokens.narrow(1, 0, tokens.size(1) - 1), &fork, Titans::Logits::kAll);
  const int64_t length = fact.fact.value.size(), from = exercise.value - 1;
  const double heads = static_cast<double>(answered.queries[0].size(1));
  const Tensor queries = answered.queries[0][0].narrow(1, from, length).transpose(0, 1).flatten(1, 2);  // [length, H d]
  const Tensor cosines = queries.mm(told.keys) / heads;                                                 // [length, T]
  const Tensor own = at::arange(length) + fact.value;
  const Tensor wanted = tokens[0].narrow(0, exercise.value, length);
  Tensor others = told.is_value.clone();
  others.narrow(0, fact.value, length).zero_();
  const Tensor readout = (cosines * told.is_value).mm(told.byte_values);  // [length, 256]
  const Tensor right = answered.logits[0].narrow(0, from, length).argmax(1) == wanted;

  const auto count = [](const Tensor& t) { return t.sum().to(at::kDouble).item<double>(); };
  sums->characters += length;
  sums->answers += 1;
  sums->signal += count(cosines.gather(1, own.unsqueeze(1)));
  sums->noise += count((cosines * others).pow(2));
  sums->found += count(cosines.argmax(1) == own);
  sums->linear += count(readout.argmax(1) == wanted);
  sums->right += count(right);
  sums->exact += right.all().item<bool>() ? 1 : 0;
}

}  // namespace

absl::StatusOr<RecallInspection> InspectRecall(const std::string& folder, const DocumentOptions& options,
                                               int64_t documents, uint64_t seed, const Vocabulary& vocabulary,
                                               const Haystack& haystack) {
  ASSIGN_OR_RETURN(const LoadedTitans model, LoadTitans(folder));
  if (!HasAddresses(model.config) || model.config.tokenizer.kind != TokenizerKind::kBytes ||
      model.config.vocab_size < 258) {
    return absl::InvalidArgumentError(
        "only models with the tokenizer 'bytes' and a vocab_size of at least 258 whose first block with a memory is "
        "lmm, mag or mal can be inspected");
  }
  const at::NoGradGuard no_grad;
  const Titans& titans = *model.titans;

  RecallInspection sums;
  Random random(seed);
  for (int64_t i = 0; i < documents; ++i) {
    const Document document = MakeDocument(options, vocabulary, haystack, haystack, random);
    const Tensor tokens = AsBatch(document.tokens);
    ReadDocument told;
    told.state = titans.InitialState(1);
    const Titans::Output read = titans.Forward(tokens, &told.state, Titans::Logits::kNone);
    told.keys = read.keys[0][0].transpose(1, 2).flatten(0, 1);
    told.is_value = at::zeros({tokens.size(1)});
    for (const ToldFact& fact : document.facts) told.is_value.narrow(0, fact.value, fact.fact.value.size()).fill_(1);
    told.byte_values = at::one_hot(tokens[0], 256).to(at::kFloat);
    for (const ToldFact& fact : document.facts) InspectFact(titans, told, fact, random, &sums);
  }
  const double characters = std::max<double>(1, static_cast<double>(sums.characters));
  for (double* sum : {&sums.signal, &sums.noise, &sums.found, &sums.linear, &sums.right}) *sum /= characters;
  sums.exact /= std::max<double>(1, static_cast<double>(sums.answers));
  return sums;
}

}  // namespace mnemosyne
