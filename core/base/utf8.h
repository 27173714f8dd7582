// UTF-8 at the edges of streams that may be cut anywhere.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace mnemosyne {

// Bytes at the end of `text` (0 to 3) that begin a character and do not finish it.
size_t UnfinishedUtf8Bytes(absl::string_view text);

// The text with every byte that belongs to no character replaced by U+FFFD.
std::string ToValidUtf8(absl::string_view text);

}  // namespace mnemosyne
