#include "train/trainer.h"

#include <torch/optim/adamw.h>
#include <torch/serialize/archive.h>

#include <sstream>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/parameters.h"
#include "core/model/session_state.h"

namespace mnemosyne {

using at::Tensor;

namespace {

// Random weights from which the memory learns to write: small first steps (gate_bias), convolutions that begin near
// the newest token.
Tensor InitialWeight(const ParameterShape& parameter, const ModelConfig& config, double gate_bias) {
  const std::string& name = parameter.name;
  const auto ends = [&](const char* suffix) { return name.ends_with(suffix); };
  const Tensor noise = at::randn(parameter.shape);
  if (name.find("norm") != std::string::npos) return at::ones(parameter.shape);
  if (ends("_conv.bias")) return at::zeros(parameter.shape);
  if (ends("_conv.weight")) {
    Tensor taps = 0.3 * noise;
    taps.select(1, config.memory.conv - 1).add_(0.7);
    return taps;
  }
  if (ends("gates.bias")) {
    const int64_t heads = config.memory.heads;
    return at::cat({at::full({heads}, gate_bias), at::full({heads}, -1.0), at::full({heads}, -6.0)});
  }
  if (name == "embed.weight") return 0.5 * noise;
  if (name == "head.weight") return 0.02 * noise;
  const double scale = 1.0 / std::sqrt(static_cast<double>(parameter.shape.back()));
  if (name.find("memory.init") != std::string::npos) return 0.1 * scale * noise;
  if (ends("o.weight") || ends("down.weight")) return scale / std::sqrt(2.0 * config.blocks.size()) * noise;
  return scale * noise;
}

// Makes the memory of random weights one from n-grams to what followed them: a key is what came before its token, and a
// query at the token before finds it. Keys of equal contexts are equal from the first step on, and training has only to
// learn which contexts matter. ParameterShapes has q before k; the query copies nothing until both are there.
void AlignQueries(const std::string& name, std::map<std::string, Tensor>& before, Tensor* weight) {
  if (name.ends_with("memory.k.weight")) {
    const at::NoGradGuard no_grad;
    before.at(std::string(name).replace(name.size() - 8, 1, "q")).copy_(*weight);
  } else if (name.ends_with("memory.k_conv.weight")) {
    const at::NoGradGuard no_grad;
    const int64_t taps = weight->size(1);
    *weight = 0.3 * at::randn(weight->sizes());
    weight->select(1, taps - 1).zero_();  // the token itself is the value, not the key
    Tensor& query = before.at(std::string(name).replace(name.size() - 13, 1, "q"));
    query.zero_();
    query.narrow(1, 1, taps - 1).copy_(weight->narrow(1, 0, taps - 1));
  } else if (name.ends_with("memory.v_conv.weight")) {
    weight->zero_();
    weight->select(1, weight->size(1) - 1).fill_(1.0);
  }
}

// A state's tensors, detached from the step that made them.
BatchState Detached(const BatchState& state) {
  BatchState out = state;
  for (const StateSlot& slot : StateSlots(&out)) *slot.tensor = slot.tensor->detach();
  return out;
}

// Rows of `state` where `fresh` is set come from `initial`.
BatchState Renewed(const BatchState& state, const BatchState& initial, const std::vector<bool>& fresh) {
  BatchState out = state;
  const int64_t rows = fresh.size();
  Tensor mask = at::empty({rows}, at::kBool);
  for (int64_t r = 0; r < rows; ++r) {
    mask[r] = static_cast<bool>(fresh[r]);
    if (fresh[r]) out.offsets[r] = 0;
  }
  const std::vector<StateTensor> anew = StateTensors(initial);
  const std::vector<StateSlot> slots = StateSlots(&out);
  for (size_t i = 0; i < slots.size(); ++i) {
    Tensor& old = *slots[i].tensor;
    const int64_t each = old.size(0) / rows;  // memory tensors hold [rows * heads, ...]
    std::vector<int64_t> shape(old.dim(), 1);
    shape[0] = old.size(0);
    old = at::where(mask.repeat_interleave(each).view(shape), anew[i].tensor, old);
  }
  return out;
}

// Each session `times` times over, side by side.
BatchState Repeated(const BatchState& state, int64_t times) {
  BatchState out = state;
  const int64_t rows = state.offsets.size();
  out.offsets.clear();
  for (const int64_t offset : state.offsets) out.offsets.insert(out.offsets.end(), times, offset);
  for (const StateSlot& slot : StateSlots(&out)) {
    std::vector<int64_t> shape(slot.tensor->sizes().begin(), slot.tensor->sizes().end());
    shape[0] /= rows;
    shape.insert(shape.begin(), rows);
    Tensor repeated = slot.tensor->view(shape).repeat_interleave(times, 0);  // [rows * times, each, ...]
    shape.erase(shape.begin());
    shape[0] *= rows * times;
    *slot.tensor = repeated.view(shape);
  }
  return out;
}

constexpr float kFirstCharactersWeight = 5.0f;
constexpr double kClosed = -13.0;  // logit of a write gate that is as good as closed

// logits [N, T, V], targets [N, T] -> nats [N, T]
Tensor CrossEntropy(const Tensor& logits, const Tensor& targets) {
  return -logits.log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2);
}

}  // namespace

