// Steps a block of many sessions at once, where the device wants many and their states are in a StateTable.
//
//   const BatchStepper stepper(titans, table, first, /*sessions=*/32);
//   BatchStepper::Step step = stepper.Take({row}, tokens);  // [1, block]
//   at::Tensor verdict = step.verdict.to(at::kCPU);         // the one place where the host waits for the device
//
// Every batch has the same shape: what is missing is filled up. So each session's products are done by the same
// kernels whoever stands beside it, and its bits do not depend on that, as long as these kernels compute a row of a
// product alike wherever it stands. Thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "core/model/state_table.h"
#include "core/model/titans.h"

namespace mnemosyne {

class BatchStepper {
 public:
  // `filler`: a state that stands where a session is missing.
  BatchStepper(const Titans& titans, std::shared_ptr<StateTable> table, StateTable::RowPtr filler, int64_t sessions)
      : titans_(titans), table_(std::move(table)), filler_(std::move(filler)), sessions_(sessions) {}

  int64_t sessions() const { return sessions_; }  // at most, in a batch

  struct Step {
    std::vector<StateTable::RowPtr> rows;  // the states after the block
    // [2, sessions()], on the device: 0, or not a number if a value of the state is not finite; and the surprise, a mean
    // over tokens, memories and heads.
    at::Tensor verdict;
  };
  // One to sessions() states; tokens [n, block], int64, on the device.
  Step Take(absl::Span<const StateTable::RowPtr> rows, const at::Tensor& tokens) const;

 private:
  const Titans& titans_;
  const std::shared_ptr<StateTable> table_;
  const StateTable::RowPtr filler_;
  const int64_t sessions_;
};

}  // namespace mnemosyne
