#include "core/model/attention.h"

#include <cmath>
#include <limits>

#include "core/model/tensor_ops.h"

namespace mnemosyne {

using at::Tensor;

namespace {

// Tokens that attend together over one stretch of keys: wide enough for full products, narrow enough that little of
// the stretch is masked.
constexpr int64_t kUnit = 64;

// Rotates pairs (i, i + a/2) of x [N, A, T, a]; positions [N or 1, T], int64. The angle is computed in float64, where
// it is exact to 1e-8 beyond position 10 million.
Tensor Rotate(const Tensor& x, const Tensor& positions, double base) {
  const int64_t half = x.size(-1) / 2;
  const Tensor exponents = at::arange(half, positions.options().dtype(at::kDouble)) * (-std::log(base) / half);
  const Tensor angles = positions.to(at::kDouble).unsqueeze(-1) * exponents.exp();  // [N, T, a/2]
  const Tensor cosine = angles.cos().to(x.scalar_type()).unsqueeze(1);
  const Tensor sine = angles.sin().to(x.scalar_type()).unsqueeze(1);
  const Tensor low = x.narrow(-1, 0, half), high = x.narrow(-1, half, half);
  return at::cat({low * cosine - high * sine, low * sine + high * cosine}, -1);
}

Tensor Append(const Tensor& before, const Tensor& more) { return before.defined() ? at::cat({before, more}, 2) : more; }

// Stretches of keys that follow each other by `unit`: [N, A, before + T, a] -> [N, A, units, before + unit, a], where
// `before` is a multiple of `unit`. Concatenated from shifted views, whose derivative is cheap where unfold's is not.
Tensor Stretches(const Tensor& keys, int64_t units, int64_t unit, int64_t before) {
  std::vector<Tensor> shifted;
  for (int64_t shift = 0; shift <= before; shift += unit) {
    shifted.push_back(
        keys.narrow(2, shift, units * unit).reshape({keys.size(0), keys.size(1), units, unit, keys.size(3)}));
  }
  return shifted.size() == 1 ? shifted[0] : at::cat(shifted, 3);
}

}  // namespace

Attention::Attention(const ModelConfig& config, AttentionParameters parameters)
    : config_(config), parameters_(std::move(parameters)), rotary_(config.head_dim() / 2, config.rope_base) {}

WindowState Attention::InitialWindow(int64_t sessions) const {
  const Tensor zeros =
      at::zeros({sessions, config_.heads, config_.window - 1, config_.head_dim()}, parameters_.out.weight().options());
  return {.keys = zeros, .values = zeros};
}

Tensor Attention::Heads(const Tensor& projected) const {
  return projected.view({projected.size(0), projected.size(1), config_.heads, config_.head_dim()}).transpose(1, 2);
}

Tensor Attention::Project(const Tensor& heads) const {
  return parameters_.out(heads.transpose(1, 2).reshape({heads.size(0), heads.size(2), config_.dim}));
}

// query [..., m, a], keys_t [..., a, n], values [..., n, a], hidden (bool) broadcastable to [..., m, n]; the leading
// dimensions begin [N, A] -> [..., m, a]
Tensor Attention::Attend(const Tensor& query, const Tensor& keys_t, const Tensor& values, const Tensor& hidden) const {
  const Tensor scaled = query * (1.0 / std::sqrt(static_cast<double>(config_.head_dim())));
  const Tensor scores = at::matmul(scaled, keys_t).masked_fill(hidden, -std::numeric_limits<double>::infinity());
  if (!parameters_.persistent_k.defined()) return at::matmul(scores.softmax(-1), values);
  Tensor pk = parameters_.persistent_k.transpose(1, 2), pv = parameters_.persistent_v;  // [A, a, P], [A, P, a]
  for (int64_t extra = query.dim() - 4; extra > 0; --extra) {
    pk = pk.unsqueeze(1);
    pv = pv.unsqueeze(1);
  }
  const Tensor weights = at::cat({at::matmul(scaled, pk), scores}, -1).softmax(-1);
  const int64_t persistent = config_.persistent;
  return at::matmul(weights.narrow(-1, 0, persistent), pv) +
         at::matmul(weights.narrow(-1, persistent, scores.size(-1)), values);
}

// query [N, A, T, a], keys and values [N, A, w - 1 + T, a], T a multiple of `unit` -> [N, A, T, a]
Tensor Attention::WindowUnits(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& positions,
                              int64_t unit) const {
  const int64_t sessions = query.size(0), tokens = query.size(2), units = tokens / unit, tail = config_.window - 1;
  // Keys before each unit's own: with several units, rounded up so that stretches are made of whole units.
  const int64_t before = units == 1 ? tail : (tail + unit - 1) / unit * unit;
  const int64_t reach = before + unit;
  const Tensor row = at::arange(unit, positions.options()).unsqueeze(1),
               column = at::arange(reach, positions.options());
  const Tensor distance = row + before - column;  // tokens back, [unit, reach]
  const Tensor outside = (distance < 0).bitwise_or(distance > tail);
  const Tensor first = positions.unsqueeze(1) + (at::arange(units, positions.options()) * unit - before);
  const Tensor before_start = (first.unsqueeze(-1) + column) < 0;  // [N, units, reach]
  const Tensor hidden = outside.bitwise_or(before_start.view({sessions, 1, units, 1, reach}));
  const auto stretches = [&](const Tensor& t) {
    if (units == 1) return t.unsqueeze(2);
    return Stretches(at::constant_pad_nd(t, {0, 0, before - tail, 0}), units, unit, before);
  };
  const Tensor unit_queries = query.reshape({sessions, config_.heads, units, unit, config_.head_dim()});
  return Attend(unit_queries, stretches(keys).transpose(3, 4), stretches(values), hidden)
      .reshape({sessions, config_.heads, tokens, config_.head_dim()});
}

Attention::Projected Attention::Extend(const Tensor& x, const Tensor& positions, WindowState* state) const {
  const int64_t tokens = x.size(1), tail = config_.window - 1;
  const std::vector<Tensor> qkv = parameters_.in(x).chunk(3, 2);
  const Tensor token_positions = positions.unsqueeze(1) + at::arange(tokens, positions.options());  // [N, T]
  const Tensor keys = at::cat({state->keys, Rotate(Heads(qkv[1]), token_positions, config_.rope_base)}, 2);
  const Tensor values = at::cat({state->values, Heads(qkv[2])}, 2);
  const auto last = [&](const Tensor& all) { return all.narrow(2, tokens, tail).clone(at::MemoryFormat::Contiguous); };
  *state = {.keys = last(keys), .values = last(values)};
  return {qkv[0], token_positions, keys, values};
}

void Attention::Advance(const Tensor& x, const Tensor& positions, WindowState* state) const {
  if (KernelsFit(x)) {
    WindowOnCpu(x, positions, /*attended=*/false, absl::MakeConstSpan({state}));
  } else {
    Extend(x, positions, state);
  }
}

void Attention::Hold(WindowState* state) const {
  if (!KernelsFit(state->keys)) return;
  const Tensor keys = state->keys.contiguous(), values = state->values.contiguous();
  *state = {.held = std::make_shared<HeldWindow>(Shape(), keys.data_ptr<float>(), values.data_ptr<float>())};
}

Tensor Attention::WindowOnCpu(const Tensor& x, const Tensor& positions, bool attended,
                              absl::Span<WindowState* const> states) const {
  const int64_t sessions = x.size(0), tokens = x.size(1), in_state = sessions / static_cast<int64_t>(states.size());
  const Tensor projected = parameters_.in(x);
  const Tensor heads = at::empty_like(x, at::MemoryFormat::Contiguous);
  const WindowShape shape = Shape();
  const auto of = [](const Tensor& t, int64_t n) {
    return t.data_ptr<float>() + n * (t.numel() / std::max<int64_t>(1, t.size(0)));
  };
  const bool persistent = parameters_.persistent_k.defined();
  const auto input = [&](int64_t n) {
    return WindowInput{tokens,
                       positions.data_ptr<int64_t>()[n],
                       of(projected, n),
                       nullptr,
                       nullptr,
                       persistent ? parameters_.persistent_k.data_ptr<float>() : nullptr,
                       persistent ? parameters_.persistent_v.data_ptr<float>() : nullptr};
  };
  int64_t n = 0;
  for (WindowState* const state : states) {
    if (state->held != nullptr) {
      state->held->Step(rotary_, input(n), of(heads, n));
      n += 1;
      continue;
    }
    const Tensor old_keys = state->keys.contiguous(), old_values = state->values.contiguous();
    state->keys = at::empty_like(old_keys);
    state->values = at::empty_like(old_values);
    for (int64_t i = 0; i < in_state; ++i, ++n) {
      WindowInput in = input(n);
      in.keys = of(old_keys, i);
      in.values = of(old_values, i);
      StepWindowAttention(shape, rotary_, in,
                          {of(state->keys, i), of(state->values, i), attended ? of(heads, n) : nullptr});
    }
  }
  return attended ? parameters_.out(heads) : Tensor();
}

Tensor Attention::Window(const Tensor& x, const Tensor& positions, absl::Span<WindowState* const> states) const {
  if (KernelsFit(x)) return WindowOnCpu(x, positions, /*attended=*/true, states);
  TORCH_CHECK(states.size() == 1, "sessions of several states, without kernels");
  WindowState* const state = states[0];
  const int64_t tokens = x.size(1), tail = config_.window - 1;
  const auto [projected, token_positions, keys, values] = Extend(x, positions, state);
  const Tensor query = Rotate(Heads(projected), token_positions, config_.rope_base);

  const int64_t unit = std::min(tokens, kUnit), rest = tokens % unit, whole = tokens - rest;
  Tensor attended = WindowUnits(query.narrow(2, 0, whole), keys.narrow(2, 0, tail + whole),
                                values.narrow(2, 0, tail + whole), positions, unit);
  if (rest > 0) {
    const Tensor last = WindowUnits(query.narrow(2, whole, rest), keys.narrow(2, whole, tail + rest),
                                    values.narrow(2, whole, tail + rest), positions + whole, rest);
    attended = at::cat({attended, last}, 2);
  }
  return Project(attended);
}

Tensor Attention::Segment(const Tensor& x, const Tensor& recalled, SegmentState* state) const {
  const int64_t tokens = x.size(1), dim = config_.dim, before = state->tokens;
  const auto index = x.options().dtype(at::kLong);
  const Tensor positions = (at::arange(tokens, index) + before).unsqueeze(0);  // [1, T]
  const std::vector<Tensor> qkv = parameters_.in(x).chunk(3, 2);
  const std::vector<Tensor> context_kv = Linear(recalled, parameters_.in.weight().narrow(0, dim, 2 * dim)).chunk(2, 2);
  const Tensor query = Rotate(Heads(qkv[0]), positions, config_.rope_base);
  state->token_keys = Append(state->token_keys, Rotate(Heads(qkv[1]), positions, config_.rope_base));
  state->token_values = Append(state->token_values, Heads(qkv[2]));
  state->context_keys = Append(state->context_keys, Rotate(Heads(context_kv[0]), positions, config_.rope_base));
  state->context_values = Append(state->context_values, Heads(context_kv[1]));
  state->tokens += tokens;

  const Tensor later = at::arange(state->tokens, index) > (at::arange(tokens, index) + before).unsqueeze(1);
  const Tensor keys = at::cat({state->context_keys, state->token_keys}, 2);
  const Tensor values = at::cat({state->context_values, state->token_values}, 2);
  return Project(Attend(query, keys.transpose(2, 3), values, at::cat({later, later}, 1)));
}

}  // namespace mnemosyne