Trainer::Trainer(const ModelConfig& config, const Recipe& recipe, Data data)
    : config_(config), recipe_(recipe), data_(std::move(data)), rows_(recipe.rows) {
  at::manual_seed(recipe.seed);
  std::vector<Tensor> matrices, others;
  for (const ParameterShape& one : ParameterShapes(config)) {
    Tensor weight = InitialWeight(one, config, recipe.gate_bias).contiguous();
    if (recipe.echo_init) AlignQueries(one.name, parameters_, &weight);
    weight.requires_grad_(true);
    parameters_[one.name] = weight;
    (one.shape.size() > 1 ? matrices : others).push_back(weight);
  }
  const auto options = [&](double decay) {
    return std::make_unique<torch::optim::AdamWOptions>(
        torch::optim::AdamWOptions(recipe.learning_rate).betas({0.9, 0.95}).weight_decay(decay));
  };
  optimizer_ = std::make_unique<torch::optim::AdamW>(std::vector<torch::optim::OptimizerParamGroup>{
      {matrices, options(recipe.weight_decay)}, {others, options(0.0)}});
  const at::NoGradGuard no_grad;
  state_ = Titans(config_, parameters_).InitialState(recipe.rows);
  for (int64_t r = 0; r < recipe.rows; ++r) BeginDocument(r);
}

Trainer::~Trainer() = default;

// Which document comes is a function of the seed, the row, a count and the step's stage, so that a resumed run reads the same ones.
void Trainer::BeginDocument(int64_t row) {
  Row& one = rows_[row];
  std::seed_seq seed{recipe_.seed, static_cast<uint64_t>(row), one.documents};
  Random random(seed);
  one.document = MakeDocument(recipe_.StageAt(step_).documents, data_.vocabulary, data_.english, data_.noise, random);
  one.documents += 1;
  one.begun_at = step_;
  one.cursor = 0;
}

Tensor Trainer::NextSegments(std::vector<bool>* fresh, Tensor* outside) {
  const int64_t rows = recipe_.rows, tokens = recipe_.segment_tokens;
  std::vector<int64_t> ids;
  std::vector<float> is_outside(rows * tokens, 1.0f);
  ids.reserve(rows * tokens);
  fresh->assign(rows, false);
  for (int64_t r = 0; r < rows; ++r) {
    if (rows_[r].cursor + tokens > static_cast<int64_t>(rows_[r].document.tokens.size())) BeginDocument(r);
    Row& row = rows_[r];
    (*fresh)[r] = row.cursor == 0;
    const auto from = row.document.tokens.begin() + row.cursor;
    ids.insert(ids.end(), from, from + tokens);
    for (const ToldFact& told : row.document.facts) {
      const int64_t begin = std::max(told.begin, row.cursor), end = std::min(told.end, row.cursor + tokens);
      for (int64_t i = begin; i < end; ++i) is_outside[r * tokens + i - row.cursor] = 0;
    }
    row.cursor += tokens;
  }
  *outside = at::tensor(is_outside).view({rows, tokens});
  return at::tensor(ids).view({rows, tokens});
}

