#include "train/trainer.h"

#include <torch/csrc/autograd/autograd.h>
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
  if (!slots.empty()) mask = mask.to(slots[0].tensor->device());
  for (size_t i = 0; i < slots.size(); ++i) {
    Tensor& old = *slots[i].tensor;
    const int64_t each = old.size(0) / rows;  // memory tensors hold [rows * heads, ...]
    std::vector<int64_t> shape(old.dim(), 1);
    shape[0] = old.size(0);
    old = at::where(mask.repeat_interleave(each).view(shape), anew[i].tensor, old);
  }
  return out;
}

// Sessions `chosen` of `state`, each as often as it is named.
BatchState Selected(const BatchState& state, const std::vector<int64_t>& chosen, at::Device device) {
  BatchState out = state;
  const int64_t rows = state.offsets.size(), count = chosen.size();
  const Tensor index = at::tensor(chosen).to(device);
  out.offsets.clear();
  for (const int64_t one : chosen) out.offsets.push_back(state.offsets[one]);
  for (const StateSlot& slot : StateSlots(&out)) {
    std::vector<int64_t> shape(slot.tensor->sizes().begin(), slot.tensor->sizes().end());
    shape[0] /= rows;  // memory tensors hold [rows * heads, ...]
    shape.insert(shape.begin(), rows);
    const Tensor selected = slot.tensor->view(shape).index_select(0, index);
    shape.erase(shape.begin());
    shape[0] *= count;
    *slot.tensor = selected.view(shape);
  }
  return out;
}

constexpr int64_t kGroupRows = 3;
constexpr double kClosed = -13.0;      // logit of a write gate that is as good as closed
constexpr size_t kShortExercise = 96;  // tokens; longer ones are computed apart, or padding would cost more than text

// logits [N, T, V], targets [N, T] -> nats [N, T]
Tensor CrossEntropy(const Tensor& logits, const Tensor& targets) {
  return -logits.log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2);
}

constexpr float kFirstSpread = 4;  // of a value's first character, against the others

// A query meets its key among those of the segment: nats by which a softmax over them misses it, a head each.
constexpr double kMatchScale = 10;

bool IsTrained(const std::string& name, const std::vector<std::string>& only) {
  return only.empty() ||
         std::any_of(only.begin(), only.end(), [&](const std::string& part) { return absl::StrContains(name, part); });
}

struct Missed {
  Tensor miss;     // nats, summed over characters, mean over the heads
  Tensor nearest;  // characters whose own key is the nearest, heads together
};

// queries [n, H, Q, d] of questions and keys [rows, H, T, d] of what they look in. A row's characters are looked up
// together, in as many places as the row with the most of them needs.
Missed MissOf(const std::vector<Match>& matches, const Tensor& queries, const Tensor& keys) {
  const int64_t rows = keys.size(0), length = queries.size(2);
  std::vector<std::vector<std::pair<int64_t, int64_t>>> of_row(rows);  // query in [n Q], token of the row
  for (const Match& match : matches) {
    for (int64_t c = 0; c < match.length; ++c) {
      of_row[match.row].emplace_back(match.question * length + match.from + c, match.to + c);
    }
  }
  size_t places = 0;
  for (const auto& characters : of_row) places = std::max(places, characters.size());
  std::vector<int64_t> from, to;
  std::vector<float> is_one;
  for (const auto& characters : of_row) {
    for (size_t i = 0; i < places; ++i) {
      const bool is_inside = i < characters.size();
      from.push_back(is_inside ? characters[i].first : 0);
      to.push_back(is_inside ? characters[i].second : 0);
      is_one.push_back(is_inside ? 1 : 0);
    }
  }
  const auto per_place = [&](const Tensor& t) {
    return t.to(keys.device()).view({rows, static_cast<int64_t>(places)});
  };
  const Tensor wanted = per_place(at::tensor(to)), mask = per_place(at::tensor(is_one));
  const Tensor looking = queries.transpose(1, 2)
                             .flatten(0, 1)  // [n Q, H, d]
                             .index_select(0, at::tensor(from).to(keys.device()))
                             .view({rows, static_cast<int64_t>(places), keys.size(1), keys.size(3)})
                             .transpose(1, 2);                        // [rows, H, places, d]
  const Tensor nearness = at::matmul(looking, keys.transpose(2, 3));  // [rows, H, places, T]
  const Tensor found = (kMatchScale * nearness).log_softmax(-1);
  const Tensor index = wanted.unsqueeze(1).unsqueeze(3).expand({-1, keys.size(1), -1, 1});
  const Tensor nearest = nearness.detach().mean(1).argmax(-1) == wanted;
  return {-(found.gather(3, index).squeeze(3).mean(1) * mask).sum(), (nearest.to(at::kFloat) * mask).sum()};
}

