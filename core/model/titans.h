// The whole network: embedding, blocks of kinds swa, lmm, mag, mal, mac (arXiv 2501.00663, section 4), head.
//
//   Titans titans(config, parameters);
//   BatchState state = titans.InitialState(8);
//   Titans::Output out = titans.Forward(tokens, &state);   // tokens [8, T] -> logits [8, T, V]
//
// The same code serves (without autograd) and trains (with it). Thread-compatible: const after construction.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/model/attention.h"
#include "core/model/config.h"
#include "core/model/memory.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

struct BlockState {
  MemoryState memory;    // lmm, mag, mal, mac
  WindowState window;    // swa, mag, mal
  SegmentState segment;  // mac
};

// N sessions at the same place of their blocks. Tensors are never changed in place: copying a state shares them.
struct BatchState {
  std::vector<BlockState> blocks;
  std::vector<int64_t> offsets;  // [N] tokens so far
};

// A tensor of a state, by the name it has in files: "blocks.1.memory.M.0".
struct StateTensor {
  std::string name;
  at::Tensor tensor;
  bool is_matrices;  // of a memory: [heads, out, in]
};
struct StateSlot {
  std::string name;
  at::Tensor* tensor;  // to be replaced, never changed in place: other states may share it
  bool is_matrices;
};

// Every tensor of a state that has no open chunk or segment, in the order of the file.
std::vector<StateTensor> StateTensors(const BatchState& state);
std::vector<StateSlot> StateSlots(BatchState* state);

class Titans {
 public:
  // `parameters`: every name of ParameterShapes(config), of its shape; all of one dtype and device.
  // `weight_type`: what kernels keep the matrices of; the memory's gates, its weights and all that is added stay as
  // given.
  Titans(const ModelConfig& config, const std::map<std::string, at::Tensor>& parameters,
         WeightType weight_type = WeightType::kFloat32);
  ~Titans();

  BatchState InitialState(int64_t sessions) const;

  enum class Logits { kNone, kLast, kAll };
  struct Output {
    at::Tensor logits;    // [N, T, V], [N, 1, V] or undefined
    at::Tensor surprise;  // [N, T, memory blocks, H]; undefined when no block has a memory
    at::Tensor write;     // alike: the logits of theta / theta_max
    // Of each memory block, [N, H, T, d]; a mac block's are undefined without gradients.
    std::vector<at::Tensor> queries, keys;
  };
  // tokens [N, T], int64, in [0, V). Any T >= 1.
  Output Forward(const at::Tensor& tokens, BatchState* state, Logits logits) const;

  // Whether kernels of a CPU compute all of it: no block is mac. Then no bit depends on the rows beside it.
  bool StepsInPlace() const;

  // Makes the state of one session one that is stepped in place, where the kernels of a CPU compute and no block is
  // mac: it must not be copied any more, and only Forward and ForwardTogether take it.
  void Hold(BatchState* state) const;

  // Of one session in each state, wherever it stands: tokens [N, T] -> the last one's logits [N, 1, V]. Each as by
  // Forward alone, to the bit where states are held; there the sessions share a pass over the weights.
  at::Tensor ForwardTogether(const at::Tensor& tokens, absl::Span<BatchState* const> states) const;

  // The first memory, and what it would be given by new sessions that read tokens [N, T] -> [N, T, D]. Only what lies
  // before it is computed. Its block must be lmm, mag or mal.
  const NeuralMemory& FirstMemory() const;
  at::Tensor FirstMemoryInput(const at::Tensor& tokens) const;

  // M and S of block `index` after the last token.
  MemoryState Memory(const BatchState& state, int64_t index) const;

 private:
  struct Block;

  const ModelConfig config_;
  std::vector<std::unique_ptr<Block>> blocks_;
  at::Tensor embedding_, norm_;
  Projection head_;
};

}  // namespace mnemosyne