// Half of the questions are about what the last segment told, when it told something: there lies the gradient of
// writing. The rest are about any fact so far: there lies the gradient of keeping.
Trainer::Questions Trainer::AskRows() const {
  const int64_t rows = recipe_.rows, each = recipe_.questions;
  std::vector<Exercise> exercises(rows * each);
  size_t longest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const Row& row = rows_[r];
    std::seed_seq seed{recipe_.seed, static_cast<uint64_t>(r), static_cast<uint64_t>(step_), uint64_t{7}};
    Random random(seed);
    const auto told_by = [&](int64_t offset) {
      return std::partition_point(row.document.facts.begin(), row.document.facts.end(),
                                  [&](const ToldFact& one) { return one.end <= offset; }) - row.document.facts.begin();
    };
    const int64_t told = told_by(row.cursor), before = told_by(row.cursor - recipe_.segment_tokens);
    for (int64_t q = 0; q < each && told > 0; ++q) {
      const bool is_recent = before < told && random() % 2 == 0;
      const int64_t pick = std::uniform_int_distribution<int64_t>(is_recent ? before : 0, told - 1)(random);
      Exercise& exercise = exercises[r * each + q];
      exercise = MakeExercise(row.document.facts[pick].fact, recipe_.StageAt(row.begun_at).documents.echo_share, random);
      longest = std::max(longest, exercise.tokens.size() - 1);
    }
  }
  longest = std::max<size_t>(1, longest);
  std::vector<int64_t> tokens, targets;
  std::vector<float> is_answer, weights;
  for (const Exercise& exercise : exercises) {
    for (size_t i = 0; i < longest; ++i) {
      const bool is_inside = i + 1 < exercise.tokens.size();
      tokens.push_back(is_inside ? exercise.tokens[i] : 0);
      targets.push_back(is_inside ? exercise.tokens[i + 1] : 0);
      const int64_t place = static_cast<int64_t>(i) + 1 - exercise.answer_begin;
      is_answer.push_back(is_inside && place >= 0 ? 1 : 0);
      // The first characters say whose value it is; the rest follow from them and teach nothing about keys.
      weights.push_back(is_answer.back() * (place <= 2 ? kFirstCharactersWeight : 1.0f));
    }
  }
  const std::vector<int64_t> shape = {rows * each, static_cast<int64_t>(longest)};
  return {at::tensor(tokens).view(shape), at::tensor(targets).view(shape), at::tensor(is_answer).view(shape),
          at::tensor(weights).view(shape)};
}

Trainer::StepReport Trainer::Step() {
  const Stage& stage = recipe_.StageAt(step_);
  std::vector<bool> fresh;
  Tensor outside;
  const Tensor segments = NextSegments(&fresh, &outside);
  const Questions questions = AskRows();

  const Titans titans(config_, parameters_);
  BatchState state = Renewed(state_, titans.InitialState(recipe_.rows), fresh);
  const Titans::Output read = titans.Forward(segments, &state, Titans::Logits::kAll);
  const Tensor text = CrossEntropy(read.logits.narrow(1, 0, recipe_.segment_tokens - 1),
                                   segments.narrow(1, 1, recipe_.segment_tokens - 1)).mean();

  BatchState fork = Repeated(state, recipe_.questions);
  const Titans::Output answered = titans.Forward(questions.tokens, &fork, Titans::Logits::kAll);
  const Tensor answer_bytes = questions.is_answer.sum().clamp_min(1.0);
  const Tensor losses = CrossEntropy(answered.logits, questions.targets);  // [rows * questions, longest]
  const Tensor answer = (losses * questions.weights).sum() / questions.weights.sum().clamp_min(1.0);

  Tensor loss = stage.text_weight * text + stage.answer_weight * answer;
  if (read.write.defined() && stage.write_cost > 0) {
    // What text writes wears away older facts: over a million bytes a gate of one in a thousand is far too open. So the
    // cost is on the gate's logit, with the same pull at every height down to kClosed: a write must be worth it. Facts
    // are free of it.
    const Tensor height = at::softplus(read.write - kClosed) / -kClosed;  // [rows, T, memory blocks, H]
    const Tensor mask = outside.unsqueeze(-1).unsqueeze(-1);
    loss = loss + stage.write_cost * (height * mask).sum() / (mask.sum() * height.size(2) * height.size(3));
  }

  optimizer_->zero_grad();
  loss.backward();
  StepReport report;
  Tensor squares = at::zeros({});
  for (const auto& [name, parameter] : parameters_) {
    if (parameter.grad().defined()) squares += parameter.grad().pow(2).sum();
  }
  report.gradient_norm = squares.sqrt().item<double>();
  const double rate = recipe_.LearningRateAt(step_);
  if (std::isfinite(report.gradient_norm)) {
    const double scale = std::min(1.0, recipe_.clip_norm / std::max(report.gradient_norm, 1e-12));
    for (const auto& [name, parameter] : parameters_) {
      if (parameter.grad().defined()) parameter.mutable_grad().mul_(scale);
    }
    for (auto& group : optimizer_->param_groups()) {
      static_cast<torch::optim::AdamWOptions&>(group.options()).lr(rate);
    }
    optimizer_->step();
    state_ = Detached(state);
  } else {  // the memories that led here are not worth keeping: every row starts anew
    for (Row& row : rows_) row.cursor = row.document.tokens.size();
    const at::NoGradGuard no_grad;
    state_ = titans.InitialState(recipe_.rows);
  }

  const at::NoGradGuard no_grad;
  report.step = ++step_;
  report.text_loss = text.item<double>();
  report.answer_loss = ((losses * questions.is_answer).sum() / answer_bytes).item<double>();
  const Tensor wrong = (answered.logits.argmax(-1) != questions.targets).to(at::kFloat) * questions.is_answer;
  report.answer_accuracy = 1 - (wrong.sum() / answer_bytes).item<double>();
  const Tensor is_asked = (questions.is_answer.sum(1) > 0).to(at::kFloat);
  report.exact = (((wrong.sum(1) == 0).to(at::kFloat) * is_asked).sum() / is_asked.sum().clamp_min(1)).item<double>();
  if (read.write.defined()) {
    const Tensor gate = read.write.sigmoid().mean({2, 3});
    report.write = ((gate * outside).sum() / outside.sum().clamp_min(1)).item<double>();
    report.write_facts = ((gate * (1 - outside)).sum() / (1 - outside).sum().clamp_min(1)).item<double>();
  }
  return report;
}

