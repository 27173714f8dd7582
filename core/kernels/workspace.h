// Scratch memory of one thread, which kernels carve buffers from and which is kept for the next call.
//
//   Workspace space(bytes_needed);
//   float* buffer = space.Take(count);   // 64-byte aligned, not initialised
//
// One at a time a thread. What is taken lives as long as the Workspace.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cassert>
#include <cstdint>

namespace mnemosyne {

class Workspace {
 public:
  // Room for `count` floats in at most `buffers` buffers.
  Workspace(int64_t count, int64_t buffers) {
    const int64_t needed = count + buffers * kAlignment;
    if (memory_.size < needed) {
      memory_.values = hwy::AllocateAligned<float>(needed);
      memory_.size = needed;
    }
    next_ = memory_.values.get();
    end_ = next_ + memory_.size;
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  float* Take(int64_t count) {
    float* const taken = next_;
    next_ += (count + kAlignment - 1) / kAlignment * kAlignment;
    assert(next_ <= end_);
    return taken;
  }

 private:
  static constexpr int64_t kAlignment = 16;  // floats
  struct Memory {
    hwy::AlignedFreeUniquePtr<float[]> values;
    int64_t size;  // 0 at first, as all that is thread_local
  };
  static inline thread_local Memory memory_;
  float* next_ = nullptr;
  float* end_ = nullptr;
};

}  // namespace mnemosyne
