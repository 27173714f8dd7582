// NeuralMemory::Forward where no gradient is asked for on a CPU: the same formulas, by core/kernels.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "core/kernels/memory_head.h"
#include "core/model/memory.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

// One session's memory as the kernels want it, changed in place: what decoding steps token by token.
class HeldMemory {
 public:
  // `tail` [before, channels]: the convolutions' last inputs. Rows are `stride` floats apart.
  HeldMemory(std::vector<HeldMemoryHead> heads, const float* tail, int64_t before, int64_t channels, int64_t stride);

  HeldMemoryHead& head(int64_t index) { return heads_[index]; }

  // The convolutions' last `before` inputs, and room for `tokens` more behind them; null: there is no such room at all.
  float* History(int64_t tokens);
  void Append(int64_t tokens) { begin_ += tokens; }  // what was put there
  void SetTail(const float* rows);

 private:
  std::vector<HeldMemoryHead> heads_;
  const int64_t before_, channels_, stride_, capacity_;  // rows
  hwy::AlignedFreeUniquePtr<float[]> history_;           // [capacity, stride]
  int64_t begin_ = 0;
};

// Thread-compatible: const after construction.
class CpuMemory {
 public:
  // Null where kernels do not fit the parameters.
  static std::shared_ptr<const CpuMemory> Create(const ModelConfig& config, const MemoryParameters& parameters);

  // As NeuralMemory::Forward. x: KernelsFit(x).
  NeuralMemory::Output Forward(const at::Tensor& x, absl::Span<MemoryState* const> states) const;
  // As NeuralMemory::Hold.
  std::shared_ptr<HeldMemory> Hold(const MemoryState& state) const;

 private:
  CpuMemory(const ModelConfig& config, const MemoryParameters& parameters);

  // What the projections and convolutions make of x: tensors of the kernels' layout.
  struct Inputs {
    at::Tensor convolved;                 // [3, G, T, d]: queries and keys of length one, values
    at::Tensor out_gate;                  // [N, T, H d]
    at::Tensor gates;                     // [N, T, 3 H]
    at::Tensor theta, log_eta, log_keep;  // [G, T]; the last two undefined: no momentum, no decay
  };
  Inputs Project(const at::Tensor& x, absl::Span<MemoryState* const> states) const;
  void AddGates(Inputs* inputs) const;
  // Heads [first, first + those of the state) of `inputs`.
  void Step(const Inputs& inputs, int64_t first, MemoryState* state, const at::Tensor& reads,
            const at::Tensor& surprise) const;
  at::Tensor Finish(const at::Tensor& reads, const at::Tensor& out_gate) const;

  const MemoryConfig config_;
  const MemoryShape shape_;
  const float norm_eps_;
  const PackedMatrix qkv_, out_gate_, gates_, out_;
  const at::Tensor gates_bias_, conv_taps_, conv_bias_, norm_;  // conv_taps_ [K, 3 H d and padding]
};

}  // namespace mnemosyne
