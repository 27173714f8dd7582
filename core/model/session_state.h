// A session's state at a block boundary, and its bytes (docs/formats/state.md).
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.h"
#include "core/model/model.h"
#include "core/model/state_table.h"
#include "core/model/titans.h"

namespace mnemosyne {

// Where sessions are stepped alone, as on a CPU, tensors of its own; where many are at once, a row of the model's table.
class SessionState {
 public:
  explicit SessionState(BatchState state) : state_(std::move(state)) {}
  SessionState(std::shared_ptr<const StateTable> table, StateTable::RowPtr row)
      : table_(std::move(table)), row_(std::move(row)) {}

  // N = 1, no open chunk, no open segment. Hold this state for as long as you hold its tensors.
  BatchState batch() const { return row_ != nullptr ? table_->Gather({row_}) : state_; }
  BatchState on_host() const { return row_ != nullptr ? table_->Bring(*row_, at::kCPU) : state_; }
  const StateTable::RowPtr& row() const { return row_; }  // null: it has tensors of its own
  int64_t offset() const { return row_ != nullptr ? row_->offset() : state_.offsets[0]; }

 private:
  const BatchState state_;
  const std::shared_ptr<const StateTable> table_;
  const StateTable::RowPtr row_;
};

std::string EncodeSessionState(const SessionState& state, absl::string_view fingerprint);

// One session's state, with the names, shapes and device of `initial`. DATA_LOSS, or FAILED_PRECONDITION for another
// fingerprint.
absl::StatusOr<BatchState> DecodeSessionState(absl::string_view bytes, absl::string_view fingerprint,
                                              const ModelConfig& config, const BatchState& initial);

}  // namespace mnemosyne
