#include "train/recipe.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {

using Json = nlohmann::json;

// Takes keys out of an object one by one; what is left at the end is unknown.
class Keys {
 public:
  Keys(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  template <typename T>
  void Take(const char* key, T* value, double low, double high) {
    if (!status_.ok()) return;
    const auto found = object_.find(key);
    if (found == object_.end() || !found->is_number()) {
      status_ = absl::InvalidArgumentError(absl::StrCat("recipe key '", where_, key, "' is missing or not a number"));
      return;
    }
    const double number = found->template get<double>();
    if (number < low || number > high) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("recipe key '", where_, key, "' is ", number, "; it must be in [", low, ", ", high, "]"));
      return;
    }
    *value = static_cast<T>(number);
    object_.erase(key);
  }
  // An object of weights by name; those that are not named are 0.
  absl::Status TakeWeights(const char* key, const std::map<std::string, double*>& weights) {
    RETURN_IF_ERROR(status_);
    const Json named = object_.value(key, Json());
    if (!named.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat("recipe key '", where_, key, "' is missing or not an object"));
    }
    object_.erase(key);
    double sum = 0;
    for (const auto& [name, weight] : weights) *weight = 0;
    for (const auto& [name, number] : named.items()) {
      const std::string whole = absl::StrCat(where_, key, ".", name);
      const auto found = weights.find(name);
      if (found == weights.end())
        return absl::InvalidArgumentError(absl::StrCat("recipe key '", whole, "' is unknown"));
      if (!number.is_number() || number.get<double>() < 0 || number.get<double>() > 1e6) {
        return absl::InvalidArgumentError(absl::StrCat("recipe key '", whole, "' is not a number in [0, 1e6]"));
      }
      sum += * found->second = number.get<double>();
    }
    if (sum > 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("recipe key '", where_, key, "' has no weight above 0"));
  }
  absl::Status Finish() const {
    RETURN_IF_ERROR(status_);
    if (object_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("recipe key '", where_, object_.begin().key(), "' is unknown"));
  }

 private:
  Json object_;
  const std::string where_;
  absl::Status status_;
};

std::map<std::string, double*> TaskWeights(LessonOptions* lessons) {
  FactWeights& facts = lessons->documents.facts;
  std::map<std::string, double*> weights = {
      {"number", &facts.number}, {"word", &facts.word}, {"uuid", &facts.uuid}, {"everyday", &facts.everyday}};
  for (size_t i = 0; i < lessons->babi.size(); ++i) weights[absl::StrCat("qa", i + 1)] = &lessons->babi[i];
  return weights;
}

}  // namespace

int64_t Recipe::steps() const {
  int64_t total = 0;
  for (const Stage& stage : stages) total += stage.steps;
  return total;
}

const Stage& Recipe::StageAt(int64_t step) const {
  for (const Stage& stage : stages) {
    if (step < stage.steps) return stage;
    step -= stage.steps;
  }
  return stages.back();
}

double Recipe::LearningRateAt(int64_t step) const {
  if (step < warmup_steps) return learning_rate * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  const double done = static_cast<double>(step - warmup_steps) / static_cast<double>(steps() - warmup_steps);
  return learning_rate * (0.1 + 0.45 * (1.0 + std::cos(std::numbers::pi * done)));
}

absl::StatusOr<Recipe> ParseRecipe(absl::string_view json_text) {
  Json root = Json::parse(json_text.begin(), json_text.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return absl::InvalidArgumentError("the recipe is not a JSON object");
  const Json stages = root.value("stages", Json());
  if (!stages.is_array() || stages.empty()) {
    return absl::InvalidArgumentError("recipe key 'stages' is missing or not a list of stages");
  }
  root.erase("stages");
  Recipe recipe;
  Keys keys(root, "");
  keys.Take("seed", &recipe.seed, 0, 1e15);
  keys.Take("rows", &recipe.rows, 1, 4096);
  keys.Take("segment_tokens", &recipe.segment_tokens, 1, 1 << 20);
  keys.Take("questions", &recipe.questions, 1, 64);
  keys.Take("learning_rate", &recipe.learning_rate, 0, 1);
  keys.Take("warmup_steps", &recipe.warmup_steps, 1, 1e9);
  keys.Take("weight_decay", &recipe.weight_decay, 0, 1);
  keys.Take("clip_norm", &recipe.clip_norm, 1e-9, 1e9);
  keys.Take("gate_bias", &recipe.gate_bias, -30, 30);
  keys.Take("echo_init", &recipe.echo_init, 0, 1);
  RETURN_IF_ERROR(keys.Finish());
  for (size_t i = 0; i < stages.size(); ++i) {
    if (!stages[i].is_object())
      return absl::InvalidArgumentError(absl::StrCat("recipe stage ", i, " is not an object"));
    Stage stage;
    Keys of_stage(stages[i], absl::StrCat("stages[", i, "]."));
    of_stage.Take("steps", &stage.steps, 1, 1e9);
    of_stage.Take("write_cost", &stage.write_cost, 0, 100);
    of_stage.Take("key_cost", &stage.key_cost, 0, 100);
    of_stage.Take("keys_pace", &stage.keys_pace, 0, 10);
    of_stage.Take("spread_cost", &stage.spread_cost, 0, 1000);
    of_stage.Take("match_cost", &stage.match_cost, 0, 100);
    of_stage.Take("drill_facts", &stage.drill_facts, 0, 1024);
    of_stage.Take("drill_cost", &stage.drill_cost, 0, 100);
    of_stage.Take("min_tokens", &stage.lessons.documents.min_tokens, 1, 1e9);
    of_stage.Take("max_tokens", &stage.lessons.documents.max_tokens,
                  static_cast<double>(stage.lessons.documents.min_tokens), 1e9);
    of_stage.Take("min_facts", &stage.lessons.documents.min_facts, 1, 1e6);
    of_stage.Take("max_facts", &stage.lessons.documents.max_facts,
                  static_cast<double>(stage.lessons.documents.min_facts), 1e6);
    of_stage.Take("noise_share", &stage.lessons.documents.noise_share, 0, 1);
    of_stage.Take("two_digit_share", &stage.lessons.documents.two_digit_share, 0, 1);
    of_stage.Take("distractor_share", &stage.lessons.documents.distractor_share, 0, 1);
    of_stage.Take("echo_share", &stage.lessons.documents.echo_share, 0, 1);
    of_stage.Take("carried_share", &stage.carried_share, 0, 1);
    RETURN_IF_ERROR(of_stage.TakeWeights("tasks", TaskWeights(&stage.lessons)));
    of_stage.Take("inline_questions", &stage.lessons.inline_questions, 0, 1);
    of_stage.Take("text_weight", &stage.text_weight, 0, 100);
    of_stage.Take("answer_weight", &stage.answer_weight, 0, 100);
    of_stage.Take("first_weight", &stage.first_weight, 0.01, 100);
    RETURN_IF_ERROR(of_stage.Finish());
    stage.lessons.documents.step = recipe.segment_tokens;
    recipe.stages.push_back(stage);
  }
  return recipe;
}

}  // namespace mnemosyne
