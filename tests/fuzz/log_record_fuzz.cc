// Log records and their keys.
#include "tests/fuzz/record_input.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  RecordInput input(data, size);
  const uint64_t number = input.Number(), epoch = input.Number(), index = input.Number();
  const std::string key = LogKey(number, epoch, index);
  const auto parsed = ParseLogIndex(key);
  Require(parsed.ok() && *parsed == index, "a key tells its index");
  const std::string value = input.Value(key);

  const auto record = DecodeLogRecord(key, value);
  if (!record.ok()) {
    RequireRecordError(record.status());
    return 0;
  }
  Require(record->session_number == number && record->epoch == epoch && record->index == index,
          "a record is the one that its key names");
  Require(record->kind == LogContent::kText || record->payload.size() % sizeof(int32_t) == 0, "token ids are whole");
  RequireSameRecord(value, EncodeLogRecord(*record));
  Require(!DecodeLogRecord(LogKey(number, epoch, index + 1), value).ok(), "a record belongs to its key alone");
  Require(!DecodeLogRecord(key.substr(1), value).ok(), "a key has one size");
  return 0;
}

}  // namespace mnemosyne
