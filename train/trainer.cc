#include "train/trainer.h"

#include <torch/optim/adamw.h>
#include <torch/serialize/archive.h>

#include <atomic>
#include <sstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/model.h"
#include "core/model/parameters.h"
#include "core/model/session_state.h"
#include "train/drill.h"
#include "train/grow.h"
#include "train/initial_weights.h"

namespace mnemosyne {

using at::Tensor;

namespace {

constexpr int64_t kGroupFloats = 3'400'000;  // of a group's widest product: more of them fall out of a core's cache
constexpr size_t kShortExercise = 96;  // tokens; longer ones are computed apart, or padding would cost more than text

constexpr float kFirstSpread = 4;  // of a value's first character, against the others

// Rows of a group: as many as a core's cache takes, so that a small model's operators have something to do, but at most
// half, so that a second thread has something too.
int64_t GroupRows(const ModelConfig& config, const Recipe& recipe, bool is_cpu) {
  if (!is_cpu) return recipe.rows;
  int64_t widest = std::max({3 * config.dim, 2 * config.ff_dim, config.vocab_size});
  for (const BlockKind kind : config.blocks) {
    if (HasMemory(kind)) widest = std::max(widest, 4 * config.memory.inner());
  }
  return std::clamp<int64_t>(kGroupFloats / (widest * recipe.segment_tokens), 1, (recipe.rows + 1) / 2);
}

bool IsTrained(const std::string& name, const std::vector<std::string>& only) {
  return only.empty() ||
         std::any_of(only.begin(), only.end(), [&](const std::string& part) { return absl::StrContains(name, part); });
}

// Calls work(0) to work(count - 1), each once, on `threads` threads that end before it returns.
void RunOnThreads(int threads, size_t count, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next = 0;
  std::vector<std::thread> pool;
  for (size_t t = 0; t < std::min<size_t>(threads, count); ++t) {
    pool.emplace_back([&] {
      EnterWorkerThread();
      for (size_t i = next++; i < count; i = next++) work(i);
    });
  }
  for (std::thread& thread : pool) thread.join();
}

}  // namespace

Trainer::Segments Trainer::Segments::On(at::Device device) const {
  return {tokens.to(device),
          outside.to(device),
          values.to(device),
          of_fact.to(device),
          spread.to(device),
          answers.to(device),
          fresh};
}

Trainer::Questions Trainer::Questions::On(at::Device device) const {
  return {rows, tokens.to(device), targets.to(device), is_answer.to(device), weights.to(device), matches};
}

absl::Status Trainer::Check(const ModelConfig& config, const Recipe& recipe, const std::vector<std::string>& only) {
  const std::vector<ParameterShape> shapes = ParameterShapes(config);
  for (const std::string& part : only) {
    const auto has_part = [&](const ParameterShape& one) { return absl::StrContains(one.name, part); };
    if (std::none_of(shapes.begin(), shapes.end(), has_part)) {
      return absl::InvalidArgumentError(absl::StrCat("no weight of the model has '", part, "' in its name"));
    }
  }
  if (recipe.segment_tokens % config.block_tokens() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("recipe key 'segment_tokens' is ", recipe.segment_tokens,
                                                   "; it must be a multiple of ", config.block_tokens()));
  }
  if (recipe.echo_init && config.memory.conv < 3) {
    return absl::InvalidArgumentError(absl::StrCat("recipe key 'echo_init' is 1 and config key 'memory.conv' is ",
                                                   config.memory.conv, "; it must be at least 3"));
  }
  for (const Stage& stage : recipe.stages) {
    RETURN_IF_ERROR(CheckLessons(stage.lessons, config));
    if (stage.drill_facts == 0) continue;
    if (!HasAddresses(config) || recipe.segment_tokens < 256 || config.memory.conv > kDrillReach) {
      return absl::InvalidArgumentError(
          absl::StrCat("recipe key 'drill_facts' is not 0: the first block with a memory must then be lmm, mag or mal, "
                       "'segment_tokens' at least 256 and config key 'memory.conv' at most ",
                       kDrillReach));
    }
  }
  return absl::OkStatus();
}

