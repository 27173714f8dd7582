#include "core/base/checksum.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // XXH3 by the best instruction set of the CPU it runs on: three times as fast as with SSE2
#else
#include <xxhash.h>
#endif
#include <zlib.h>

#include "absl/strings/str_format.h"

namespace mnemosyne {

uint64_t Checksum64(absl::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

uint32_t Crc32(absl::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

std::string Fingerprint(absl::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace mnemosyne