constexpr size_t kDrills = 2;  // a step, each against itself

// Numbers for a report, which are fetched from the device together: one synchronisation a group.
class Figures {
 public:
  // Adds the number that `figure` holds to *sum, when they are fetched.
  void Add(double* sum, const Tensor& figure) {
    sums_.push_back(sum);
    figures_.push_back(figure.detach().to(at::kDouble));
  }
  void Fetch() {
    if (sums_.empty()) return;
    const Tensor host = at::stack(figures_).to(at::kCPU);
    for (size_t i = 0; i < sums_.size(); ++i) *sums_[i] += host[static_cast<int64_t>(i)].item<double>();
  }

 private:
  std::vector<double*> sums_;
  std::vector<Tensor> figures_;
};

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

struct Trainer::Totals {
  double rows = 0, inline_answers = 0, outside = 0, answer_bytes = 0, answer_weights = 0, matches = 0, values = 0;
};

struct Trainer::GroupReport {
  int64_t tokens = 0;
  std::vector<Tensor> gradients;  // undefined where a weight had no part
  BatchState state;
  // Sums, not means.
  double text = 0, answer = 0, wrong = 0, exact = 0, asked = 0, write = 0, write_facts = 0, alike = 0, found = 0,
         spread = 0, drill_found = 0, drill_noise = 0, drill_confused = 0;
};

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
  const int64_t group_rows = device_.is_cpu() ? kGroupRows : recipe.rows;
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
  one.lesson = MakeLesson(recipe_.StageAt(step_).lessons, data_, random);
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
    segments.fresh.push_back(row.cursor == 0);
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

