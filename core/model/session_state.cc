#include "core/model/session_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/state_codec.h"
#include "core/model/tensor_ops.h"

namespace mnemosyne {

namespace {

// M and S are stored across, as kernels leave them: there is nothing to turn around.
at::Tensor AsStored(const at::Tensor& tensor, bool is_matrices) {
  return InOrder(is_matrices ? tensor.transpose(1, 2) : tensor);
}

}  // namespace

int64_t StateOffset(const SessionState& state) { return state.offset(); }

std::string EncodeSessionState(const SessionState& state, absl::string_view fingerprint) {
  const std::vector<StateTensor> tensors = StateTensors(state.on_host());  // the one copy off the device
  size_t bytes = 0;
  for (const StateTensor& one : tensors) bytes += one.tensor.numel() * sizeof(float);
  StateFormatter formatter(fingerprint, state.offset(), tensors.size(), bytes);
  for (const StateTensor& one : tensors) {
    const at::Tensor host = AsStored(one.tensor.to(at::kFloat), one.is_matrices);
    formatter.Add({{one.name, host.sizes().vec(), one.is_matrices},
                   {static_cast<const char*>(host.data_ptr()), static_cast<size_t>(host.nbytes())}});
  }
  return formatter.Finish();
}

absl::StatusOr<BatchState> DecodeSessionState(absl::string_view bytes, absl::string_view fingerprint,
                                              const ModelConfig& config, const BatchState& initial) {
  BatchState state = initial;
  const std::vector<StateSlot> slots = StateSlots(&state);
  std::vector<StoredShape> shapes;
  std::vector<at::Tensor> host;  // as they are stored
  std::vector<char*> targets;
  for (const StateSlot& slot : slots) {
    std::vector<int64_t> sizes = slot.tensor->sizes().vec();
    if (slot.is_matrices) std::swap(sizes[1], sizes[2]);
    shapes.push_back({slot.name, sizes, slot.is_matrices});
    host.push_back(at::empty(sizes, at::TensorOptions().dtype(at::kFloat)));
    targets.push_back(static_cast<char*>(host.back().data_ptr()));
  }
  ASSIGN_OR_RETURN(const ParsedState parsed, ParseState(bytes, fingerprint, config.block_tokens(), shapes, targets));
  state.offsets = {parsed.offset};
  for (size_t i = 0; i < slots.size(); ++i) {
    at::Tensor& tensor = *slots[i].tensor;
    if (slots[i].is_matrices) {
      host[i] = parsed.is_version_1 ? host[i].view(tensor.sizes()) : host[i].transpose(1, 2);
      // Where a BLAS computes, bits may depend on how they lie: there they lie as a step leaves them.
      if (!KernelsFit(tensor)) host[i] = host[i].contiguous();
    }
    tensor = host[i].to(tensor.options());
  }
  return state;
}

}  // namespace mnemosyne
