#include "core/model/titans.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

using at::Tensor;

namespace {

// Parameters under one prefix.
class Scope {
 public:
  Scope(const std::map<std::string, Tensor>& parameters, std::string prefix)
      : parameters_(parameters), prefix_(std::move(prefix)) {}
  Tensor operator[](const std::string& name) const { return parameters_.at(prefix_ + name); }
  Tensor Optional(const std::string& name) const {
    const auto found = parameters_.find(prefix_ + name);
    return found == parameters_.end() ? Tensor() : found->second;
  }
  Scope In(const std::string& name) const { return Scope(parameters_, prefix_ + name); }

 private:
  const std::map<std::string, Tensor>& parameters_;
  const std::string prefix_;
};

MemoryParameters MemoryParametersOf(const ModelConfig& config, const Scope& scope, WeightType weight_type) {
  MemoryParameters p;
  p.weight_type = weight_type;
  p.in_weight = at::cat(
      {scope["q.weight"], scope["k.weight"], scope["v.weight"], scope["out_gate.weight"], scope["gates.weight"]});
  p.gates_bias = scope["gates.bias"];
  p.conv_weight = at::cat({scope["q_conv.weight"], scope["k_conv.weight"], scope["v_conv.weight"]});
  p.conv_bias = at::cat({scope["q_conv.bias"], scope["k_conv.bias"], scope["v_conv.bias"]});
  for (int64_t l = 0; l < config.memory.depth; ++l) p.init.push_back(scope[absl::StrCat("init.", l)]);
  p.norm = scope["norm.weight"];
  p.out = scope["o.weight"];
  p.q_context = scope.Optional("q_context.weight");
  return p;
}

AttentionParameters AttentionParametersOf(const Scope& scope, WeightType weight_type) {
  return {Projection(at::cat({scope["q.weight"], scope["k.weight"], scope["v.weight"]}), weight_type),
          Projection(scope["o.weight"], weight_type), scope.Optional("persistent_k"), scope.Optional("persistent_v")};
}

}  // namespace

std::vector<StateSlot> StateSlots(BatchState* state) {
  std::vector<StateSlot> slots;
  for (size_t i = 0; i < state->blocks.size(); ++i) {
    BlockState& block = state->blocks[i];
    const std::string prefix = absl::StrCat("blocks.", i, ".");
    for (size_t l = 0; l < block.memory.weights.size(); ++l) {
      slots.push_back({absl::StrCat(prefix, "memory.M.", l), &block.memory.weights[l], true});
      slots.push_back({absl::StrCat(prefix, "memory.S.", l), &block.memory.velocity[l], true});
    }
    if (block.memory.conv_tail.defined())
      slots.push_back({prefix + "memory.conv_tail", &block.memory.conv_tail, false});
    if (block.window.keys.defined()) {
      slots.push_back({prefix + "window.keys", &block.window.keys, false});
      slots.push_back({prefix + "window.values", &block.window.values, false});
    }
  }
  return slots;
}

std::vector<StateTensor> StateTensors(const BatchState& state) {
  BatchState shared = state;
  std::vector<StateTensor> tensors;
  for (const StateSlot& slot : StateSlots(&shared)) tensors.push_back({slot.name, *slot.tensor, slot.is_matrices});
  return tensors;
}

struct Titans::Block {
  // One block's of all states at hand.
  struct States {
    explicit States(absl::Span<BlockState* const> states) {
      for (BlockState* const state : states) {
        memories.push_back(&state->memory);
        windows.push_back(&state->window);
        only = state;
      }
    }
    std::vector<MemoryState*> memories;
    std::vector<WindowState*> windows;
    BlockState* only = nullptr;  // where there is one
  };

  Block(const ModelConfig& config, BlockKind kind, const Scope& scope, WeightType weight_type)
      : config(config),
        kind(kind),
        norm1(scope["norm1.weight"]),
        norm2(scope["norm2.weight"]),
        norm3(scope.Optional("norm3.weight")),
        gate_attn_norm(scope.Optional("gate.attn_norm.weight")),
        gate_memory_norm(scope.Optional("gate.memory_norm.weight")),
        gate_mix(Projection(scope.Optional("gate.mix.weight"), weight_type)),
        ff_up(Projection(scope["ff.up.weight"], weight_type)),
        ff_down(Projection(scope["ff.down.weight"], weight_type)) {
    if (HasMemory(kind)) memory.emplace(config, MemoryParametersOf(config, scope.In("memory."), weight_type));
    if (HasAttention(kind)) attention.emplace(config, AttentionParametersOf(scope.In("attn."), weight_type));
  }

