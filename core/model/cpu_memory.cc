#include "core/model/cpu_memory.h"

#include <cstring>

#include "core/kernels/causal_conv.h"
#include "core/kernels/product.h"
#include "core/kernels/rows.h"

namespace mnemosyne {

using at::Tensor;

namespace {

PackedMatrix Packed(const Tensor& weight, WeightType type) {
  const Tensor rows = weight.contiguous();
  return PackedMatrix(rows.data_ptr<float>(), rows.size(0), rows.size(1), type);
}

// A bound that is too small for a float is still one.
float GradientBound(double max_grad_norm) {
  return max_grad_norm > 0 ? std::max(static_cast<float>(max_grad_norm), 1e-37f) : 0.0f;
}

// Where head `group` begins; null for what is not there.
float* Of(const Tensor& t, int64_t group) {
  return t.defined() ? t.data_ptr<float>() + group * (t.numel() / t.size(0)) : nullptr;
}

OpenChunk NewOpenChunk(const MemoryConfig& config, int64_t groups, int64_t tokens, const at::TensorOptions& options) {
  OpenChunk open;
  open.tokens = tokens;
  if (tokens == 0) return open;
  for (int64_t l = 0; l < config.depth; ++l) {
    open.inputs.push_back(at::empty({groups, tokens, config.in(l)}, options));
    open.deltas.push_back(at::empty({groups, tokens, config.out(l)}, options));
  }
  open.theta = at::empty({groups, tokens}, options);
  if (config.momentum) open.log_eta = at::empty({groups, tokens}, options);
  if (config.decay) open.log_keep = at::empty({groups, tokens}, options);
  return open;
}

// What a head starts from, out of a state's tensors.
void AddState(const MemoryState& state, int64_t group, MemoryHeadInput* in) {
  const OpenChunk& open = state.open;
  in->open_tokens = open.tokens;
  in->open_theta = Of(open.theta, group);
  in->open_log_eta = Of(open.log_eta, group);
  in->open_log_keep = Of(open.log_keep, group);
  for (size_t l = 0; l < state.weights.size(); ++l) {
    in->weights[l] = Of(state.weights[l], group);
    in->velocity[l] = Of(state.velocity[l], group);
    if (open.tokens == 0) continue;
    in->open_inputs[l] = Of(open.inputs[l], group);
    in->open_deltas[l] = Of(open.deltas[l], group);
  }
}

// Where a head leaves what it comes to.
void AddState(const MemoryState& state, int64_t group, MemoryHeadOutput* out) {
  const OpenChunk& open = state.open;
  out->open_theta = Of(open.theta, group);
  out->open_log_eta = Of(open.log_eta, group);
  out->open_log_keep = Of(open.log_keep, group);
  for (size_t l = 0; l < state.weights.size(); ++l) {
    out->weights[l] = Of(state.weights[l], group);
    out->velocity[l] = Of(state.velocity[l], group);
    if (open.tokens == 0) continue;
    out->open_inputs[l] = Of(open.inputs[l], group);
    out->open_deltas[l] = Of(open.deltas[l], group);
  }
}

// All of M and S in one order: as they are indexed, or each matrix across. A first state may be neither: one tensor,
// expanded to all sessions. Returns whether they lie across.
bool MakeUniform(MemoryState* state) {
  bool across = true;
  for (const auto* tensors : {&state->weights, &state->velocity}) {
    for (const Tensor& tensor : *tensors) across = across && tensor.transpose(1, 2).is_contiguous();
  }
  for (auto* tensors : {&state->weights, &state->velocity}) {
    for (Tensor& tensor : *tensors) tensor = across ? tensor : InOrder(tensor);
  }
  return across;
}

}  // namespace

std::shared_ptr<const CpuMemory> CpuMemory::Create(const ModelConfig& config, const MemoryParameters& parameters) {
  if (!KernelsFit(parameters.in_weight) || config.memory.depth > kMaxMemoryDepth) return nullptr;
  return std::shared_ptr<const CpuMemory>(new CpuMemory(config, parameters));
}

CpuMemory::CpuMemory(const ModelConfig& config, const MemoryParameters& parameters)
    : config_(config.memory),
      shape_{config_.head_dim, config_.depth, config_.hidden,   config_.chunk,
             config_.momentum, config_.decay, config_.residual, GradientBound(config_.max_grad_norm)},
      norm_eps_(static_cast<float>(config.norm_eps)),
      qkv_(Packed(parameters.in_weight.narrow(0, 0, 3 * config_.inner()), parameters.weight_type)),
      out_gate_(Packed(parameters.in_weight.narrow(0, 3 * config_.inner(), config_.inner()), parameters.weight_type)),
      gates_(Packed(parameters.in_weight.narrow(0, 4 * config_.inner(), 3 * config_.heads), WeightType::kFloat32)),
      out_(Packed(parameters.out, parameters.weight_type)),
      gates_bias_(parameters.gates_bias.contiguous()),
      conv_taps_(
          at::constant_pad_nd(parameters.conv_weight.t(), {0, PaddedStride(3 * config_.inner()) - 3 * config_.inner()})
              .contiguous()),
      conv_bias_(parameters.conv_bias.contiguous()),
      norm_(parameters.norm.contiguous()) {}

HeldMemory::HeldMemory(std::vector<HeldMemoryHead> heads, const float* tail, int64_t before, int64_t channels,
                       int64_t stride)
    : heads_(std::move(heads)),
      before_(before),
      channels_(channels),
      stride_(stride),
      capacity_(before + std::max<int64_t>(before, 32)),
      history_(AllocateFloats(capacity_ * stride)) {
  for (int64_t i = 0; i < before; ++i) {
    std::memcpy(history_.get() + i * stride, tail + i * channels, channels * sizeof(float));
  }
}

float* HeldMemory::History(int64_t tokens) {
  if (before_ + tokens > capacity_) return nullptr;
  if (begin_ + before_ + tokens > capacity_) SetTail(history_.get() + begin_ * stride_);
  return history_.get() + begin_ * stride_;
}

void HeldMemory::SetTail(const float* rows) {
  std::memmove(history_.get(), rows, before_ * stride_ * sizeof(float));
  begin_ = 0;
}

CpuMemory::Inputs CpuMemory::Project(const Tensor& x, absl::Span<MemoryState* const> states) const {
  // Sessions of fewer tokens share a pass over the weights.
  constexpr int64_t kFewTokens = 16;
  const int64_t sessions = x.size(0), tokens = x.size(1), dim = x.size(2), inner = config_.inner(),
                heads = config_.heads, width = config_.head_dim, channels = 3 * inner, before = config_.conv - 1,
                stride = PaddedStride(channels), in_state = sessions / static_cast<int64_t>(states.size());
  Inputs inputs;
  inputs.convolved = at::empty({3, sessions * heads, tokens, width}, x.options());
  inputs.out_gate = at::empty({sessions, tokens, inner}, x.options());
  inputs.gates = at::empty({sessions, tokens, 3 * heads}, x.options());
  const float* const from = x.data_ptr<float>();
  Multiply(from, dim, out_gate_, sessions * tokens, inputs.out_gate.data_ptr<float>(), inner);
  Multiply(from, dim, gates_, sessions * tokens, inputs.gates.data_ptr<float>(), 3 * heads);
  Tensor together, scratch;  // rows `stride` apart
  if (sessions > 1 && tokens < kFewTokens) {
    together = at::empty({sessions * tokens, stride}, x.options());
    Multiply(from, dim, qkv_, sessions * tokens, together.data_ptr<float>(), stride);
  }
  float* const convolved = inputs.convolved.data_ptr<float>();
  const auto copy_rows = [&](const float* source, int64_t source_stride, int64_t count, float* to, int64_t to_stride) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(to + i * to_stride, source + i * source_stride, channels * sizeof(float));
    }
  };
  Tensor old_tails, tails;  // of the state at hand
  for (int64_t n = 0; n < sessions; ++n) {
    MemoryState& state = *states[n / in_state];
    const int64_t tail = n % in_state * before * channels;
    if (state.held == nullptr && n % in_state == 0) {
      old_tails = state.conv_tail.contiguous();
      state.conv_tail = tails = at::empty({in_state, before, channels}, x.options());
    }
    float* rows = state.held != nullptr ? state.held->History(tokens) : nullptr;
    const bool in_place = rows != nullptr;
    if (!in_place) {
      if (!scratch.defined()) scratch = at::empty({before + tokens, stride}, x.options());
      rows = scratch.data_ptr<float>();
      if (state.held != nullptr) {
        copy_rows(state.held->History(0), stride, before, rows, stride);
      } else {
        copy_rows(old_tails.data_ptr<float>() + tail, channels, before, rows, stride);
      }
    }
    if (together.defined()) {
      copy_rows(together.data_ptr<float>() + n * tokens * stride, stride, tokens, rows + before * stride, stride);
    } else {
      Multiply(from + n * tokens * dim, dim, qkv_, tokens, rows + before * stride, stride);
    }
    for (int64_t kind = 0; kind < 3; ++kind) {  // query, key, value
      const int64_t first = kind * inner;
      float* const to = convolved + (kind * sessions + n) * heads * tokens * width;
      CausalConv(
          {rows + first, conv_taps_.data_ptr<float>() + first, conv_bias_.data_ptr<float>() + first, stride, stride},
          tokens, inner, config_.conv, width, to);
    }
    if (in_place) {
      state.held->Append(tokens);
    } else if (state.held != nullptr) {
      state.held->SetTail(rows + tokens * stride);
    } else {
      copy_rows(rows + tokens * stride, stride, before, tails.data_ptr<float>() + tail, channels);
    }
  }
  SiluInPlace(convolved, inputs.convolved.numel());
  L2NormalizeRows(convolved, 2 * sessions * heads * tokens, width, convolved);
  AddGates(&inputs);
  return inputs;
}

