// Snapshots: number, epoch and offset of the key, the header's bytes and that many bytes of it; the rest is the state's
// record.
#include "tests/fuzz/record_input.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  RecordInput input(data, size);
  const uint64_t number = input.Number(), epoch = input.Number();
  const int64_t offset = static_cast<int64_t>(input.Number());
  const uint64_t header_bytes = input.Number();
  const std::string key = SnapshotKey(number, epoch, SnapshotPart::kHeader, offset);
  const auto parsed = ParseSnapshotOffset(key);
  Require(parsed.ok() && *parsed == offset, "a key tells its offset");
  const std::string value = input.Value(key, header_bytes);

  const auto header = DecodeSnapshotHeader(key, value);
  if (!header.ok()) {
    RequireRecordError(header.status());
    return 0;
  }
  Require(header->session_number == number && header->epoch == epoch && header->offset == offset,
          "a header is the one that its key names");
  RequireSameRecord(value, EncodeSnapshotHeader(*header));

  const std::string state_key = SnapshotKey(number, epoch, SnapshotPart::kState, offset);
  const std::string state_value = input.Value(state_key);
  const auto state = DecodeSnapshotState(*header, state_key, state_value);
  if (!state.ok()) {
    RequireRecordError(state.status());
    return 0;
  }
  Require(static_cast<int64_t>(state->size()) == header->state_bytes, "a state is as long as its header says");
  RequireSameRecord(state_value, EncodeSnapshotState(*header, *state));
  Require(!DecodeSnapshotState(*header, key, state_value).ok(), "a record belongs to its key alone");
  return 0;
}

}  // namespace mnemosyne
