// Scratch memory of one thread, which kernels carve buffers from and which is kept for the next call.
//
//   Workspace space(/*count=*/3000, /*buffers=*/2);
//   float* rows = space.Take(2000);   // 64-byte aligned, not initialised
//
// One at a time a thread. What is taken lives as long as the Workspace. An OwnedSpace is the same of its owner's, for
// what outlives a call.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cassert>
#include <cstdint>
#include <new>
#include <utility>

namespace mnemosyne {

// Carves buffers out of what it is given.
class Space {
 public:
  static constexpr int64_t kAlignment = 16;  // floats

  Space() = default;
  Space(float* begin, int64_t count) : next_(begin), end_(begin + count) {}

  float* Take(int64_t count) {
    float* const taken = next_;
    next_ += (count + kAlignment - 1) / kAlignment * kAlignment;
    assert(next_ <= end_);
    return taken;
  }

 private:
  float* next_ = nullptr;
  float* end_ = nullptr;
};

inline hwy::AlignedFreeUniquePtr<float[]> AllocateFloats(int64_t count) {
  hwy::AlignedFreeUniquePtr<float[]> values = hwy::AllocateAligned<float>(count);
  if (values == nullptr) throw std::bad_alloc();
  return values;
}

class Workspace : public Space {
 public:
  // Room for `count` floats in at most `buffers` buffers. std::bad_alloc when there is none.
  Workspace(int64_t count, int64_t buffers) : Space(Room(count + buffers * kAlignment), count + buffers * kAlignment) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

 private:
  struct Memory {
    hwy::AlignedFreeUniquePtr<float[]> values;
    int64_t size;  // 0 at first, as all that is thread_local
  };
  static float* Room(int64_t needed) {
    static thread_local Memory memory;
    if (memory.size < needed) {
      memory.size = 0;
      memory.values = AllocateFloats(needed);
      memory.size = needed;
    }
    return memory.values.get();
  }
};

class OwnedSpace : public Space {
 public:
  OwnedSpace(int64_t count, int64_t buffers)
      : OwnedSpace(AllocateFloats(count + buffers * kAlignment), count, buffers) {}

 private:
  OwnedSpace(hwy::AlignedFreeUniquePtr<float[]> values, int64_t count, int64_t buffers)
      : Space(values.get(), count + buffers * kAlignment), values_(std::move(values)) {}

  hwy::AlignedFreeUniquePtr<float[]> values_;
};

}  // namespace mnemosyne