Trainer::Trainer(const ModelConfig& config, const Recipe& recipe, LessonData data, const Options& options)
    : config_(config),
      recipe_(recipe),
      data_(std::move(data)),
      rows_(recipe.rows),
      threads_(options.threads),
      device_(options.device) {
  at::manual_seed(recipe.seed);
  Random random(recipe.seed);
  constexpr int64_t kBytesAToken = 8;  // at most, of most text
  std::vector<int32_t> text = TokensOf(*data_.tokenizer, data_.english.Draw(kBytesAToken * kCenteringTokens, random));
  while (text.size() < kCenteringTokens) text.insert(text.end(), text.begin(), text.end());
  text.resize(kCenteringTokens);
  parameters_ = InitialWeights(config, recipe.gate_bias, recipe.echo_init, text);
  std::vector<Tensor> matrices, others, keys;
  for (const ParameterShape& one : ParameterShapes(config)) {
    Tensor& weight = parameters_.at(one.name);
    weight = weight.to(device_);
    if (!IsTrained(one.name, options.only)) continue;
    weights_.push_back(weight);
    if (recipe.echo_init && IsOfKeys(one.name)) {
      keys.push_back(weight);
    } else {
      (one.shape.size() > 1 ? matrices : others).push_back(weight);
    }
  }
  for (Tensor& weight : weights_) weight.requires_grad_(true);
  const auto with_decay = [&](double decay) {
    return std::make_unique<torch::optim::AdamWOptions>(
        torch::optim::AdamWOptions(recipe.learning_rate).betas({0.9, 0.95}).weight_decay(decay));
  };
  optimizer_ = std::make_unique<torch::optim::AdamW>(std::vector<torch::optim::OptimizerParamGroup>{
      {matrices, with_decay(recipe.weight_decay)}, {others, with_decay(0.0)}});
  if (!keys.empty()) optimizer_->add_param_group({keys, with_decay(0.0)});
  const int64_t group_rows = GroupRows(config, recipe, device_.is_cpu());
  for (int64_t begin = 0; begin < recipe.rows; begin += group_rows) {
    groups_.push_back({begin, std::min(begin + group_rows, recipe.rows), {}});
  }
  ForgetStates();
  for (int64_t r = 0; r < recipe.rows; ++r) BeginLesson(r);
}

Trainer::~Trainer() = default;

void Trainer::ForgetStates() {
  const at::NoGradGuard no_grad;
  const Titans titans(config_, parameters_);
  for (Group& group : groups_) group.state = titans.InitialState(group.end - group.begin);
}

// Which lesson comes is a function of the seed, the row, a count and the step's stage, so that a resumed run reads the
// same ones.
void Trainer::BeginLesson(int64_t row) {
  Row& one = rows_[row];
  std::seed_seq seed{recipe_.seed, static_cast<uint64_t>(row), one.lessons};
  Random random(seed);
  const Stage& stage = recipe_.StageAt(step_);
  one.lesson = MakeLesson(stage.lessons, data_, random);
  one.carried = one.lessons > 0 && std::uniform_real_distribution<double>(0, 1)(random) < stage.carried_share;
  one.lessons += 1;
  one.begun_at = step_;
  one.cursor = 0;
}

Trainer::Segments Trainer::NextSegments(const Group& group) {
  const int64_t rows = group.end - group.begin, tokens = recipe_.segment_tokens;
  Segments segments;
  std::vector<int64_t> ids, values, of_fact;
  std::vector<float> spread;
  int64_t facts = 0;
  std::vector<float> outside(rows * tokens, 1.0f), answers(rows * (tokens - 1), 0.0f);
  ids.reserve(rows * tokens);
  for (int64_t i = 0; i < rows; ++i) {
    Row& row = rows_[group.begin + i];
    segments.fresh.push_back(row.cursor == 0 && !row.carried);
    const auto from = row.lesson.tokens.begin() + row.cursor;
    ids.insert(ids.end(), from, from + tokens);
    for (const Told& told : row.lesson.told) {
      const int64_t begin = std::max(told.begin, row.cursor), end = std::min(told.end, row.cursor + tokens);
      for (int64_t t = begin; t < end; ++t) outside[i * tokens + t - row.cursor] = 0;
      for (int64_t c = 0; c < told.length; ++c) {
        const int64_t t = told.value + c - row.cursor;
        if (t < 0 || t >= tokens) continue;
        values.push_back(i * tokens + t);
        of_fact.push_back(facts);
        spread.push_back(c == 0 ? kFirstSpread : 1.0f);
      }
      ++facts;
    }
    for (const int64_t answer : row.lesson.answers) {
      const int64_t t = answer - row.cursor - 1;
      if (t >= 0 && t < tokens - 1) answers[i * (tokens - 1) + t] = 1;
    }
    row.cursor += tokens;
  }
  segments.answers = at::tensor(answers).view({rows, tokens - 1});
  segments.outside = at::tensor(outside).view({rows, tokens});
  segments.tokens = at::tensor(ids).view({rows, tokens});
  segments.values = at::tensor(values, at::kLong);
  segments.of_fact = at::tensor(of_fact, at::kLong);
  segments.spread = at::tensor(spread, at::kFloat);
  return segments;
}