absl::Status Trainer::SaveCheckpoint(const std::string& path) const {
  torch::serialize::OutputArchive archive, optimizer;
  for (const auto& [name, tensor] : parameters_) archive.write("parameter." + name, tensor.detach());
  optimizer_->save(optimizer);
  archive.write("optimizer", optimizer);
  for (const StateTensor& one : StateTensors(state_)) archive.write("state." + one.name, one.tensor);
  archive.write("offsets", at::tensor(state_.offsets));
  std::vector<int64_t> documents, cursors, begun;
  for (size_t r = 0; r < rows_.size(); ++r) {
    documents.push_back(rows_[r].documents);
    cursors.push_back(rows_[r].cursor);
    begun.push_back(rows_[r].begun_at);
  }
  archive.write("documents", at::tensor(documents));
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
    archive.load_from(stream);
    const at::NoGradGuard no_grad;
    const auto read = [&](const std::string& key) {
      Tensor tensor;
      archive.read(key, tensor);
      return tensor;
    };
    for (auto& [name, tensor] : parameters_) tensor.copy_(read("parameter." + name));
    archive.read("optimizer", optimizer);
    optimizer_->load(optimizer);
    const Tensor documents = read("documents"), cursors = read("cursors"), begun = read("begun");
    const Tensor offsets = read("offsets");
    for (size_t r = 0; r < rows_.size(); ++r) {
      rows_[r].documents = documents[r].item<int64_t>() - 1;
      step_ = begun[r].item<int64_t>();
      BeginDocument(r);
      rows_[r].cursor = cursors[r].item<int64_t>();
      state_.offsets[r] = offsets[r].item<int64_t>();
    }
    step_ = read("step").item<int64_t>();
    for (const StateSlot& slot : StateSlots(&state_)) *slot.tensor = read("state." + slot.name);
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat("checkpoint '", path, "': ", error.what()));
  }
  return absl::OkStatus();
}

absl::Status Trainer::LoadWeights(const std::string& safetensors_path) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(safetensors_path));
  ASSIGN_OR_RETURN(const std::vector<NamedTensor> loaded, LoadParameters(config_, bytes));
  const at::NoGradGuard no_grad;
  for (const NamedTensor& one : loaded) parameters_.at(one.name).copy_(at::tensor(one.values).view(one.shape));
  state_ = Titans(config_, parameters_).InitialState(recipe_.rows);
  return absl::OkStatus();
}

absl::Status Trainer::ExportModel(const std::string& folder) const {
  std::vector<NamedTensor> tensors;
  for (const ParameterShape& one : ParameterShapes(config_)) {
    const Tensor value = parameters_.at(one.name).detach().contiguous();
    tensors.push_back({one.name, one.shape, {value.data_ptr<float>(), value.data_ptr<float>() + value.numel()}});
  }
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/model.safetensors", FormatSafetensors(tensors)));
  return WriteFileAtomically(folder + "/config.json", FormatModelConfig(config_));
}

}  // namespace mnemosyne
