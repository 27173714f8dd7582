// NeuralMemory::Forward where no gradient is asked for on a CPU: the same formulas, by core/kernels.
#pragma once

#include "core/kernels/memory_head.h"
#include "core/model/memory.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

// Thread-compatible: const after construction.
class CpuMemory {
 public:
  // Null where kernels do not fit the parameters.
  static std::shared_ptr<const CpuMemory> Create(const ModelConfig& config, const MemoryParameters& parameters);

  // x: KernelsFit(x).
  NeuralMemory::Output Forward(const at::Tensor& x, MemoryState* state) const;

 private:
  CpuMemory(const ModelConfig& config, const MemoryParameters& parameters);

  // What the projections and convolutions make of x: tensors of the kernels' layout.
  struct Inputs {
    at::Tensor convolved;                 // [3, G, T, d]: queries and keys of length one, values
    at::Tensor out_gate;                  // [N, T, H d]
    at::Tensor gates;                     // [N, T, 3 H]
    at::Tensor theta, log_eta, log_keep;  // [G, T]; the last two undefined: no momentum, no decay
  };
  Inputs Project(const at::Tensor& x, MemoryState* state) const;
  void AddGates(Inputs* inputs) const;
  at::Tensor Finish(const at::Tensor& reads, const at::Tensor& out_gate) const;

  const MemoryConfig config_;
  const MemoryShape shape_;
  const float norm_eps_;
  const PackedMatrix qkv_, out_gate_, gates_, out_;
  const at::Tensor gates_bias_, conv_taps_, conv_bias_, norm_;  // conv_taps_ [K, 3 H d and padding]
};

}  // namespace mnemosyne
