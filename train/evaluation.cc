#include "train/evaluation.h"

#include "absl/strings/ascii.h"
#include "core/base/status_macros.h"
#include "core/base/utf8.h"
#include "core/model/model.h"
#include "train/loaded_titans.h"
#include "train/recall_evaluation.h"

namespace mnemosyne {

namespace {

using Json = nlohmann::json;

absl::Status EvaluateText(const std::string& folder, const EvaluationPlan& plan, const Haystack& english,
                          const std::function<void(Json)>& done) {
  ASSIGN_OR_RETURN(const LoadedTitans model, LoadTitans(folder));
  for (const int64_t bytes : plan.bytes) {
    if (bytes == 0) continue;
    const double nats = TextLoss(model, english, plan.samples, bytes, plan.seed);
    done({{"task", "text"}, {"bytes", bytes}, {"nats_a_byte", nats}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<double> Evaluate(const std::string& folder, const EvaluationPlan& plan, const Vocabulary& vocabulary,
                                const Haystack& english, const std::function<void(Json)>& done) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Load(folder, {}));
  const auto reader = [&](const RecallSample& sample) {
    const absl::StatusOr<std::vector<std::string>> answers = ReadAndAnswer(*model, sample);
    for (size_t i = 0; plan.show_wrong && answers.ok() && i < answers->size(); ++i) {
      if (absl::StripAsciiWhitespace((*answers)[i]) == sample.answers[i]) continue;
      done({{"question", sample.questions[i]}, {"answer", sample.answers[i]}, {"given", ToValidUtf8((*answers)[i])}});
    }
    return answers;
  };
  double shares = 0;
  int64_t cells = 0;
  for (const std::string& name : plan.tasks) {
    if (name == "text") {
      RETURN_IF_ERROR(EvaluateText(folder, plan, english, done));
      continue;
    }
    RecallCell cell = {.samples = plan.samples, .seed = plan.seed};
    ASSIGN_OR_RETURN(cell.task, FindRecallTask(name));
    const std::vector<int64_t> facts = cell.task.story > 0 ? std::vector<int64_t>{1} : plan.facts;
    for (const int64_t bytes : plan.bytes) {
      for (const int64_t count : facts) {
        cell.bytes = bytes;
        cell.facts = count;
        ASSIGN_OR_RETURN(const RecallScore score, ScoreRecall(cell, vocabulary, english, reader));
        const double share = static_cast<double>(score.right) / static_cast<double>(score.questions);
        done({{"task", name},
              {"bytes", bytes},
              {"facts", count},
              {"questions", score.questions},
              {"right", score.right},
              {"exact_percent", 100 * share},
              {"characters", static_cast<double>(score.characters_right) / static_cast<double>(score.characters)}});
        shares += share;
        ++cells;
      }
    }
  }
  return cells == 0 ? 0.0 : shares / static_cast<double>(cells);
}

}  // namespace mnemosyne
