// One head of the long-term memory, in chunks, on a CPU (arXiv 2501.00663, section 3.2; the formulas are in
// docs/architecture.md). The same as NeuralMemory's steps on tensors, in one pass over what fits in a core's caches.
//
// Shapes: T tokens, d head width, n tokens of the open chunk before them, n' after them: (n + T) modulo the chunk.
// Layer l maps in(l) to out(l). All rows are contiguous. Thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "core/kernels/workspace.h"

namespace mnemosyne {

constexpr int64_t kMaxMemoryDepth = 8;

struct MemoryShape {
  int64_t head_dim, depth, hidden, chunk;
  bool momentum, decay, residual;
  float max_grad_norm;  // 0: no bound

  int64_t in(int64_t l) const { return l == 0 ? head_dim : hidden; }
  int64_t out(int64_t l) const { return l + 1 == depth ? head_dim : hidden; }
};

// What stays of a head from one step to the next, in rows that are PaddedStride(in or out) apart.
struct MemoryHeadBuffers {
  template <typename T>
  using Layers = std::array<T, kMaxMemoryDepth>;

  Layers<float*> weights{}, velocity{};                             // [in, out]: the transposed of M and S
  Layers<float*> backward{};                                        // [out, in]: M, of all layers but the first
  Layers<float*> inputs{}, deltas{};                                // [chunk, in], [chunk, out]: the open chunk
  float *theta = nullptr, *log_eta = nullptr, *log_keep = nullptr;  // [chunk]
  int64_t open = 0;                                                 // tokens of the open chunk
  bool closed = false;                                              // a chunk was closed: M and S are new
};

struct MemoryHeadInput {
  int64_t tokens;                                               // T
  const float *queries, *keys, *values;                         // [T, d]; queries and keys of length one
  const float *theta, *log_eta, *log_keep;                      // [T]; the last two may be null: no momentum, no decay
  std::array<const float*, kMaxMemoryDepth> weights, velocity;  // M, S at the open chunk's start: [out, in]
  bool across;                                                  // they are [in, out], which costs less
  int64_t open_tokens;                                          // n
  std::array<const float*, kMaxMemoryDepth> open_inputs, open_deltas;  // [n, in], [n, out]
  const float *open_theta, *open_log_eta, *open_log_keep;              // [n]
};

struct MemoryHeadOutput {
  float* reads;     // [T, d]
  float* surprise;  // [T], surprise_stride apart
  int64_t surprise_stride;
  // [in, out], written if a chunk is closed, that is if n + T >= chunk.
  std::array<float*, kMaxMemoryDepth> weights, velocity;
  std::array<float*, kMaxMemoryDepth> open_inputs, open_deltas;  // [n', in], [n', out]
  float *open_theta, *open_log_eta, *open_log_keep;              // [n']; the last two may be null
};

void StepMemoryHead(const MemoryShape& shape, const MemoryHeadInput& in, const MemoryHeadOutput& out);

// A head that one owner steps again and again, as decoding does: it keeps M, S and the open chunk as the products want
// them, and changes them in place. The same bits as StepMemoryHead's. Thread-compatible.
class HeldMemoryHead {
 public:
  // Of `in`, the weights, velocity and open chunk.
  HeldMemoryHead(const MemoryShape& shape, const MemoryHeadInput& in);

  // Of `in`, the tokens, and what has a row for each; of `out`, reads and surprise.
  void Step(const MemoryHeadInput& in, const MemoryHeadOutput& out);

 private:
  const MemoryShape shape_;
  OwnedSpace memory_;
  MemoryHeadBuffers buffers_;
};

}  // namespace mnemosyne
