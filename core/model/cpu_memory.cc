#include "core/model/cpu_memory.h"

#include <cstring>

#include "core/kernels/causal_conv.h"
#include "core/kernels/product.h"
#include "core/kernels/rows.h"

namespace mnemosyne {

using at::Tensor;

namespace {

PackedMatrix Packed(const Tensor& weight) {
  const Tensor rows = weight.contiguous();
  return PackedMatrix(rows.data_ptr<float>(), rows.size(0), rows.size(1));
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
      qkv_(Packed(parameters.in_weight.narrow(0, 0, 3 * config_.inner()))),
      out_gate_(Packed(parameters.in_weight.narrow(0, 3 * config_.inner(), config_.inner()))),
      gates_(Packed(parameters.in_weight.narrow(0, 4 * config_.inner(), 3 * config_.heads))),
      out_(Packed(parameters.out)),
      gates_bias_(parameters.gates_bias.contiguous()),
      conv_taps_(
          at::constant_pad_nd(parameters.conv_weight.t(), {0, PaddedStride(3 * config_.inner()) - 3 * config_.inner()})
              .contiguous()),
      conv_bias_(parameters.conv_bias.contiguous()),
      norm_(parameters.norm.contiguous()) {}

CpuMemory::Inputs CpuMemory::Project(const Tensor& x, MemoryState* state) const {
  const int64_t sessions = x.size(0), tokens = x.size(1), dim = x.size(2), inner = config_.inner(),
                heads = config_.heads, width = config_.head_dim, channels = 3 * inner, before = config_.conv - 1,
                stride = PaddedStride(channels);
  Inputs inputs;
  inputs.convolved = at::empty({3, sessions * heads, tokens, width}, x.options());
  inputs.out_gate = at::empty({sessions, tokens, inner}, x.options());
  inputs.gates = at::empty({sessions, tokens, 3 * heads}, x.options());
  const Tensor history = at::empty({before + tokens, stride}, x.options());
  const Tensor old_tail = state->conv_tail.contiguous();
  Tensor tail = at::empty({sessions, before, channels}, x.options());
  float* const rows = history.data_ptr<float>();
  float* const convolved = inputs.convolved.data_ptr<float>();
  for (int64_t n = 0; n < sessions; ++n) {
    const float* const from = x.data_ptr<float>() + n * tokens * dim;
    for (int64_t i = 0; i < before; ++i) {
      std::memcpy(rows + i * stride, old_tail.data_ptr<float>() + (n * before + i) * channels,
                  channels * sizeof(float));
    }
    Multiply(from, dim, qkv_, tokens, rows + before * stride, stride);
    Multiply(from, dim, out_gate_, tokens, inputs.out_gate.data_ptr<float>() + n * tokens * inner, inner);
    Multiply(from, dim, gates_, tokens, inputs.gates.data_ptr<float>() + n * tokens * 3 * heads, 3 * heads);
    for (int64_t i = 0; i < before; ++i) {
      std::memcpy(tail.data_ptr<float>() + (n * before + i) * channels, rows + (tokens + i) * stride,
                  channels * sizeof(float));
    }
    for (int64_t kind = 0; kind < 3; ++kind) {  // query, key, value
      const int64_t first = kind * inner;
      float* const to = convolved + (kind * sessions + n) * heads * tokens * width;
      CausalConv(
          {rows + first, conv_taps_.data_ptr<float>() + first, conv_bias_.data_ptr<float>() + first, stride, stride},
          tokens, inner, config_.conv, width, to);
    }
  }
  state->conv_tail = tail;
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

NeuralMemory::Output CpuMemory::Forward(const Tensor& input, MemoryState* state) const {
  const Tensor x = input.contiguous();
  const int64_t sessions = x.size(0), tokens = x.size(1), heads = config_.heads, width = config_.head_dim,
                groups = sessions * heads, depth = config_.depth;
  const Inputs inputs = Project(x, state);
  const OpenChunk before = std::move(state->open);
  const int64_t after = before.tokens + tokens;
  state->open = NewOpenChunk(config_, groups, after % config_.chunk, x.options());
  std::vector<Tensor> old_weights, old_velocity;
  for (int64_t l = 0; l < depth; ++l) {  // a first state may be one tensor, expanded to all sessions
    old_weights.push_back(state->weights[l].contiguous());
    old_velocity.push_back(state->velocity[l].contiguous());
  }
  if (after >= config_.chunk) {
    for (int64_t l = 0; l < depth; ++l) {
      state->weights[l] = at::empty(old_weights[l].sizes(), x.options());
      state->velocity[l] = at::empty(old_velocity[l].sizes(), x.options());
    }
  }
  const Tensor reads = at::empty({groups, tokens, width}, x.options());
  const Tensor surprise = at::empty({sessions, tokens, heads}, x.options());
  const Tensor queries = inputs.convolved.select(0, 0), keys = inputs.convolved.select(0, 1),
               values = inputs.convolved.select(0, 2);
  for (int64_t g = 0; g < groups; ++g) {
    MemoryHeadInput in = {};
    MemoryHeadOutput out = {};
    in.tokens = tokens;
    in.queries = Of(queries, g);
    in.keys = Of(keys, g);
    in.values = Of(values, g);
    in.theta = Of(inputs.theta, g);
    in.log_eta = Of(inputs.log_eta, g);
    in.log_keep = Of(inputs.log_keep, g);
    in.open_tokens = before.tokens;
    in.open_theta = Of(before.theta, g);
    in.open_log_eta = Of(before.log_eta, g);
    in.open_log_keep = Of(before.log_keep, g);
    out.reads = Of(reads, g);
    out.surprise = surprise.data_ptr<float>() + g / heads * tokens * heads + g % heads;
    out.surprise_stride = heads;
    out.open_theta = Of(state->open.theta, g);
    out.open_log_eta = Of(state->open.log_eta, g);
    out.open_log_keep = Of(state->open.log_keep, g);
    for (int64_t l = 0; l < depth; ++l) {
      in.weights[l] = Of(old_weights[l], g);
      in.velocity[l] = Of(old_velocity[l], g);
      out.weights[l] = Of(state->weights[l], g);
      out.velocity[l] = Of(state->velocity[l], g);
      if (before.tokens > 0) {
        in.open_inputs[l] = Of(before.inputs[l], g);
        in.open_deltas[l] = Of(before.deltas[l], g);
      }
      if (state->open.tokens > 0) {
        out.open_inputs[l] = Of(state->open.inputs[l], g);
        out.open_deltas[l] = Of(state->open.deltas[l], g);
      }
    }
    StepMemoryHead(shape_, in, out);
  }
  const Tensor write = inputs.gates.narrow(2, 0, heads);
  return {Finish(reads, inputs.out_gate), surprise, write, queries.view({sessions, heads, tokens, width}),
          keys.view({sessions, heads, tokens, width})};
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
