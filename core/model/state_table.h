// States of sessions on a device that wants many at once, such as a GPU: each is a row of one table there, so that the
// states of a batch are gathered, and put back, with the same few operators however many they are.
//
//   auto table = std::make_shared<StateTable>(titans.InitialState(1));
//   std::vector<StateTable::RowPtr> rows = table->Put(StateTable::Pack(state), state.offsets);
//   BatchState again = table->Gather({rows[0], rows[1]});  // N = 2
//
// A row is never changed while somebody holds it. The table grows when it is full, by half, and holds both tables
// while it copies; it never shrinks. Thread-safe, as long as all threads use the device in one order, as LibTorch's do
// by default (one stream).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "core/model/titans.h"

namespace mnemosyne {

class StateTable : public std::enable_shared_from_this<StateTable> {
 public:
  // Of states like `initial`, which is one session's, at a block boundary.
  explicit StateTable(const BatchState& initial);

  // One session's state in the table, given back when nobody holds it any more.
  class Row;
  using RowPtr = std::shared_ptr<const Row>;

  // The tensors of N sessions, at a block boundary, side by side: [N, row].
  static at::Tensor Pack(const BatchState& state);
  // packed [n, row], offsets [n] -> n rows of the table.
  std::vector<RowPtr> Put(const at::Tensor& packed, absl::Span<const int64_t> offsets);
  // The states of as many sessions. Their tensors are copies, but those of one session alone, which look into the
  // table: hold its row for as long as you hold them.
  BatchState Gather(absl::Span<const RowPtr> rows) const;
  // One session's, elsewhere, with one copy.
  BatchState Bring(const Row& row, at::Device to) const;

  int64_t rows() const;         // that there is room for
  int64_t rows_in_use() const;  // that somebody holds

 private:
  struct Slot {
    int64_t first = 0, elements = 0;  // of a row
    std::vector<int64_t> sizes;       // of one session's tensor
  };
  BatchState Unpack(const at::Tensor& rows, std::vector<int64_t> offsets) const;  // [N, row]
  void GrowTo(int64_t rows) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(int64_t index);
  at::Tensor table() const;

  BatchState shape_;  // of one session; its tensors are not looked at
  std::vector<Slot> slots_;
  int64_t row_elements_ = 0;
  mutable absl::Mutex mutex_;
  at::Tensor table_ ABSL_GUARDED_BY(mutex_);  // [rows, row]
  std::vector<int64_t> free_ ABSL_GUARDED_BY(mutex_);
};

class StateTable::Row {
 public:
  Row(std::shared_ptr<StateTable> table, int64_t index, int64_t offset)
      : table_(std::move(table)), index_(index), offset_(offset) {}
  ~Row() { table_->Release(index_); }
  Row(const Row&) = delete;
  Row& operator=(const Row&) = delete;

  int64_t offset() const { return offset_; }  // tokens in the state

 private:
  friend class StateTable;
  const std::shared_ptr<StateTable> table_;
  const int64_t index_;
  const int64_t offset_;
};

}  // namespace mnemosyne
