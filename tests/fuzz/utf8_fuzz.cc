// Text of streams, which may be cut anywhere and need not be UTF-8.
#include <cstdint>

#include "core/base/utf8.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text = absl::string_view(reinterpret_cast<const char*>(data), size).substr(0, 64);
  const std::string valid = ToValidUtf8(text);
  Require(ToValidUtf8(valid) == valid, "valid text stays as it is");
  Require(UnfinishedUtf8Bytes(valid) == 0, "valid text has no unfinished character");

  const size_t unfinished = UnfinishedUtf8Bytes(text);
  Require(unfinished <= 3 && unfinished <= text.size(), "at most three bytes begin a character and do not finish it");
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    // An answer is sent in parts that end before an unfinished character.
    const size_t part = cut - UnfinishedUtf8Bytes(text.substr(0, cut));
    Require(ToValidUtf8(text.substr(0, part)) + ToValidUtf8(text.substr(part)) == valid,
            "text that is cut before an unfinished character reads like the whole");
  }
  return 0;
}

}  // namespace mnemosyne
