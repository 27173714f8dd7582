#include "core/model/memory.h"

#include <limits>

#include "core/model/convolution.h"
#include "core/model/cpu_memory.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

using at::Tensor;

// How a chunk's tokens act on each other, from the gates alone: rows are the last m tokens, columns the chunk's n.
struct NeuralMemory::Tables {
  Tensor mix;       // [G, m, n] B E: Cmat before theta; lower-triangular
  Tensor keep;      // [G, m, 1] B_t; undefined without decay: 1
  Tensor carry;     // [G, m, 1] m_t; undefined without momentum: 0
  Tensor momentum;  // [G, 1, n] E's last row; undefined without momentum: 1 at the last token, else 0
  Tensor velocity;  // [G, 1, 1] e_t of the last token; undefined without momentum: 0

  Tables Last() const {
    const auto last = [](const Tensor& t) { return t.defined() ? t.narrow(1, t.size(1) - 1, 1) : t; };
    return {last(mix), last(keep), last(carry), momentum, velocity};
  }
};

struct NeuralMemory::Piece {
  Tensor key, value;                // [G, m, d]
  Tensor theta, log_eta, log_keep;  // [G, m]
};

namespace {

// exp(sums[t] - sums[j]) where j <= t, else 0; rows are the last m of the n tokens: [G, m, n].
Tensor DecayTable(const Tensor& sums, int64_t rows) {
  const int64_t columns = sums.size(1);
  const Tensor row_sums = sums.narrow(1, columns - rows, rows).unsqueeze(2);
  const Tensor above = at::ones({rows, columns}, sums.options().dtype(at::kBool)).triu(columns - rows + 1);
  return (row_sums - sums.unsqueeze(1)).masked_fill(above, -std::numeric_limits<double>::infinity()).exp();
}

Tensor Append(const Tensor& before, const Tensor& more, int64_t dim) {
  return before.defined() ? at::cat({before, more}, dim) : more;
}

std::vector<Tensor> Split(const Tensor& tensor, at::IntArrayRef sizes) {
  if (!tensor.defined()) return std::vector<Tensor>(sizes.size());
  return tensor.split_with_sizes(sizes, 1);
}

}  // namespace

NeuralMemory::NeuralMemory(const ModelConfig& config, MemoryParameters parameters)
    : config_(config.memory),
      norm_eps_(config.norm_eps),
      parameters_(std::move(parameters)),
      cpu_(CpuMemory::Create(config, parameters_)) {}

MemoryState NeuralMemory::InitialState(int64_t sessions) const {
  MemoryState state;
  for (const Tensor& init : parameters_.init) {  // [H, out, in]
    state.weights.push_back(init.unsqueeze(0)
                                .expand({sessions, -1, -1, -1})
                                .reshape({sessions * init.size(0), init.size(1), init.size(2)}));
    state.velocity.push_back(at::zeros_like(state.weights.back()));
  }
  state.conv_tail = at::zeros({sessions, config_.conv - 1, 3 * config_.inner()}, parameters_.in_weight.options());
  return state;
}

NeuralMemory::Tables NeuralMemory::MakeTables(const Tensor& log_eta, const Tensor& log_keep, int64_t rows,
                                              int64_t columns, const Tensor& like) const {
  Tables tables;
  Tensor keep_table;  // B, [G or 1, m, n]
  if (log_keep.defined()) {
    const Tensor sums = log_keep.cumsum(1);
    keep_table = DecayTable(sums, rows);
    tables.keep = sums.narrow(1, columns - rows, rows).exp().unsqueeze(2);
  } else {
    keep_table = at::ones({1, rows, columns}, like.options()).tril(columns - rows);
  }
  if (!log_eta.defined()) {
    tables.mix = keep_table;
    return tables;
  }
  const Tensor sums = log_eta.cumsum(1);
  const Tensor momentum = DecayTable(sums, columns);  // E, [G, n, n]
  const Tensor velocity = sums.exp().unsqueeze(2);    // e, [G, n, 1]
  const Tensor keep_rows = keep_table.expand({sums.size(0), -1, -1});
  tables.mix = keep_rows.bmm(momentum);
  tables.carry = keep_rows.bmm(velocity);
  tables.momentum = momentum.narrow(1, columns - 1, 1);
  tables.velocity = velocity.narrow(1, columns - 1, 1);
  return tables;
}

