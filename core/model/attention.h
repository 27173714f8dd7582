// Causal attention with persistent keys and values and rotary positions (docs/architecture.md): over a sliding window
// (swa, mag, mal), or over a segment and what the memory recalls for it (mac).
//
// Thread-compatible: const after construction. Shapes: N sessions, T tokens, D width, A heads of a, P persistent.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "core/kernels/window_attention.h"
#include "core/model/config.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

struct AttentionParameters {
  Projection in;            // [3 D, D]: q, k, v
  Projection out;           // [D, D]
  at::Tensor persistent_k;  // [A, P, a]; undefined when P is 0
  at::Tensor persistent_v;  // [A, P, a]
};

// The w - 1 tokens before the next one; zeros, and never looked at, where the session had not begun.
struct WindowState {
  at::Tensor keys, values;           // [N, A, w - 1, a]; keys rotated
  std::shared_ptr<HeldWindow> held;  // not null: has it instead, of one session, and is changed in place
};

// mac: the tokens of the open segment and what was recalled for each.
struct SegmentState {
  int64_t tokens = 0;                       // 0: the tensors are undefined
  at::Tensor context_keys, context_values;  // [N, A, tokens, a]
  at::Tensor token_keys, token_values;      // [N, A, tokens, a]
  std::vector<at::Tensor> frozen;           // the memory's weights at the segment's start: [N H, out, in] a layer
};

class Attention {
 public:
  Attention(const ModelConfig& config, AttentionParameters parameters);

  WindowState InitialWindow(int64_t sessions) const;

  // x [N, T, D] -> [N, T, D]. `positions` [N]: each session's tokens before x. Any T >= 1. Of sessions in one state, or
  // of one session in each of several, which only kernels take.
  at::Tensor Window(const at::Tensor& x, const at::Tensor& positions, absl::Span<WindowState* const> states) const;

  // Makes the state of one session one that is stepped in place, if the kernels of a CPU compute: it must not be copied
  // any more, and only Window takes it.
  void Hold(WindowState* state) const;

  // The same for the state alone: nobody reads what the tokens attend to.
  void Advance(const at::Tensor& x, const at::Tensor& positions, WindowState* state) const;

  // x, recalled [N, T, D] -> [N, T, D]; T at most what is left of the segment.
  at::Tensor Segment(const at::Tensor& x, const at::Tensor& recalled, SegmentState* state) const;

 private:
  struct Projected {
    at::Tensor query;         // [N, T, D], not rotated
    at::Tensor positions;     // [N, T]
    at::Tensor keys, values;  // [N, A, w - 1 + T, a]
  };
  Projected Extend(const at::Tensor& x, const at::Tensor& positions, WindowState* state) const;
  at::Tensor WindowUnits(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                         const at::Tensor& positions, int64_t unit) const;
  at::Tensor Attend(const at::Tensor& query, const at::Tensor& keys_t, const at::Tensor& values,
                    const at::Tensor& hidden) const;
  at::Tensor Heads(const at::Tensor& projected) const;  // [N, T, D] -> [N, A, T, a]
  at::Tensor Project(const at::Tensor& heads) const;    // [N, A, T, a] -> [N, T, D]

  // As Window, by core/kernels; without `attended` as Advance.
  at::Tensor WindowOnCpu(const at::Tensor& x, const at::Tensor& positions, bool attended,
                         absl::Span<WindowState* const> states) const;
  WindowShape Shape() const { return {config_.heads, config_.head_dim(), config_.window, config_.persistent}; }

  const ModelConfig config_;
  const AttentionParameters parameters_;
  const RotaryTable rotary_;
};

}  // namespace mnemosyne
