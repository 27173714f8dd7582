// The long-term memory of one layer (arXiv 2501.00663, section 3): per head an MLP whose weights learn from the stream,
// a chunk at a time (section 3.2; the formulas are in docs/architecture.md).
//
// Works on a batch of N sessions that stand at the same place of their chunks. Thread-compatible: const after
// construction. Nothing here changes a tensor in place, so states may share tensors.
//
// Shapes: N sessions, T tokens, D model width, H heads, d head width, n tokens of the open chunk, G = N H.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "core/kernels/weight_type.h"
#include "core/model/config.h"

namespace mnemosyne {

struct MemoryParameters {
  at::Tensor in_weight;                           // [4 H d + 3 H, D]: q, k, v, out_gate, gates in one product
  at::Tensor gates_bias;                          // [3 H]: theta, eta, alpha
  at::Tensor conv_weight;                         // [3 H d, K]: q, k, v; oldest tap first
  at::Tensor conv_bias;                           // [3 H d]
  std::vector<at::Tensor> init;                   // a layer each: [H, out, in]
  at::Tensor norm;                                // [d]
  at::Tensor out;                                 // [D, H d]
  at::Tensor q_context;                           // [H d, D]; mac only
  WeightType weight_type = WeightType::kFloat32;  // of the projections, where kernels compute
};

// The tokens of a chunk that is not whole yet: what decoding needs so as not to compute them again.
struct OpenChunk {
  int64_t tokens = 0;              // n; 0: the tensors are undefined
  std::vector<at::Tensor> inputs;  // a, a layer each: [G, n, in]
  std::vector<at::Tensor> deltas;  // error at each layer's output: [G, n, out]
  at::Tensor theta;                // [G, n], after the bound of the gradient norm
  at::Tensor log_eta;              // [G, n]; undefined without momentum
  at::Tensor log_keep;             // [G, n], log(1 - alpha); undefined without decay
};

class CpuMemory;
class HeldMemory;

struct MemoryState {
  std::vector<at::Tensor> weights;   // M at the open chunk's start, a layer each: [G, out, in], in any order in memory
  std::vector<at::Tensor> velocity;  // S, alike
  at::Tensor conv_tail;              // [N, K - 1, 3 H d]: the convolutions' last inputs
  OpenChunk open;
  std::shared_ptr<HeldMemory> held;  // not null: has all of it instead, of one session, and is changed in place
};

class NeuralMemory {
 public:
  NeuralMemory(const ModelConfig& config, MemoryParameters parameters);

  int64_t heads() const { return config_.heads; }

  MemoryState InitialState(int64_t sessions) const;

  struct Output {
    at::Tensor read;      // [N, T, D]: M_t read at x_t, after the update with x_t (eq. 15)
    at::Tensor surprise;  // [N, T, H]: the loss |M_c(k) - v|^2 before it
    at::Tensor write;     // [N, T, H]: the logit of theta / theta_max (before the bound)
    at::Tensor queries;   // [N, H, T, d]: of length one
    at::Tensor keys;      // alike
  };
  // Writes x [N, T, D] and reads at each of its tokens. Any T >= 1 from any place of a chunk.
  Output Forward(const at::Tensor& x, MemoryState* state) const { return Forward(x, absl::MakeConstSpan({state})); }
  // The same of sessions in one state, or of one session in each of several, which need not stand at the same place;
  // several only where the kernels of a CPU compute.
  Output Forward(const at::Tensor& x, absl::Span<MemoryState* const> states) const;

  // Makes the state of one session one that is stepped in place, if the kernels of a CPU compute: it must not be copied
  // any more, and only Forward takes it.
  void Hold(MemoryState* state) const;

  // The queries and keys, of length one, and the values that Forward would use for the last T of x [N, K - 1 + T, D] ->
  // [N, H, T, d]. Nothing is written or read.
  at::Tensor Queries(const at::Tensor& x) const;
  at::Tensor Keys(const at::Tensor& x) const;
  at::Tensor Values(const at::Tensor& x) const;

  // mac: reads x [N, T, D] with frozen `weights` and the projection q_context, no convolution -> [N, T, D].
  at::Tensor ReadContext(const at::Tensor& x, const std::vector<at::Tensor>& weights) const;

  // M and S after the last token, also inside a chunk: weights and velocity are replaced, the open chunk is empty.
  MemoryState Closed(const MemoryState& state) const;

 private:
  struct Tables;
  struct Piece;
  at::Tensor Projected(const at::Tensor& x, int64_t which) const;  // 0: q, 1: k, 2: v, as in in_weight
  Tables MakeTables(const at::Tensor& log_eta, const at::Tensor& log_keep, int64_t rows, int64_t columns,
                    const at::Tensor& like) const;
  void WritePiece(const Piece& piece, MemoryState* state, at::Tensor* surprise) const;
  at::Tensor ReadPiece(const at::Tensor& query, const Tables& tables, const MemoryState& state) const;
  void CloseChunk(const Tables& tables, MemoryState* state) const;
  at::Tensor Finish(const at::Tensor& read, const at::Tensor& out_gate) const;  // [G, T, d], [N, T, H d] -> [N, T, D]

  const MemoryConfig config_;
  const double norm_eps_;
  const MemoryParameters parameters_;
  const std::shared_ptr<const CpuMemory> cpu_;  // null where its kernels do not fit
};

}  // namespace mnemosyne
