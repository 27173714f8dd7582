#include "core/model/state_table.h"

#include <algorithm>
#include <utility>

#include "core/model/tensor_ops.h"

namespace mnemosyne {

using at::Tensor;

namespace {

constexpr int64_t kFirstRows = 64;

Tensor Indices(const std::vector<int64_t>& indices, at::Device device) {
  return at::tensor(indices, at::kLong).to(device);
}

}  // namespace

StateTable::StateTable(const BatchState& initial) : shape_(initial) {
  for (const StateTensor& one : StateTensors(initial)) {
    slots_.push_back({row_elements_, one.tensor.numel(), one.tensor.sizes().vec()});
    row_elements_ += one.tensor.numel();
    table_ = at::empty({0, 0}, one.tensor.options());
  }
  for (StateSlot& slot : StateSlots(&shape_)) *slot.tensor = at::empty({0}, slot.tensor->options());
  table_ = at::empty({0, row_elements_}, table_.options());
}

Tensor StateTable::Pack(const BatchState& state) {
  const auto sessions = static_cast<int64_t>(state.offsets.size());
  std::vector<Tensor> parts;
  for (const StateTensor& one : StateTensors(state)) parts.push_back(one.tensor.reshape({sessions, -1}));
  return at::cat(parts, 1);
}

std::vector<StateTable::RowPtr> StateTable::Put(const Tensor& packed, absl::Span<const int64_t> offsets) {
  const auto count = static_cast<int64_t>(offsets.size());
  absl::MutexLock lock(&mutex_);
  if (static_cast<int64_t>(free_.size()) < count) {
    GrowTo(std::max(table_.size(0) + count, std::max(kFirstRows, table_.size(0) * 3 / 2)));
  }
  const std::vector<int64_t> indices(free_.rbegin(), free_.rbegin() + count);
  table_.index_copy_(0, Indices(indices, table_.device()), packed);  // may throw
  free_.resize(free_.size() - count);
  std::vector<RowPtr> rows;
  for (int64_t i = 0; i < count; ++i) {
    rows.push_back(std::make_shared<const Row>(shared_from_this(), indices[i], offsets[i]));
  }
  return rows;
}

void StateTable::GrowTo(int64_t rows) {
  const int64_t before = table_.size(0);
  const Tensor larger = at::empty({rows, row_elements_}, table_.options());
  larger.narrow(0, 0, before).copy_(table_);
  table_ = larger;
  for (int64_t row = rows - 1; row >= before; --row) free_.push_back(row);
}

BatchState StateTable::Gather(absl::Span<const RowPtr> rows) const {
  std::vector<int64_t> indices, offsets;
  for (const RowPtr& row : rows) {
    indices.push_back(row->index_);
    offsets.push_back(row->offset_);
  }
  const Tensor all = table();
  if (rows.size() == 1) return Unpack(all.narrow(0, indices[0], 1), std::move(offsets));
  return Unpack(RowsOf(all, Indices(indices, all.device())), std::move(offsets));
}

BatchState StateTable::Bring(const Row& row, at::Device to) const {
  return Unpack(table().narrow(0, row.index_, 1).to(to), {row.offset_});
}

BatchState StateTable::Unpack(const Tensor& rows, std::vector<int64_t> offsets) const {
  BatchState state = shape_;
  const std::vector<StateSlot> places = StateSlots(&state);
  for (size_t i = 0; i < places.size(); ++i) {
    std::vector<int64_t> sizes = slots_[i].sizes;
    sizes[0] *= rows.size(0);  // what is of one session or of a head of it: sessions one after another
    *places[i].tensor = rows.narrow(1, slots_[i].first, slots_[i].elements).reshape(sizes);
  }
  state.offsets = std::move(offsets);
  return state;
}

Tensor StateTable::table() const {
  absl::MutexLock lock(&mutex_);
  return table_;
}

void StateTable::Release(int64_t index) {
  absl::MutexLock lock(&mutex_);
  free_.push_back(index);
}

int64_t StateTable::rows() const { return table().size(0); }

int64_t StateTable::rows_in_use() const {
  absl::MutexLock lock(&mutex_);
  return table_.size(0) - static_cast<int64_t>(free_.size());
}

}  // namespace mnemosyne
