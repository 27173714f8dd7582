#include "core/model/session_state.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/state_codec.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

int64_t StateOffset(const SessionState& state) { return state.offset(); }

std::vector<StateSlot> StateSlots(BatchState* state) {
  std::vector<StateSlot> slots;
  for (size_t i = 0; i < state->blocks.size(); ++i) {
    BlockState& block = state->blocks[i];
    const std::string prefix = absl::StrCat("blocks.", i, ".");
    for (size_t l = 0; l < block.memory.weights.size(); ++l) {
      slots.push_back({absl::StrCat(prefix, "memory.M.", l), &block.memory.weights[l]});
      slots.push_back({absl::StrCat(prefix, "memory.S.", l), &block.memory.velocity[l]});
    }
    if (block.memory.conv_tail.defined()) slots.push_back({prefix + "memory.conv_tail", &block.memory.conv_tail});
    if (block.window.keys.defined()) {
      slots.push_back({prefix + "window.keys", &block.window.keys});
      slots.push_back({prefix + "window.values", &block.window.values});
    }
  }
  return slots;
}

std::vector<StateTensor> StateTensors(const BatchState& state) {
  BatchState shared = state;
  std::vector<StateTensor> tensors;
  for (const StateSlot& slot : StateSlots(&shared)) tensors.push_back({slot.name, *slot.tensor});
  return tensors;
}

std::string EncodeSessionState(const SessionState& state, absl::string_view fingerprint) {
  const std::vector<StateTensor> tensors = StateTensors(state.batch());
  size_t bytes = 0;
  for (const StateTensor& one : tensors) bytes += one.tensor.numel() * sizeof(float);
  StateFormatter formatter(fingerprint, state.offset(), tensors.size(), bytes);
  for (const StateTensor& one : tensors) {
    const at::Tensor host = InOrder(one.tensor.to(at::kCPU, at::kFloat));  // the one copy off the device
    formatter.Add({{one.name, host.sizes().vec()},
                   {static_cast<const char*>(host.data_ptr()), static_cast<size_t>(host.nbytes())}});
  }
  return formatter.Finish();
}

absl::StatusOr<StatePtr> DecodeSessionState(absl::string_view bytes, absl::string_view fingerprint,
                                            const ModelConfig& config, const BatchState& initial) {
  BatchState state = initial;
  const std::vector<StateSlot> slots = StateSlots(&state);
  std::vector<StoredShape> shapes;
  for (const StateSlot& slot : slots) shapes.push_back({slot.name, slot.tensor->sizes().vec()});
  ASSIGN_OR_RETURN(const StoredState stored, ParseState(bytes, fingerprint, config.block_tokens(), shapes));
  state.offsets = {stored.offset};
  for (size_t i = 0; i < slots.size(); ++i) {
    const absl::string_view values = stored.values[i];
    at::Tensor& tensor = *slots[i].tensor;
    at::Tensor host = at::empty(tensor.sizes(), at::TensorOptions().dtype(at::kFloat));
    if (!values.empty()) std::memcpy(host.data_ptr(), values.data(), values.size());
    tensor = host.to(tensor.options());
  }
  return std::make_shared<const SessionState>(std::move(state));
}

}  // namespace mnemosyne