void CpuMemory::AddGates(Inputs* inputs) const {
  const int64_t sessions = inputs->gates.size(0), tokens = inputs->gates.size(1), heads = config_.heads;
  inputs->gates.add_(gates_bias_);
  // [3, G, T]
  const Tensor by_head = inputs->gates.view({sessions, tokens, 3, heads}).permute({2, 0, 3, 1}).contiguous();
  const auto made = [&] { return at::empty({sessions * heads, tokens}, by_head.options()); };
  const float* const logits = by_head.data_ptr<float>();
  const int64_t count = sessions * heads * tokens;
  inputs->theta = made();
  ScaledSigmoid(logits, count, static_cast<float>(config_.theta_max), inputs->theta.data_ptr<float>());
  if (config_.momentum) {
    inputs->log_eta = made();
    LogSigmoid(logits + count, count, 1.0f, inputs->log_eta.data_ptr<float>());
  }
  if (config_.decay) {
    inputs->log_keep = made();
    LogSigmoid(logits + 2 * count, count, -1.0f, inputs->log_keep.data_ptr<float>());
  }
}

std::shared_ptr<HeldMemory> CpuMemory::Hold(const MemoryState& state) const {
  MemoryState from = state;
  const bool across = MakeUniform(&from);
  std::vector<HeldMemoryHead> heads;
  heads.reserve(config_.heads);
  for (int64_t h = 0; h < config_.heads; ++h) {
    MemoryHeadInput in = {};
    in.across = across;
    AddState(from, h, &in);
    heads.emplace_back(shape_, in);
  }
  const int64_t channels = 3 * config_.inner();
  return std::make_shared<HeldMemory>(std::move(heads), state.conv_tail.contiguous().data_ptr<float>(),
                                      config_.conv - 1, channels, PaddedStride(channels));
}

