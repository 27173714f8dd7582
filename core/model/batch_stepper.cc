#include "core/model/batch_stepper.h"

namespace mnemosyne {

using at::Tensor;

BatchStepper::Step BatchStepper::Take(absl::Span<const StateTable::RowPtr> rows, const Tensor& tokens) const {
  const auto count = static_cast<int64_t>(rows.size());
  std::vector<StateTable::RowPtr> filled(rows.begin(), rows.end());
  filled.resize(sessions_, filler_);
  const Tensor missing = at::zeros({sessions_ - count, tokens.size(1)}, tokens.options());

  BatchState state = table_->Gather(filled);
  const Titans::Output out = titans_.Forward(at::cat({tokens, missing}), &state, Titans::Logits::kNone);
  const Tensor packed = StateTable::Pack(state);
  const Tensor nothing = packed.mul(0).sum(1);  // infinity times nothing is not a number
  const Tensor surprise = out.surprise.defined() ? out.surprise.flatten(1).mean(1) : at::zeros_like(nothing);
  return {table_->Put(packed.narrow(0, 0, count), absl::MakeConstSpan(state.offsets).first(count)),
          at::stack({nothing, surprise})};
}

}  // namespace mnemosyne
