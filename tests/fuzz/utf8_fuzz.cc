// Text of streams, which may be cut anywhere and need not be UTF-8.
#include <bit>
#include <cstdint>

#include "core/base/utf8.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {
namespace {

// By the numbers that characters stand for, unlike core/base/utf8.cc, which goes by their bytes.
bool IsUtf8(absl::string_view text) {
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};  // that takes this many bytes
  while (!text.empty()) {
    const auto lead = static_cast<unsigned char>(text[0]);
    const size_t ones = std::countl_one(lead);
    const size_t size = ones == 0 ? 1 : ones;
    if (ones == 1 || ones > 4 || size > text.size()) return false;
    uint32_t character = lead & (0xff >> ones);
    for (const char byte : text.substr(1, size - 1)) {
      if ((byte & 0xc0) != 0x80) return false;
      character = character << 6 | (byte & 0x3f);
    }
    const bool is_surrogate = character >= 0xd800 && character < 0xe000;
    if (character < kLeast[size] || is_surrogate || character > 0x10ffff) return false;
    text.remove_prefix(size);
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text = absl::string_view(reinterpret_cast<const char*>(data), size).substr(0, 64);
  const std::string valid = ToValidUtf8(text);
  Require(IsUtf8(valid), "what is made valid is UTF-8");
  Require(!IsUtf8(text) || valid == text, "UTF-8 stays as it is");
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
