// Checksums and fingerprints (they find damage, not forgery).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace mnemosyne {

// XXH3-64 of the bytes.
uint64_t Checksum64(absl::string_view bytes);

// The same, of bytes that come in pieces.
class RunningChecksum64 {
 public:
  RunningChecksum64();
  void Add(absl::string_view bytes);
  uint64_t Value() const;  // of what was added so far

 private:
  struct State;
  struct Free {
    void operator()(State* state) const;
  };
  std::unique_ptr<State, Free> state_;
};

// CRC-32 of the bytes, as zlib has it: what clients in other languages can compute without more.
uint32_t Crc32(absl::string_view bytes);

// XXH3-128 of the bytes as 32 lower-case hex digits.
std::string Fingerprint(absl::string_view bytes);

}  // namespace mnemosyne