// Half of the questions are about what the last segment told: there lies the gradient of writing. The rest are about
// anything so far: there lies the gradient of keeping.
std::vector<Trainer::Questions> Trainer::AskRows(const Group& group) const {
  struct Asked {
    int64_t row;  // of the group
    Exercise exercise;
    Match match;
  };
  std::vector<Asked> by_length[2];
  for (int64_t r = group.begin; r < group.end; ++r) {
    const Row& row = rows_[r];
    std::seed_seq seed{recipe_.seed, static_cast<uint64_t>(r), static_cast<uint64_t>(step_), uint64_t{7}};
    Random random(seed);
    for (int64_t q = 0; q < recipe_.questions; ++q) {
      std::optional<Exercise> exercise = row.lesson.ask(row.cursor, recipe_.segment_tokens, random);
      if (!exercise) break;
      Match match;
      if (exercise->told >= 0) {
        const Told& told = row.lesson.told[exercise->told];
        const int64_t to = told.value - (row.cursor - recipe_.segment_tokens);
        if (to >= 0) match = {0, r - group.begin, exercise->value - 1, to, told.length};
      }
      by_length[exercise->tokens.size() > kShortExercise].push_back({r - group.begin, *std::move(exercise), match});
    }
  }
  const float first_weight = recipe_.StageAt(step_).first_weight;
  std::vector<Questions> batches;
  for (const auto& exercises : by_length) {
    if (exercises.empty()) continue;
    size_t longest = 0;
    for (const auto& [row, exercise, match] : exercises) longest = std::max(longest, exercise.tokens.size() - 1);
    std::vector<int64_t> rows, tokens, targets;
    std::vector<float> is_answer, weights;
    std::vector<Match> matches;
    for (const auto& [row, exercise, match] : exercises) {
      if (match.length > 0) {
        matches.push_back(match);
        matches.back().question = rows.size();
      }
      rows.push_back(row);
      for (size_t i = 0; i < longest; ++i) {
        const bool is_inside = i + 1 < exercise.tokens.size();
        tokens.push_back(is_inside ? exercise.tokens[i] : 0);
        targets.push_back(is_inside ? exercise.tokens[i + 1] : 0);
        const int64_t place = static_cast<int64_t>(i) + 1 - exercise.answer_begin;
        is_answer.push_back(is_inside && place >= 0 ? 1 : 0);
        weights.push_back(is_answer.back() * (place <= 2 ? first_weight : 1.0f));
      }
    }
    const std::vector<int64_t> shape = {static_cast<int64_t>(rows.size()), static_cast<int64_t>(longest)};
    batches.push_back({std::move(rows), at::tensor(tokens).view(shape), at::tensor(targets).view(shape),
                       at::tensor(is_answer).view(shape), at::tensor(weights).view(shape), std::move(matches)});
  }
  return batches;
}