void NeuralMemory::WritePiece(const Piece& piece, MemoryState* state, Tensor* surprise) const {
  const int64_t depth = config_.depth;
  std::vector<Tensor> inputs = {piece.key}, before;  // pre-activations
  for (int64_t l = 0; l < depth; ++l) {
    before.push_back(inputs.back().bmm(state->weights[l].transpose(1, 2)));
    if (l + 1 < depth) inputs.push_back(at::silu(before.back()));
  }
  const Tensor output = config_.residual ? before.back() + piece.key : before.back();
  const Tensor error = output - piece.value;
  *surprise = (error * error).sum(-1);  // [G, m]

  std::vector<Tensor> deltas(depth);
  deltas[depth - 1] = 2.0 * error;
  for (int64_t l = depth - 1; l > 0; --l) {
    deltas[l - 1] = deltas[l].bmm(state->weights[l]) * SiluGrad(before[l - 1]);
  }
  Tensor theta = piece.theta;
  if (config_.max_grad_norm > 0) {
    Tensor squared;
    for (int64_t l = 0; l < depth; ++l) {
      const Tensor term = (deltas[l] * deltas[l]).sum(-1) * (inputs[l] * inputs[l]).sum(-1);
      squared = squared.defined() ? squared + term : term;
    }
    // The floor keeps the square root's derivative finite in training; far below any bound that acts.
    const Tensor norm = squared.clamp_min(1e-24).sqrt();
    theta = theta * (config_.max_grad_norm / norm).clamp_max(1.0);
  }

  OpenChunk& open = state->open;
  open.inputs.resize(depth);
  open.deltas.resize(depth);
  for (int64_t l = 0; l < depth; ++l) {
    open.inputs[l] = Append(open.inputs[l], inputs[l], 1);
    open.deltas[l] = Append(open.deltas[l], deltas[l], 1);
  }
  open.theta = Append(open.theta, theta, 1);
  if (piece.log_eta.defined()) open.log_eta = Append(open.log_eta, piece.log_eta, 1);
  if (piece.log_keep.defined()) open.log_keep = Append(open.log_keep, piece.log_keep, 1);
  open.tokens += piece.key.size(1);
}

Tensor NeuralMemory::ReadPiece(const Tensor& query, const Tables& tables, const MemoryState& state) const {
  const OpenChunk& open = state.open;
  const Tensor mix = tables.mix * open.theta.unsqueeze(1);  // Cmat, [G, m, n]
  Tensor h = query;
  for (int64_t l = 0; l < config_.depth; ++l) {
    Tensor y = h.bmm(state.weights[l].transpose(1, 2));
    if (tables.keep.defined()) y = y * tables.keep;
    if (tables.carry.defined()) y = at::addcmul(y, h.bmm(state.velocity[l].transpose(1, 2)), tables.carry);
    y = at::baddbmm(y, h.bmm(open.inputs[l].transpose(1, 2)) * mix, open.deltas[l], 1, -1);
    h = l + 1 < config_.depth ? at::silu(y) : y;
  }
  return config_.residual ? h + query : h;
}

void NeuralMemory::CloseChunk(const Tables& tables, MemoryState* state) const {
  const Tables last = tables.Last();
  OpenChunk& open = state->open;
  const Tensor weight_steps = (last.mix * open.theta.unsqueeze(1)).transpose(1, 2);  // [G, n, 1]
  for (int64_t l = 0; l < config_.depth; ++l) {
    Tensor& weights = state->weights[l];
    Tensor& velocity = state->velocity[l];
    Tensor kept = last.keep.defined() ? weights * last.keep : weights;
    if (last.carry.defined()) kept = at::addcmul(kept, velocity, last.carry);
    weights = at::baddbmm(kept, (open.deltas[l] * weight_steps).transpose(1, 2), open.inputs[l], 1, -1);
    if (last.momentum.defined()) {
      const Tensor velocity_steps = (last.momentum * open.theta.unsqueeze(1)).transpose(1, 2);
      velocity = at::baddbmm(velocity * last.velocity, (open.deltas[l] * velocity_steps).transpose(1, 2),
                             open.inputs[l], 1, -1);
    } else {
      const auto newest = [](const Tensor& t) { return t.narrow(1, t.size(1) - 1, 1); };
      velocity =
          -(newest(open.deltas[l]) * newest(open.theta).unsqueeze(2)).transpose(1, 2).bmm(newest(open.inputs[l]));
    }
  }
  open = OpenChunk();
}

