#include "core/base/checksum.h"

#define XXH_STATIC_LINKING_ONLY  // the size of a running checksum's state
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // XXH3 by the best instruction set of the CPU it runs on: three times as fast as with SSE2
#else
#include <xxhash.h>
#endif
#include <zlib.h>

#include "absl/strings/str_format.h"

namespace mnemosyne {

uint64_t Checksum64(absl::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

struct RunningChecksum64::State {
  XXH3_state_t state;
};
void RunningChecksum64::Free::operator()(State* state) const { delete state; }

RunningChecksum64::RunningChecksum64() : state_(new State) { XXH3_64bits_reset(&state_->state); }
void RunningChecksum64::Add(absl::string_view bytes) { XXH3_64bits_update(&state_->state, bytes.data(), bytes.size()); }
uint64_t RunningChecksum64::Value() const { return XXH3_64bits_digest(&state_->state); }

uint32_t Crc32(absl::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

std::string Fingerprint(absl::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace mnemosyne