Trainer::StepReport Trainer::Step() {
  std::vector<int64_t> ended;
  for (int64_t r = 0; r < recipe_.rows; ++r) {
    const Row& row = rows_[r];
    if (row.cursor + recipe_.segment_tokens > static_cast<int64_t>(row.lesson.tokens.size())) ended.push_back(r);
  }
  RunOnThreads(threads_, ended.size(), [&](size_t i) { BeginLesson(ended[i]); });

  std::vector<Batch> batches;
  Totals totals;
  for (const Group& group : groups_) {
    Batch batch;
    batch.segments = NextSegments(group);
    batch.questions = AskRows(group);
    totals.values += static_cast<double>(batch.segments.values.size(0));
    totals.outside += batch.segments.outside.sum().item<double>();
    totals.inline_answers += batch.segments.answers.sum().item<double>();
    for (const Questions& questions : batch.questions) {
      totals.answer_bytes += questions.is_answer.sum().item<double>();
      for (const Match& match : questions.matches) totals.matches += static_cast<double>(match.length);
      totals.answer_weights += questions.weights.sum().item<double>();
    }
    batches.push_back(std::move(batch));
  }
  totals.rows = static_cast<double>(recipe_.rows);
  const double inside = totals.rows * static_cast<double>(recipe_.segment_tokens) - totals.outside;

  const size_t drills = recipe_.StageAt(step_).drill_facts > 0 ? kDrills : 0;
  std::vector<GroupReport> reports(groups_.size() + drills);
  RunOnThreads(threads_, reports.size(), [&](size_t i) {
    reports[i] = i < drills ? RunDrill(i) : RunGroup(groups_[i - drills], batches[i - drills], totals);
  });

  StepReport report;
  double asked = 0;
  for (const GroupReport& one : reports) {
    report.text_loss += one.text / (totals.rows * static_cast<double>(recipe_.segment_tokens - 1));
    report.tokens += one.tokens;
    report.answer_loss += one.answer / std::max(1.0, totals.answer_bytes);
    report.answer_accuracy += one.wrong;
    report.exact += one.exact;
    report.write += one.write / std::max(1.0, totals.outside);
    report.write_facts += one.write_facts / std::max(1.0, inside);
    report.spread += one.spread;
    report.found += one.found / std::max(1.0, totals.matches);
    report.drill_found += one.drill_found / static_cast<double>(kDrills);
    report.drill_noise += one.drill_noise / static_cast<double>(kDrills);
    report.drill_confused += one.drill_confused / static_cast<double>(kDrills);
    report.keys_alike += one.alike / totals.rows;
    asked += one.asked;
  }
  report.answer_accuracy = 1 - report.answer_accuracy / std::max(1.0, totals.answer_bytes);
  report.exact /= std::max(1.0, asked);

  const at::NoGradGuard no_grad;
  std::vector<Tensor> gradients(weights_.size());
  std::vector<Tensor> squares;
  for (size_t w = 0; w < weights_.size(); ++w) {
    for (const GroupReport& one : reports) {
      if (!one.gradients[w].defined()) continue;
      gradients[w] = gradients[w].defined() ? gradients[w] + one.gradients[w] : one.gradients[w];
    }
    if (gradients[w].defined()) squares.push_back(gradients[w].pow(2).sum());
  }
  report.gradient_norm = at::stack(squares).to(at::kDouble).sum().sqrt().item<double>();
  if (std::isfinite(report.gradient_norm)) {
    const double scale = std::min(1.0, recipe_.clip_norm / std::max(report.gradient_norm, 1e-12));
    for (size_t w = 0; w < weights_.size(); ++w) {
      if (gradients[w].defined()) weights_[w].mutable_grad() = gradients[w] * scale;
    }
    auto& groups = optimizer_->param_groups();
    for (size_t g = 0; g < groups.size(); ++g) {
      const double pace = g < 2 ? 1.0 : recipe_.StageAt(step_).keys_pace;
      static_cast<torch::optim::AdamWOptions&>(groups[g].options()).lr(pace * recipe_.LearningRateAt(step_));
    }
    optimizer_->step();
    for (size_t i = 0; i < groups_.size(); ++i) groups_[i].state = std::move(reports[drills + i].state);
  } else {  // the memories that led here are not worth keeping: every row starts anew
    for (Row& row : rows_) row.cursor = row.lesson.tokens.size();
    ForgetStates();
  }
  report.step = ++step_;
  return report;
}

