// States larger than any model's of the tests.
#include "core/model/state_codec.h"

#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

constexpr char kFingerprint[] = "0123456789abcdef0123456789abcdef";
constexpr int64_t kBlockTokens = 64;

// Around the size from which values are put around the caches, with a tensor that ends inside a piece.
TEST(StateCodecTest, ALargeStateGoesThereAndBack) {
  for (const int64_t floats : {1 << 10, (1 << 20) - 400, (1 << 20) + 4001}) {
    const std::vector<StoredShape> shapes = {{"window", {3}}, {"memory", {floats}}};
    std::vector<std::string> values = {"012345678901", std::string(4 * floats, '\0')};
    for (size_t i = 0; i < values[1].size(); ++i) values[1][i] = static_cast<char>(i * i >> 7);
    const std::string bytes = FormatState(kFingerprint, 128, {{shapes[0], values[0]}, {shapes[1], values[1]}});
    std::vector<std::string> read = {std::string(12, '\7'), std::string(4 * floats, '\7')};
    ASSERT_OK(ParseState(bytes, kFingerprint, kBlockTokens, shapes, {read[0].data(), read[1].data()}).status());
    EXPECT_EQ(read, values);

    std::string damaged = bytes;
    damaged[bytes.size() - 9] ^= 1;  // the last value's last byte
    EXPECT_EQ(ParseState(damaged, kFingerprint, kBlockTokens, shapes, {read[0].data(), read[1].data()}).status().code(),
              absl::StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace mnemosyne