MemoryState NeuralMemory::Closed(const MemoryState& state) const {
  MemoryState closed = state;
  const OpenChunk& open = state.open;
  if (open.tokens > 0) {
    CloseChunk(MakeTables(open.log_eta, open.log_keep, 1, open.tokens, open.theta), &closed);
  }
  return closed;
}

void NeuralMemory::Hold(MemoryState* state) const {
  if (cpu_ == nullptr || !KernelsFit(state->conv_tail)) return;
  *state = {.held = cpu_->Hold(*state)};
}

NeuralMemory::Output NeuralMemory::Forward(const Tensor& x, absl::Span<MemoryState* const> states) const {
  if (cpu_ != nullptr && KernelsFit(x)) return cpu_->Forward(x, states);
  TORCH_CHECK(states.size() == 1, "sessions of several states, without kernels");
  MemoryState* const state = states[0];
  const int64_t sessions = x.size(0), tokens = x.size(1), heads = config_.heads, width = config_.head_dim;
  const int64_t inner = config_.inner(), groups = sessions * heads, chunk = config_.chunk;
  // One split, whose derivative is one concatenation: that of each narrow() would be as large as the whole.
  const auto projected = Linear(x, parameters_.in_weight).split_with_sizes({3 * inner, inner, 3 * heads}, 2);

  Tensor history = projected[0];  // [N, K - 1 + T, 3 H d]
  if (config_.conv > 1) {
    history = at::cat({state->conv_tail, history}, 1);
    // A copy: a view would keep all of the history in memory for as long as the state lives.
    state->conv_tail = history.narrow(1, tokens, config_.conv - 1).clone(at::MemoryFormat::Contiguous);
  }
  const Tensor split = at::silu(
      CausalConvolution(history, parameters_.conv_weight, parameters_.conv_bias, heads, width));  // [3, G, T, d]
  const Tensor query_key = L2Normalize(split.narrow(0, 0, 2));

  const Tensor gates = (projected[2] + parameters_.gates_bias)
                           .view({sessions, tokens, 3, heads})
                           .permute({2, 0, 3, 1})
                           .reshape({3, groups, tokens});
  const Tensor theta = gates.select(0, 0).sigmoid() * config_.theta_max;  // [G, T]
  const Tensor log_eta = config_.momentum ? at::log_sigmoid(gates.select(0, 1)) : Tensor();
  const Tensor log_keep = config_.decay ? at::log_sigmoid(-gates.select(0, 2)) : Tensor();

  // Cut at chunk boundaries: the rest of the open chunk, whole chunks, the start of the next.
  std::vector<int64_t> sizes;
  for (int64_t done = 0, room = chunk - state->open.tokens; done < tokens; room = chunk) {
    sizes.push_back(std::min(room, tokens - done));
    done += sizes.back();
  }
  const auto queries = Split(query_key.select(0, 0), sizes), keys = Split(query_key.select(0, 1), sizes);
  const auto values = Split(split.select(0, 2), sizes), thetas = Split(theta, sizes);
  const auto log_etas = Split(log_eta, sizes), log_keeps = Split(log_keep, sizes);

  // The tables of whole chunks come from the gates alone: all at once, ahead of the sequential part.
  const size_t first_whole = state->open.tokens > 0 ? 1 : 0;
  size_t whole = 0;
  while (first_whole + whole < sizes.size() && sizes[first_whole + whole] == chunk) ++whole;
  std::vector<Tables> whole_tables(whole);
  if (whole > 0) {
    const int64_t start = first_whole == 0 ? 0 : sizes[0];
    const auto gather = [&](const Tensor& t) {
      return t.defined() ? t.narrow(1, start, whole * chunk).reshape({groups * static_cast<int64_t>(whole), chunk}) : t;
    };
    const Tables all = MakeTables(gather(log_eta), gather(log_keep), chunk, chunk, theta);
    const auto scatter = [&](const Tensor& t, Tensor Tables::*member) {
      if (!t.defined()) return;
      if (t.size(0) == 1 && groups * static_cast<int64_t>(whole) > 1) {  // the same for all
        for (Tables& tables : whole_tables) tables.*member = t;
        return;
      }
      const auto parts = t.view({groups, static_cast<int64_t>(whole), t.size(1), t.size(2)}).unbind(1);
      for (size_t i = 0; i < whole; ++i) whole_tables[i].*member = parts[i];
    };
    scatter(all.mix, &Tables::mix);
    scatter(all.keep, &Tables::keep);
    scatter(all.carry, &Tables::carry);
    scatter(all.momentum, &Tables::momentum);
    scatter(all.velocity, &Tables::velocity);
  }

  std::vector<Tensor> reads(sizes.size()), surprises(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    WritePiece({keys[i], values[i], thetas[i], log_etas[i], log_keeps[i]}, state, &surprises[i]);
    const OpenChunk& open = state->open;
    const bool is_whole = i >= first_whole && i < first_whole + whole;
    const Tables tables = is_whole ? whole_tables[i - first_whole]
                                   : MakeTables(open.log_eta, open.log_keep, sizes[i], open.tokens, theta);
    reads[i] = ReadPiece(queries[i], tables, *state);
    if (open.tokens == chunk) CloseChunk(tables, state);
  }

  const auto by_session = [&](const Tensor& t) { return t.view({sessions, heads, tokens}).transpose(1, 2); };
  const Tensor by_head = query_key.view({2, sessions, heads, tokens, width});
  return {Finish(at::cat(reads, 1), projected[1]), by_session(at::cat(surprises, 1)), by_session(gates.select(0, 0)),
          by_head.select(0, 0), by_head.select(0, 1)};
}