  Tensor Norm(const Tensor& x, const Tensor& weight) const { return RmsNorm(x, weight, config.norm_eps); }

  Tensor Gate(const Tensor& attended, const Tensor& recalled) const {
    const Tensor y = Norm(attended, gate_attn_norm), m = Norm(recalled, gate_memory_norm);
    if (config.gate == GateKind::kMultiply) return y * Sigmoid(m);
    const Tensor g = Sigmoid(gate_mix(at::cat({y, m}, -1)));
    return g * y + (1.0 - g) * m;
  }

  // mac: segment by segment, as each begins with the memory that the one before left.
  Tensor Mac(const Tensor& x, BlockState* state, NeuralMemory::Output* learned) const {
    std::vector<Tensor> outputs, surprises, writes, queries, keys;
    for (int64_t done = 0; done < x.size(1);) {
      SegmentState& segment = state->segment;
      if (segment.tokens == 0) {  // in one order, as a BLAS's bits may depend on it: a state from a file lies otherwise
        for (const Tensor& weights : state->memory.weights) segment.frozen.push_back(InOrder(weights));
      }
      const int64_t tokens = std::min(config.segment - segment.tokens, x.size(1) - done);
      const Tensor piece = x.narrow(1, done, tokens);
      const Tensor attended = attention->Segment(piece, memory->ReadContext(piece, segment.frozen), &segment);
      const NeuralMemory::Output out = memory->Forward(attended, &state->memory);
      outputs.push_back(Gate(attended, out.read));
      surprises.push_back(out.surprise);
      writes.push_back(out.write);
      queries.push_back(out.queries);
      keys.push_back(out.keys);
      if (segment.tokens == config.segment) segment = SegmentState();
      done += tokens;
    }
    learned->surprise = at::cat(surprises, 1);
    learned->write = at::cat(writes, 1);
    if (c10::GradMode::is_enabled()) {  // only training asks for them
      learned->queries = at::cat(queries, 2);
      learned->keys = at::cat(keys, 2);
    }
    return at::cat(outputs, 1);
  }

  // x [N, T, D] -> [N, T, D], of sessions in one state or of one in each; `learned` gets what the memory tells.
  Tensor Forward(Tensor x, const Tensor& positions, const States& states, NeuralMemory::Output* learned) const {
    const Tensor h = Norm(x, norm1);
    switch (kind) {
      case BlockKind::kSwa:
        x = x + attention->Window(h, positions, states.windows);
        break;
      case BlockKind::kLmm:
        *learned = memory->Forward(h, states.memories);
        x = x + learned->read;
        break;
      case BlockKind::kMag: {
        const Tensor attended = attention->Window(h, positions, states.windows);
        *learned = memory->Forward(h, states.memories);
        x = x + Gate(attended, learned->read);
        break;
      }
      case BlockKind::kMal:
        *learned = memory->Forward(h, states.memories);
        x = x + learned->read;
        x = x + attention->Window(Norm(x, norm3), positions, states.windows);
        break;
      case BlockKind::kMac:
        x = x + Mac(h, states.only, learned);
        break;
    }
    return x + ff_down(GatedSilu(ff_up(Norm(x, norm2))));
  }

  // As Forward, where nobody reads the output.
  void Advance(const Tensor& x, const Tensor& positions, BlockState* state, NeuralMemory::Output* learned) const {
    if (kind == BlockKind::kSwa) {
      attention->Advance(Norm(x, norm1), positions, &state->window);
    } else {
      Forward(x, positions, States({state}), learned);
    }
  }

  void Hold(BlockState* state) const {
    if (memory) memory->Hold(&state->memory);
    if (attention) attention->Hold(&state->window);
  }

  const ModelConfig& config;
  const BlockKind kind;
  const Tensor norm1, norm2, norm3, gate_attn_norm, gate_memory_norm;
  const Projection gate_mix, ff_up, ff_down;
  std::optional<NeuralMemory> memory;
  std::optional<Attention> attention;
};

Titans::Titans(const ModelConfig& config, const std::map<std::string, Tensor>& parameters, WeightType weight_type)
    : config_(config),
      embedding_(parameters.at("embed.weight")),
      norm_(parameters.at("norm.weight")),
      head_(Projection(config.tie_embeddings ? embedding_ : parameters.at("head.weight"), weight_type)) {
  const Scope root(parameters, "");
  for (size_t i = 0; i < config.blocks.size(); ++i) {
    blocks_.push_back(
        std::make_unique<Block>(config_, config.blocks[i], root.In(absl::StrCat("blocks.", i, ".")), weight_type));
  }
}

