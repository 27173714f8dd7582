// A session's state at a block boundary, and its bytes (docs/formats/state.md).
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.h"
#include "core/model/model.h"
#include "core/model/titans.h"

namespace mnemosyne {

class SessionState {
 public:
  explicit SessionState(BatchState state) : state_(std::move(state)) {}
  const BatchState& batch() const { return state_; }  // N = 1, no open chunk, no open segment
  int64_t offset() const { return state_.offsets[0]; }

 private:
  const BatchState state_;
};

// A tensor of a state, by the name it has in files: "blocks.1.memory.M.0".
struct StateTensor {
  std::string name;
  at::Tensor tensor;
};
struct StateSlot {
  std::string name;
  at::Tensor* tensor;  // to be replaced, never changed in place: other states may share it
};

// Every tensor of a state that has no open chunk or segment, in the order of the file.
std::vector<StateTensor> StateTensors(const BatchState& state);
std::vector<StateSlot> StateSlots(BatchState* state);

std::string EncodeSessionState(const SessionState& state, absl::string_view fingerprint);

// `initial` gives the names and shapes that must be there. DATA_LOSS, or FAILED_PRECONDITION for another fingerprint.
absl::StatusOr<StatePtr> DecodeSessionState(absl::string_view bytes, absl::string_view fingerprint,
                                            const ModelConfig& config, const BatchState& initial);

}  // namespace mnemosyne
