// The folder's marker, and the number that stands beside it.
#include "tests/fuzz/record_input.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string marker = RecordInput(data, size).Value(kFormatKey);
  if (const absl::Status status = CheckFolderFormat(marker); status.ok()) {
    bool is_ours = false;
    for (uint32_t format = 0; format <= kFolderFormat; ++format) is_ours |= marker == EncodeFolderFormat(format);
    Require(is_ours, "a marker that is taken is one that a version up to ours wrote");
  } else {
    RequireRecordError(status);
  }

  const std::string next = RecordInput(data, size).Value(kNextSessionKey);
  if (const auto number = DecodeNextSession(next); number.ok()) {
    RequireSameRecord(next, EncodeNextSession(*number));
  } else {
    RequireRecordError(number.status());
  }
  return 0;
}

}  // namespace mnemosyne
