// Copies of arrays that are larger than what is left of the caches.
#pragma once

#include <cstddef>

namespace mnemosyne {

// memcpy whose stores go around the caches, where the CPU has such: memory that is written whole is not read before,
// and what the caches hold stays. For what nobody reads at once. Another thread sees the bytes as it would see
// memcpy's.
void CopyAroundCaches(const char* from, size_t bytes, char* to);

}  // namespace mnemosyne
