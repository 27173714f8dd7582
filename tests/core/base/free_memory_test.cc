// What a process keeps of what another thread took and freed.
#include "core/base/free_memory.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace mnemosyne {
namespace {

constexpr int64_t kMiB = 1 << 20;

int64_t ResidentBytes() {
  int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void TakeAndFree(int blocks, int64_t bytes) {
  std::vector<std::unique_ptr<char[]>> taken;
  taken.reserve(blocks);  // nothing lies behind the blocks, which become the arena's end
  for (int b = 0; b < blocks; ++b) std::memset(taken.emplace_back(new char[bytes]).get(), b, bytes);
}

TEST(FreeMemoryTest, WhatAThreadFreesGoesBack) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "another allocator";
#endif
  TakeAndFree(1, 24 * kMiB);  // from now on glibc keeps twice as much
  int64_t kept = 0, kept_in_limits = 0;
  std::thread([&] {  // with an arena of its own
    const int64_t before = ResidentBytes();
    TakeAndFree(20, kMiB);
    ReturnFreeMemory();
    kept = ResidentBytes() - before;
    LimitFreeMemory(2 * kMiB);
    TakeAndFree(20, kMiB);
    ReturnFreeMemory();
    kept_in_limits = ResidentBytes() - before;
  })
      .join();
  EXPECT_GT(kept, 16 * kMiB) << "the limit is not needed any more";
  EXPECT_LT(kept_in_limits, 4 * kMiB);
}

}  // namespace
}  // namespace mnemosyne
