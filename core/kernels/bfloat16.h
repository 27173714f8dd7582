// Rounding to bfloat16: 8 bits of mantissa, single precision's range.
#pragma once

#include <hwy/base.h>

#include <cstdint>
#include <cstring>

namespace mnemosyne {

// The nearest, to even between two. `value` is finite.
inline hwy::bfloat16_t ToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  hwy::bfloat16_t narrow;
  narrow.bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  return narrow;
}

}  // namespace mnemosyne
