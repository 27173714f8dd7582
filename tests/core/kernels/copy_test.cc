#include "core/kernels/copy.h"

#include "tests/core/kernels/kernel_fixture.h"

namespace mnemosyne {
namespace {

using CopyTest = KernelTest;

TEST_F(CopyTest, BytesArriveAndNoneBesideThem) {
  for (int round = 0; round < 2000; ++round) {
    const int64_t bytes = Below(300), from_at = Below(70), to_at = Below(70);
    std::string from(bytes + 140, '\0'), to(bytes + 140, '\7');
    for (char& byte : from) byte = static_cast<char>(Below(256));
    std::string expected = to;
    expected.replace(to_at, bytes, from, from_at, bytes);
    CopyAroundCaches(from.data() + from_at, bytes, to.data() + to_at);
    ASSERT_EQ(to, expected) << bytes << " bytes from " << from_at << " to " << to_at;
  }
}

}  // namespace
}  // namespace mnemosyne
