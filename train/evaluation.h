// Evaluation of a model's folder, beside its training or alone.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "train/recall_tasks.h"

namespace mnemosyne {

struct EvaluationPlan {
  std::vector<std::string> tasks;  // of FindRecallTask; or "text": nats a byte of held-out text
  std::vector<int64_t> bytes;      // haystack sizes; 0 with stories: no haystack
  std::vector<int64_t> facts;      // a haystack, each asked for
  int64_t samples = 20;            // a cell
  uint64_t seed = 1;
  bool show_wrong = false;  // also a line for each wrong answer
};

// Gives `done` a line for each task, size and number of facts, as it is measured. Returns the mean share of right
// answers over all of them; 0 when there are none.
absl::StatusOr<double> Evaluate(const std::string& folder, const EvaluationPlan& plan, const Vocabulary& vocabulary,
                                const Haystack& english, const std::function<void(nlohmann::json)>& done);

}  // namespace mnemosyne
