// Scratch memory of one thread, which kernels carve buffers from and which is kept for the next call.
//
//   Workspace space(/*count=*/3000, /*buffers=*/2);
//   float* rows = space.Take(2000);   // 64-byte aligned, not initialised
//
// One at a time a thread. What is taken lives as long as the Workspace.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cassert>
#include <cstdint>
#include <new>

namespace mnemosyne {

class Workspace {
 public:
  // Room for `count` floats in at most `buffers` buffers. std::bad_alloc when there is none.
  Workspace(int64_t count, int64_t buffers) {
    const int64_t needed = count + buffers * kAlignment;
    if (memory_.size < needed) {
      memory_.size = 0;
      memory_.values = hwy::AllocateAligned<float>(needed);
      if (memory_.values == nullptr) throw std::bad_alloc();
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