void CpuMemory::Step(const Inputs& inputs, int64_t first, MemoryState* state, const Tensor& reads,
                     const Tensor& surprise) const {
  const int64_t tokens = reads.size(1), heads = config_.heads, groups = reads.size(0), rows = tokens * reads.size(2);
  const float* const convolved = inputs.convolved.data_ptr<float>();
  MemoryState before;
  int64_t count = heads;  // of the state
  bool across = false;
  if (state->held == nullptr) {
    across = MakeUniform(state);
    before = *state;
    count = before.weights[0].size(0);
    const int64_t after = before.open.tokens + tokens;
    state->open = NewOpenChunk(config_, count, after % config_.chunk, reads.options());
    for (size_t l = 0; after >= config_.chunk && l < state->weights.size(); ++l) {
      for (Tensor* const tensor : {&state->weights[l], &state->velocity[l]}) {  // across
        *tensor = at::empty({count, config_.in(l), config_.out(l)}, reads.options()).transpose(1, 2);
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t g = first + i;
    MemoryHeadInput in = {};
    MemoryHeadOutput out = {};
    in.tokens = tokens;
    in.across = across;
    in.queries = convolved + g * rows;
    in.keys = in.queries + groups * rows;
    in.values = in.keys + groups * rows;
    in.theta = Of(inputs.theta, g);
    in.log_eta = Of(inputs.log_eta, g);
    in.log_keep = Of(inputs.log_keep, g);
    out.reads = Of(reads, g);
    out.surprise = surprise.data_ptr<float>() + g / heads * tokens * heads + g % heads;
    out.surprise_stride = heads;
    if (state->held != nullptr) {
      state->held->head(i).Step(in, out);
      continue;
    }
    AddState(before, i, &in);
    AddState(*state, i, &out);
    StepMemoryHead(shape_, in, out);
  }
}

NeuralMemory::Output CpuMemory::Forward(const Tensor& input, absl::Span<MemoryState* const> states) const {
  const Tensor x = input.contiguous();
  const int64_t sessions = x.size(0), tokens = x.size(1), heads = config_.heads, width = config_.head_dim,
                groups = sessions * heads;
  const Inputs inputs = Project(x, states);
  const Tensor reads = at::empty({groups, tokens, width}, x.options());
  const Tensor surprise = at::empty({sessions, tokens, heads}, x.options());
  for (size_t i = 0; i < states.size(); ++i) {
    Step(inputs, static_cast<int64_t>(i) * groups / static_cast<int64_t>(states.size()), states[i], reads, surprise);
  }
  const auto by_session = [&](int64_t which) {
    return inputs.convolved.select(0, which).view({sessions, heads, tokens, width});
  };
  return {Finish(reads, inputs.out_gate), surprise, inputs.gates.narrow(2, 0, heads), by_session(0), by_session(1)};
}

Tensor CpuMemory::Finish(const Tensor& reads, const Tensor& out_gate) const {
  const int64_t sessions = out_gate.size(0), tokens = out_gate.size(1), heads = config_.heads, width = config_.head_dim,
                inner = config_.inner();
  const Tensor normed = at::empty({sessions, tokens, inner}, out_gate.options());
  for (int64_t g = 0; g < sessions * heads; ++g) {
    float* const to = normed.data_ptr<float>() + g / heads * tokens * inner + g % heads * width;
    RmsNormRows(Of(reads, g), width, tokens, width, norm_.data_ptr<float>(), norm_eps_, to, inner);
  }
  GateRows(normed.data_ptr<float>(), inner, out_gate.data_ptr<float>(), inner, sessions * tokens, inner,
           normed.data_ptr<float>(), inner);
  Tensor out = at::empty({sessions, tokens, out_.outputs()}, out_gate.options());
  Multiply(normed.data_ptr<float>(), inner, out_, sessions * tokens, out.data_ptr<float>(), out_.outputs());
  return out;
}

}  // namespace mnemosyne
