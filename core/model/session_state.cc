#include "core/model/session_state.h"

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/state_codec.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

int64_t StateOffset(const SessionState& state) { return state.offset(); }

std::string EncodeSessionState(const SessionState& state, absl::string_view fingerprint) {
  const std::vector<StateTensor> tensors = StateTensors(state.on_host());  // the one copy off the device
  size_t bytes = 0;
  for (const StateTensor& one : tensors) bytes += one.tensor.numel() * sizeof(float);
  StateFormatter formatter(fingerprint, state.offset(), tensors.size(), bytes);
  for (const StateTensor& one : tensors) {
    const at::Tensor host = InOrder(one.tensor.to(at::kFloat));
    formatter.Add({{one.name, host.sizes().vec()},
                   {static_cast<const char*>(host.data_ptr()), static_cast<size_t>(host.nbytes())}});
  }
  return formatter.Finish();
}

absl::StatusOr<BatchState> DecodeSessionState(absl::string_view bytes, absl::string_view fingerprint,
                                              const ModelConfig& config, const BatchState& initial) {
  BatchState state = initial;
  const std::vector<StateSlot> slots = StateSlots(&state);
  std::vector<StoredShape> shapes;
  for (const StateSlot& slot : slots) shapes.push_back({slot.name, slot.tensor->sizes().vec()});
  std::vector<at::Tensor> host;
  std::vector<char*> targets;
  for (const StateSlot& slot : slots) {
    host.push_back(at::empty(slot.tensor->sizes(), at::TensorOptions().dtype(at::kFloat)));
    targets.push_back(static_cast<char*>(host.back().data_ptr()));
  }
  ASSIGN_OR_RETURN(const int64_t offset, ParseState(bytes, fingerprint, config.block_tokens(), shapes, targets));
  state.offsets = {offset};
  for (size_t i = 0; i < slots.size(); ++i) *slots[i].tensor = host[i].to(slots[i].tensor->options());
  return state;
}

}  // namespace mnemosyne