Trainer::GroupReport Trainer::RunGroup(const Group& group, const Batch& batch, const Totals& totals) const {
  const Stage& stage = recipe_.StageAt(step_);
  const Segments segments = batch.segments.On(device_);
  const int64_t predicted = recipe_.segment_tokens - 1;
  GroupReport report;
  Figures figures;

  const Titans titans(config_, parameters_);
  BatchState state = Renewed(group.state, titans.InitialState(group.end - group.begin), segments.fresh);
  const Titans::Output read = titans.Forward(segments.tokens, &state, Titans::Logits::kAll);
  const Tensor nats = CrossEntropy(read.logits.narrow(1, 0, predicted), segments.tokens.narrow(1, 1, predicted));
  const Tensor text = nats.sum();
  Tensor loss = stage.text_weight / (totals.rows * static_cast<double>(predicted)) * text +
                stage.answer_weight / std::max(1.0, totals.inline_answers) * (nats * segments.answers).sum();
  figures.Add(&report.text, text);
  report.tokens = segments.tokens.numel();

  for (const Questions& asked : batch.questions) {
    const Questions questions = asked.On(device_);
    report.tokens += questions.tokens.numel();
    report.asked += static_cast<double>(questions.rows.size());
    BatchState fork = Selected(state, questions.rows, device_);
    const Titans::Output answered = titans.Forward(questions.tokens, &fork, Titans::Logits::kAll);
    const Tensor losses = CrossEntropy(answered.logits, questions.targets);  // [n, longest]
    loss = loss + stage.answer_weight / totals.answer_weights * (losses * questions.weights).sum();
    if (stage.match_cost > 0 && !questions.matches.empty()) {
      // That a question's words find a fact's is told directly, too: through the memory it takes far longer to learn.
      const double blocks = static_cast<double>(read.keys.size());
      for (size_t b = 0; b < read.keys.size(); ++b) {
        const auto [miss, nearest] = MissOf(questions.matches, answered.queries[b], read.keys[b]);
        loss = loss + stage.match_cost / totals.matches * miss;
        figures.Add(&report.found, nearest / blocks);
      }
    }
    const at::NoGradGuard no_grad;
    figures.Add(&report.answer, (losses * questions.is_answer).sum());
    const Tensor wrong = (answered.logits.argmax(-1) != questions.targets).to(at::kFloat) * questions.is_answer;
    figures.Add(&report.wrong, wrong.sum());
    figures.Add(&report.exact, (wrong.sum(1) == 0).sum());
  }

  if (read.write.defined()) {
    if (stage.write_cost > 0) {
      // What text writes wears away older facts: over a million bytes a gate of one in a thousand is far too open. So
      // the cost is on the gate's logit, with the same pull at every height down to kClosed: a write must be worth it.
      // Facts are free of it; and a head that a value finds closed would stay so: it is opened.
      const Tensor height = (at::softplus(read.write - kClosed) / -kClosed).mean({2, 3});  // [rows, T]
      loss = loss + stage.write_cost / std::max(1.0, totals.outside) * (height * segments.outside).sum();
      const Tensor of_values = read.write.flatten(0, 1).index_select(0, segments.values);  // [n, blocks, H]
      const double each = static_cast<double>(of_values.size(1) * of_values.size(2));
      loss = loss + stage.write_cost / std::max(1.0, totals.values * each) * at::softplus(-of_values).sum();
    }
    const at::NoGradGuard no_grad;
    const Tensor gate = read.write.sigmoid().mean({2, 3});
    figures.Add(&report.write, (gate * segments.outside).sum());
    figures.Add(&report.write_facts, (gate * (1 - segments.outside)).sum());
  }
  if (stage.key_cost > 0) {
    // A linear memory confuses what is told under keys that are alike, and whatever all inputs have in common, sums of
    // many tokens have most of all: the square of the mean key's length is the mean cosine between any two keys.
    for (const Tensor& keys : read.keys) {
      const Tensor alike =
          keys.mean(at::IntArrayRef({0, 2})).pow(2).sum(-1).mean();  // over rows and tokens, then heads
      loss = loss + stage.key_cost * static_cast<double>(group.end - group.begin) / totals.rows * alike;
      figures.Add(&report.alike, alike * static_cast<double>(group.end - group.begin));
    }
  }
  if (stage.spread_cost > 0) {
    // What one value's readout gets from all others grows with the squares of their keys' cosines, of all heads
    // together: heads that confuse different facts help each other out. Also between rows, which no session shares; but
    // not within a value, since of those there are always few, and of others the more, the more is told.
    // A first character counts more: none of its own value comes before it, and a wrong one leads to another's value.
    const Tensor others = (segments.of_fact.unsqueeze(0) != segments.of_fact.unsqueeze(1)).to(at::kFloat) *
                          segments.spread.unsqueeze(0) * segments.spread.unsqueeze(1);  // [n, n]
    const Tensor pairs = others.sum().clamp_min(1);
    const double share = static_cast<double>(group.end - group.begin) / totals.rows;
    for (const Tensor& keys : read.keys) {
      const Tensor of_values = keys.permute({1, 0, 2, 3})
                                   .reshape({keys.size(1), -1, keys.size(3)})  // [H, rows * T, d]
                                   .index_select(1, segments.values);
      const Tensor common = of_values.bmm(of_values.transpose(1, 2)).mean(0);  // [n, n]
      const Tensor spread = (common.pow(2) * others).sum() / pairs;
      loss = loss + stage.spread_cost * share * spread;
      figures.Add(&report.spread, spread * share);
    }
  }
  report.gradients = torch::autograd::grad({loss}, weights_, /*grad_outputs=*/{}, /*retain_graph=*/false,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  report.state = Detached(state);
  figures.Fetch();
  return report;
}

Trainer::GroupReport Trainer::RunDrill(uint64_t index) const {
  const Stage& stage = recipe_.StageAt(step_);
  std::seed_seq seed{recipe_.seed, index, static_cast<uint64_t>(step_), uint64_t{11}};
  Random random(seed);
  const Drill drill = MakeDrill(stage.lessons.documents, stage.drill_facts, recipe_.segment_tokens, data_.vocabulary,
                                data_.english, data_.noise, random)
                          .On(device_);
  const DrillScore score = ScoreDrill(Titans(config_, parameters_), config_.memory.conv, drill);
  GroupReport report;
  report.tokens = drill.tokens.numel();
  report.drill_found = score.found;
  report.drill_noise = score.noise;
  report.drill_confused = score.confused;
  report.gradients.resize(weights_.size());
  if (!score.loss.requires_grad()) return report;  // nothing that it depends on is trained
  report.gradients = torch::autograd::grad({stage.drill_cost / static_cast<double>(kDrills) * score.loss}, weights_,
                                           /*grad_outputs=*/{}, /*retain_graph=*/false, /*create_graph=*/false,
                                           /*allow_unused=*/true);
  return report;
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
