// Causal attention over a sliding window, with rotary positions and persistent keys and values, of one session on a CPU
// (docs/architecture.md). The same as Attention::Window's steps on tensors.
//
// Shapes: T tokens, A heads of width a, window w, P persistent. Thread-safe; RotaryTable is constant once made.
#pragma once

#include <cstdint>
#include <vector>

namespace mnemosyne {

// Angles of rotary positions: position * base^(-i / half) for i < half, in float64, where they are exact to 1e-8 beyond
// position 10 million.
class RotaryTable {
 public:
  RotaryTable(int64_t half, double base);

  // cosine, sine [tokens, half] of positions first, first + 1, ...
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

}  // namespace mnemosyne
