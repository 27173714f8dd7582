// Memory that was freed and that the C library still holds: given back to the operating system. For the whole process,
// from any thread; nothing happens where the C library is not glibc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace mnemosyne {

// At most `bytes`, in 0 .. 2^31 - 1, stay at the end of each arena (threads share up to eight a core). Left to itself
// glibc lets that grow to twice the largest block that was ever freed, and ReturnFreeMemory leaves it alone: a write
// buffer of the database that has been written out stays. Less than what a step of a model takes and frees makes it ask
// for the same pages again and again.
inline void LimitFreeMemory([[maybe_unused]] int64_t bytes) {
#ifdef __GLIBC__
  // To set one ends the growth of both; this one is the largest that it grows to.
  constexpr int kLargestFromArenas = 32 << 20;
  mallopt(M_MMAP_THRESHOLD, kLargestFromArenas);
  mallopt(M_TRIM_THRESHOLD, static_cast<int>(std::clamp<int64_t>(bytes, 0, std::numeric_limits<int>::max())));
#endif
}

// Whole pages between blocks that are in use. Takes 20 ms beside 1,000 states of 1.6 MiB.
inline void ReturnFreeMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace mnemosyne
