#include "core/model/session_state.h"

#include <cstring>

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
  ASSIGN_OR_RETURN(const StoredState stored, ParseState(bytes, fingerprint, config.block_tokens(), shapes));
  state.offsets = {stored.offset};
  for (size_t i = 0; i < slots.size(); ++i) {
    const absl::string_view values = stored.values[i];
    at::Tensor& tensor = *slots[i].tensor;
    at::Tensor host = at::empty(tensor.sizes(), at::TensorOptions().dtype(at::kFloat));
    if (!values.empty()) std::memcpy(host.data_ptr(), values.data(), values.size());
    tensor = host.to(tensor.options());
  }
  return state;
}

}  // namespace mnemosyne
