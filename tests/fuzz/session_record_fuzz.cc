// Sessions' metadata.
#include "tests/fuzz/record_input.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  RecordInput input(data, size);
  const uint64_t number = input.Number();
  const std::string key = SessionKey(number);
  const std::string value = input.Value(key);

  const auto session = DecodeSession(key, value);
  if (!session.ok()) {
    RequireRecordError(session.status());
    return 0;
  }
  Require(session->number == number, "a session is the one that its key names");
  const std::string encoded = EncodeSession(*session);
  RequireSameRecord(value, encoded, kSessionVersion);
  const auto again = DecodeSession(key, encoded);
  Require(again.ok() && EncodeSession(*again) == encoded, "what was read can be written and read again");
  Require(!DecodeSession(SessionKey(number + 1), value).ok(), "a record belongs to its key alone");
  return 0;
}

}  // namespace mnemosyne
