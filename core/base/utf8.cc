#include "core/base/utf8.h"

#include <algorithm>
#include <cstdint>

namespace mnemosyne {

namespace {

// Bytes of the character that `lead` begins; 0 when it begins none.
size_t CharacterBytes(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  if (lead >= 0xf0 && lead < 0xf5) return 4;
  return 0;
}

bool IsContinuation(unsigned char byte) { return (byte & 0xc0) == 0x80; }

// Neither overlong, nor a surrogate, nor beyond U+10FFFF.
bool IsScalar(absl::string_view character) {
  const unsigned char lead = character[0], second = character.size() > 1 ? character[1] : 0;
  if (lead == 0xe0) return second >= 0xa0;
  if (lead == 0xed) return second < 0xa0;
  if (lead == 0xf0) return second >= 0x90;
  if (lead == 0xf4) return second < 0x90;
  return true;
}

}  // namespace

size_t UnfinishedUtf8Bytes(absl::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const unsigned char byte = text[text.size() - back];
    if (IsContinuation(byte)) continue;
    return CharacterBytes(byte) > back ? back : 0;
  }
  return 0;
}

std::string ToValidUtf8(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t size = CharacterBytes(text[0]);
    const bool is_whole = size > 0 && size <= text.size() &&
                          std::all_of(text.begin() + 1, text.begin() + size, IsContinuation) &&
                          IsScalar(text.substr(0, size));
    out += is_whole ? std::string(text.substr(0, size)) : "\xef\xbf\xbd";
    text.remove_prefix(is_whole ? size : 1);
  }
  return out;
}

}  // namespace mnemosyne
