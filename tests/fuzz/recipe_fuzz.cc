// A training recipe's JSON.
#include <cmath>
#include <cstdint>

#include "tests/fuzz/require.h"
#include "train/recipe.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto recipe = ParseRecipe({reinterpret_cast<const char*>(data), size});
  if (!recipe.ok()) {
    RequireError(recipe.status(), {absl::StatusCode::kInvalidArgument});
    return 0;
  }
  Require(!recipe->stages.empty() && recipe->steps() >= static_cast<int64_t>(recipe->stages.size()),
          "every stage has steps");
  for (const Stage& stage : recipe->stages) {
    Require(stage.lessons.documents.min_tokens <= stage.lessons.documents.max_tokens,
            "a document has a range of lengths");
    Require(stage.lessons.documents.min_facts <= stage.lessons.documents.max_facts, "and of facts");
    Require(stage.lessons.documents.step == recipe->segment_tokens, "a document is whole segments");
  }
  const int64_t last = recipe->steps() - 1;
  for (const int64_t step : {int64_t{0}, last / 2, last}) {
    Require(recipe->StageAt(step).steps > 0, "every step has its stage");
    const double rate = recipe->LearningRateAt(step);
    Require(std::isfinite(rate) && rate >= 0 && rate <= recipe->learning_rate, "the learning rate has a peak");
  }
  return 0;
}

}  // namespace mnemosyne
