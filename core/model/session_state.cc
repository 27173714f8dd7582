#include "core/model/session_state.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {

constexpr absl::string_view kMagic = "MNSTATE1";
constexpr uint32_t kVersion = 1;
constexpr size_t kChecksumBytes = 8;

}  // namespace

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
  ByteWriter out;
  out.Raw(kMagic);
  out.U32(kVersion);
  out.Sized(fingerprint);
  out.I64(state.offset());
  out.U32(tensors.size());
  for (const StateTensor& one : tensors) {
    // The one copy off the device.
    const at::Tensor host = one.tensor.to(at::kCPU, at::kFloat).contiguous();
    out.Sized(one.name);
    out.U32(host.dim());
    for (const int64_t size : host.sizes()) out.I64(size);
    out.Raw({static_cast<const char*>(host.data_ptr()), static_cast<size_t>(host.nbytes())});
  }
  out.U64(Checksum64(out.bytes()));
  return out.Take();
}

absl::StatusOr<StatePtr> DecodeSessionState(absl::string_view bytes, absl::string_view fingerprint,
                                            const ModelConfig& config, const BatchState& initial) {
  if (bytes.size() < kMagic.size() + kChecksumBytes) {
    return absl::DataLossError(absl::StrCat("state is truncated: ", bytes.size(), " bytes"));
  }
  const absl::string_view body = bytes.substr(0, bytes.size() - kChecksumBytes);
  ASSIGN_OR_RETURN(const uint64_t checksum, ByteReader(bytes.substr(body.size())).U64());
  if (checksum != Checksum64(body)) return absl::DataLossError("state's checksum does not match its bytes");
  ByteReader in(body);
  ASSIGN_OR_RETURN(const absl::string_view magic, in.Raw(kMagic.size()));
  if (magic != kMagic) return absl::DataLossError("not a state: its first bytes are others");
  ASSIGN_OR_RETURN(const uint32_t version, in.U32());
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("state has format version ", version, "; this program reads ", kVersion));
  }
  ASSIGN_OR_RETURN(const absl::string_view made_with, in.Sized());
  if (made_with != fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat("state was made with model ", made_with, "; the model loaded is ", fingerprint));
  }
  ASSIGN_OR_RETURN(const int64_t offset, in.I64());
  if (offset < 0 || offset % config.block_tokens() != 0) {
    return absl::DataLossError(absl::StrCat("state's offset ", offset, " is not at a block boundary"));
  }
  ASSIGN_OR_RETURN(const uint32_t count, in.U32());
  BatchState state = initial;
  state.offsets = {offset};
  const std::vector<StateSlot> slots = StateSlots(&state);
  if (count != slots.size()) {
    return absl::DataLossError(absl::StrCat("state has ", count, " tensors; ", slots.size(), " belong to it"));
  }
  for (const auto& [name, tensor] : slots) {
    ASSIGN_OR_RETURN(const absl::string_view stored_name, in.Sized());
    if (stored_name != name) {
      return absl::DataLossError(absl::StrCat("state has tensor '", stored_name, "' where '", name, "' belongs"));
    }
    ASSIGN_OR_RETURN(const uint32_t dimensions, in.U32());
    if (dimensions != tensor->dim()) {
      return absl::DataLossError(absl::StrCat("state's tensor '", name, "' has ", dimensions, " dimensions"));
    }
    for (const int64_t expected : tensor->sizes()) {
      ASSIGN_OR_RETURN(const int64_t size, in.I64());
      if (size != expected) return absl::DataLossError(absl::StrCat("state's tensor '", name, "' is misshapen"));
    }
    ASSIGN_OR_RETURN(const absl::string_view values, in.Raw(tensor->numel() * sizeof(float)));
    at::Tensor host = at::empty(tensor->sizes(), at::TensorOptions().dtype(at::kFloat));
    if (!values.empty()) std::memcpy(host.data_ptr(), values.data(), values.size());
    *tensor = host.to(tensor->options());
  }
  RETURN_IF_ERROR(in.ExpectEnd());
  return std::make_shared<const SessionState>(std::move(state));
}

}  // namespace mnemosyne
