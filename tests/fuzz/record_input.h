// What a record target's input means: a byte, then fields of the key as the target says, then the value.
//
// When the first byte is odd, the value is followed by the checksum that docs/formats/storage.md asks for: no fuzzer
// would guess it. When it is even, the value is taken as it is.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/storage/record_codec.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {

class RecordInput {
 public:
  RecordInput(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {
    if (!rest_.empty()) is_to_be_sealed_ = Take(1)[0] & 1;
  }
  // 0 when the input is too short.
  uint64_t Number() {
    const auto number = ByteReader(Take(8)).U64();
    return number.ok() ? *number : 0;
  }
  // What is left, or `bytes` of it.
  std::string Value(absl::string_view key, size_t bytes = absl::string_view::npos) {
    const std::string value(Take(bytes));
    if (!is_to_be_sealed_) return value;
    ByteWriter bound;
    bound.Raw(key);
    bound.U64(Checksum64(value));
    ByteWriter sealed;
    sealed.Raw(value);
    sealed.U64(Checksum64(bound.bytes()));
    return sealed.Take();
  }

 private:
  absl::string_view Take(size_t bytes) {
    const absl::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  absl::string_view rest_;
  bool is_to_be_sealed_ = false;
};

// A record that was read can be written again, and is the same one.
inline void RequireSameRecord(absl::string_view value, absl::string_view encoded, uint8_t version = kRecordVersion) {
  Require(value[0] <= version, "a record of a newer version is refused");
  if (value[0] == version) Require(value == encoded, "a record has one encoding");
}

inline void RequireRecordError(const absl::Status& status) {
  RequireError(status, {absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition});
}

}  // namespace mnemosyne