Tensor NeuralMemory::Projected(const Tensor& x, int64_t which) const {
  const int64_t inner = config_.inner(), from = which * inner, tokens = x.size(1) - config_.conv + 1;
  return at::silu(CausalConvolution(Linear(x, parameters_.in_weight.narrow(0, from, inner)),
                                    parameters_.conv_weight.narrow(0, from, inner),
                                    parameters_.conv_bias.narrow(0, from, inner), config_.heads, config_.head_dim))
      .view({x.size(0), config_.heads, tokens, config_.head_dim});
}

Tensor NeuralMemory::Queries(const Tensor& x) const { return L2Normalize(Projected(x, 0)); }
Tensor NeuralMemory::Keys(const Tensor& x) const { return L2Normalize(Projected(x, 1)); }
Tensor NeuralMemory::Values(const Tensor& x) const { return Projected(x, 2); }

Tensor NeuralMemory::ReadContext(const Tensor& x, const std::vector<Tensor>& weights) const {
  const int64_t sessions = x.size(0), tokens = x.size(1);
  const Tensor query = L2Normalize(Linear(x, parameters_.q_context)
                                       .view({sessions, tokens, config_.heads, config_.head_dim})
                                       .transpose(1, 2)
                                       .reshape({sessions * config_.heads, tokens, config_.head_dim}));
  Tensor h = query;
  for (int64_t l = 0; l < config_.depth; ++l) {
    h = h.bmm(weights[l].transpose(1, 2));
    if (l + 1 < config_.depth) h = at::silu(h);
  }
  if (config_.residual) h = h + query;
  const int64_t inner = config_.inner();
  return Finish(h, Linear(x, parameters_.in_weight.narrow(0, 3 * inner, inner)));
}

Tensor NeuralMemory::Finish(const Tensor& read, const Tensor& out_gate) const {
  const int64_t sessions = out_gate.size(0), tokens = out_gate.size(1);
  const Tensor normed = RmsNorm(read, parameters_.norm, norm_eps_)
                            .view({sessions, config_.heads, tokens, config_.head_dim})
                            .transpose(1, 2)
                            .reshape({sessions, tokens, config_.inner()});
  return Linear(normed * out_gate.sigmoid(), parameters_.out);
}

}  // namespace mnemosyne
