#include "core/kernels/copy.h"

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace mnemosyne {

// No choice of an instruction set: the narrowest vectors fill the CPU's buffers for such stores as fast as it empties
// them.
void CopyAroundCaches(const char* from, size_t bytes, char* to) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<uint8_t> d;
  const size_t lanes = hn::Lanes(d);
  const size_t head = std::min(bytes, (lanes - reinterpret_cast<uintptr_t>(to) % lanes) % lanes);
  std::memcpy(to, from, head);
  size_t at = head;
  for (; at + lanes <= bytes; at += lanes) {
    hn::Stream(hn::LoadU(d, reinterpret_cast<const uint8_t*>(from + at)), d, reinterpret_cast<uint8_t*>(to + at));
  }
  hwy::FlushStream();
  std::memcpy(to + at, from + at, bytes - at);
}

}  // namespace mnemosyne
