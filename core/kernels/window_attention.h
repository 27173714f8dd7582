// Causal attention over a sliding window, with rotary positions and persistent keys and values, of one session on a CPU
// (docs/architecture.md). The same as Attention::Window's steps on tensors.
//
// Shapes: T tokens, A heads of width a, window w, P persistent. Thread-safe; RotaryTable is constant once made.
#pragma once

#include <cstdint>
#include <vector>

#include "core/kernels/workspace.h"

namespace mnemosyne {

// Angles of rotary positions: position * base^(-i / half) for i < half, in float64, where they are exact to 1e-8 beyond
// position 10 million.
class RotaryTable {
 public:
  RotaryTable(int64_t half, double base);

  // cosine, sine [tokens, half] of positions first, first + 1, ... (first >= 0)
  void Fill(int64_t first, int64_t tokens, float* cosine, float* sine) const;

 private:
  int64_t half_ = 0;
  std::vector<double> frequencies_;              // [half]
  std::vector<double> step_cosine_, step_sine_;  // [kSteps, half]: angles of 0, 1, ...
};

struct WindowShape {
  int64_t heads, head_dim, window, persistent;
};

struct WindowInput {
  int64_t tokens;              // T
  int64_t position;            // tokens before these
  const float* projected;      // [T, 3 A a]: queries, keys, values, of all heads side by side, not rotated
  const float *keys, *values;  // [A, w - 1, a]: the window before; keys rotated
  const float *persistent_k, *persistent_v;  // [A, P, a]
};

struct WindowOutput {
  float *keys, *values;  // [A, w - 1, a]: the window after
  float* attended;       // [T, A a], heads side by side; null: nobody asks
};

void StepWindowAttention(const WindowShape& shape, const RotaryTable& rotary, const WindowInput& in,
                         const WindowOutput& out);

// What a held window keeps: room for some tokens more than the window's, which moves through it.
struct HeldWindowBuffers {
  int64_t capacity = 0, across_stride = 0, value_stride = 0;
  float* keys_across = nullptr;  // [A, a, capacity], rows across_stride apart
  float* values = nullptr;       // [A, capacity, a], rows value_stride apart
  int64_t begin = 0;             // where the window begins
};

// A window that one owner steps again and again, as decoding does: nothing of it is copied. The same bits as
// StepWindowAttention's, however a stream is cut. Thread-compatible.
class HeldWindow {
 public:
  HeldWindow(const WindowShape& shape, const float* keys, const float* values);  // as of WindowInput

  // `in`: all but keys and values. attended [T, A a].
  void Step(const RotaryTable& rotary, const WindowInput& in, float* attended);

 private:
  static int64_t Capacity(const WindowShape& shape);

  const WindowShape shape_;
  HeldWindowBuffers buffers_;
  OwnedSpace memory_;
};

}  // namespace mnemosyne
