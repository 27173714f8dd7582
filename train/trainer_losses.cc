// What the trainer's steps descend: the losses of a group of rows and of a drill, and their gradients.
#include <torch/csrc/autograd/autograd.h>

#include "core/model/session_state.h"
#include "train/drill.h"
#include "train/trainer.h"

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

constexpr double kClosed = -13.0;  // logit of a write gate that is as good as closed

// logits [N, T, V], targets [N, T] -> nats [N, T]
Tensor CrossEntropy(const Tensor& logits, const Tensor& targets) {
  return -logits.log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2);
}

// A query meets its key among those of the segment: nats by which a softmax over them misses it, a head each.
constexpr double kMatchScale = 10;

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

}  // namespace

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

}  // namespace mnemosyne