absl::Status Trainer::SaveCheckpoint(const std::string& path) const {
  torch::serialize::OutputArchive archive, optimizer;
  for (const auto& [name, tensor] : parameters_) archive.write("parameter." + name, tensor.detach().cpu());
  optimizer_->save(optimizer);
  archive.write("optimizer", optimizer);
  // All rows' states together: another device may group them otherwise.
  std::map<std::string, std::vector<Tensor>> states;
  std::vector<int64_t> offsets;
  for (const Group& group : groups_) {
    for (const StateTensor& one : StateTensors(group.state)) states[one.name].push_back(one.tensor.cpu());
    offsets.insert(offsets.end(), group.state.offsets.begin(), group.state.offsets.end());
  }
  for (const auto& [name, tensors] : states) archive.write("state." + name, at::cat(tensors));
  archive.write("offsets", at::tensor(offsets));
  std::vector<int64_t> lessons, cursors, begun;
  for (size_t r = 0; r < rows_.size(); ++r) {
    lessons.push_back(rows_[r].lessons);
    cursors.push_back(rows_[r].cursor);
    begun.push_back(rows_[r].begun_at);
  }
  archive.write("lessons", at::tensor(lessons));
  archive.write("cursors", at::tensor(cursors));
  archive.write("begun", at::tensor(begun));
  archive.write("step", at::tensor(step_));
  std::ostringstream bytes;
  archive.save_to(bytes);
  return WriteFileAtomically(path, bytes.str());
}

absl::Status Trainer::LoadCheckpoint(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  try {
    std::istringstream stream(bytes);
    torch::serialize::InputArchive archive, optimizer;
    archive.load_from(stream, device_);
    const at::NoGradGuard no_grad;
    const auto read = [&](const std::string& key) {
      Tensor tensor;
      archive.read(key, tensor);
      return tensor;
    };
    for (auto& [name, tensor] : parameters_) tensor.copy_(read("parameter." + name));
    archive.read("optimizer", optimizer);
    optimizer_->load(optimizer);
    const Tensor lessons = read("lessons"), cursors = read("cursors"), begun = read("begun");
    for (size_t r = 0; r < rows_.size(); ++r) {
      rows_[r].lessons = lessons[r].item<int64_t>() - 1;
      step_ = begun[r].item<int64_t>();
      BeginLesson(r);
      rows_[r].cursor = cursors[r].item<int64_t>();
    }
    step_ = read("step").item<int64_t>();
    const Tensor offsets = read("offsets");
    for (Group& group : groups_) {
      for (const StateSlot& slot : StateSlots(&group.state)) {
        const Tensor all = read("state." + slot.name);
        const int64_t each = all.size(0) / recipe_.rows;  // memory tensors hold [rows * heads, ...]
        *slot.tensor = all.narrow(0, group.begin * each, (group.end - group.begin) * each).clone();
      }
      for (int64_t r = group.begin; r < group.end; ++r) {
        group.state.offsets[r - group.begin] = offsets[r].item<int64_t>();
      }
    }
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat("checkpoint '", path, "': ", error.what()));
  }
  return absl::OkStatus();
}

absl::Status Trainer::StartFrom(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string config_text, ReadFile(folder + "/config.json"));
  ASSIGN_OR_RETURN(const ModelConfig from, ParseModelConfig(config_text));
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(folder + "/model.safetensors"));
  ASSIGN_OR_RETURN(const std::vector<NamedTensor> trained, LoadParameters(from, bytes));
  RETURN_IF_ERROR(GrowWeights(from, trained, config_, &parameters_));
  ForgetStates();
  return absl::OkStatus();
}

absl::Status Trainer::ExportModel(const std::string& folder) const {
  std::vector<NamedTensor> tensors;
  for (const ParameterShape& one : ParameterShapes(config_)) {
    const Tensor value = parameters_.at(one.name).detach().cpu().contiguous();
    tensors.push_back({one.name, one.shape, {value.data_ptr<float>(), value.data_ptr<float>() + value.numel()}});
  }
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/model.safetensors", FormatSafetensors(tensors)));
  if (!data_.tokenizer_file.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/", config_.tokenizer.file), data_.tokenizer_file));
  }
  return WriteFileAtomically(folder + "/config.json", FormatModelConfig(config_));
}

}  // namespace mnemosyne