Titans::~Titans() = default;

BatchState Titans::InitialState(int64_t sessions) const {
  BatchState state;
  state.offsets.assign(sessions, 0);
  for (const auto& block : blocks_) {
    BlockState& one = state.blocks.emplace_back();
    if (block->memory) one.memory = block->memory->InitialState(sessions);
    if (block->attention && block->kind != BlockKind::kMac) one.window = block->attention->InitialWindow(sessions);
  }
  return state;
}

Titans::Output Titans::Forward(const Tensor& tokens, BatchState* state, Logits logits) const {
  const Tensor positions = at::tensor(state->offsets, at::kLong).to(tokens.device());
  Tensor x = RowsOf(embedding_, tokens);
  std::vector<Tensor> surprises, writes;
  Output out;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    NeuralMemory::Output learned;
    if (logits == Logits::kNone && i + 1 == blocks_.size()) {
      blocks_[i]->Advance(x, positions, &state->blocks[i], &learned);
    } else {
      x = blocks_[i]->Forward(x, positions, Block::States({&state->blocks[i]}), &learned);
    }
    if (learned.surprise.defined()) {
      surprises.push_back(learned.surprise);
      writes.push_back(learned.write);
      out.queries.push_back(learned.queries);
      out.keys.push_back(learned.keys);
    }
  }
  for (int64_t& offset : state->offsets) offset += tokens.size(1);
  if (!surprises.empty()) {
    out.surprise = at::stack(surprises, 2);
    out.write = at::stack(writes, 2);
  }
  if (logits == Logits::kNone) return out;
  if (logits == Logits::kLast) x = x.narrow(1, x.size(1) - 1, 1);
  out.logits = head_(RmsNorm(x, norm_, config_.norm_eps));
  return out;
}

bool Titans::StepsInPlace() const {
  return KernelsFit(embedding_) && std::none_of(config_.blocks.begin(), config_.blocks.end(),
                                                [](BlockKind kind) { return kind == BlockKind::kMac; });
}

void Titans::Hold(BatchState* state) const {
  for (size_t i = 0; StepsInPlace() && i < blocks_.size(); ++i) blocks_[i]->Hold(&state->blocks[i]);
}

Tensor Titans::ForwardTogether(const Tensor& tokens, absl::Span<BatchState* const> states) const {
  if (!StepsInPlace()) {
    std::vector<Tensor> logits;
    for (size_t n = 0; n < states.size(); ++n) {
      logits.push_back(Forward(tokens.narrow(0, static_cast<int64_t>(n), 1), states[n], Logits::kLast).logits);
    }
    return at::cat(logits, 0);
  }
  std::vector<int64_t> offsets;
  for (const BatchState* const state : states) offsets.push_back(state->offsets[0]);
  const Tensor positions = at::tensor(offsets, at::kLong);
  Tensor x = RowsOf(embedding_, tokens);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    std::vector<BlockState*> block_states;
    for (BatchState* const state : states) block_states.push_back(&state->blocks[i]);
    NeuralMemory::Output none;
    x = blocks_[i]->Forward(x, positions, Block::States(block_states), &none);
  }
  for (BatchState* const state : states) state->offsets[0] += tokens.size(1);
  return head_(RmsNorm(x.narrow(1, x.size(1) - 1, 1), norm_, config_.norm_eps));
}

const NeuralMemory& Titans::FirstMemory() const {
  size_t i = 0;
  while (!blocks_[i]->memory) ++i;
  return *blocks_[i]->memory;
}

Tensor Titans::FirstMemoryInput(const Tensor& tokens) const {
  BatchState state = InitialState(tokens.size(0));
  const Tensor positions = at::tensor(state.offsets, at::kLong).to(tokens.device());
  Tensor x = RowsOf(embedding_, tokens);
  size_t i = 0;
  for (NeuralMemory::Output none; !blocks_[i]->memory; ++i) {
    x = blocks_[i]->Forward(x, positions, Block::States({&state.blocks[i]}), &none);
  }
  return blocks_[i]->Norm(x, blocks_[i]->norm1);
}

MemoryState Titans::Memory(const BatchState& state, int64_t index) const {
  return blocks_[index]->memory->Closed(state.blocks[index].memory);
}

}  // namespace mnemosyne
