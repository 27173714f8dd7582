// Checksums and fingerprints (XXH3: they find damage, not forgery).
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace mnemosyne {

// XXH3-64 of the bytes.
uint64_t Checksum64(absl::string_view bytes);

// XXH3-128 of the bytes as 32 lower-case hex digits.
std::string Fingerprint(absl::string_view bytes);

}  // namespace mnemosyne
