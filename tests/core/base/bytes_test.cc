#include "core/base/bytes.h"

#include <cstdint>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

TEST(Bytes, WhatIsWrittenIsReadBack) {
  ByteWriter out;
  out.U8(200);
  out.U32(0xdeadbeef);
  out.U64(std::numeric_limits<uint64_t>::max());
  out.I64(std::numeric_limits<int64_t>::min());
  out.Sized(absl::string_view("na\0me", 5));
  out.Raw("tail");
  const std::string bytes = out.Take();
  EXPECT_EQ(bytes.size(), 1 + 4 + 8 + 8 + 4 + 5 + 4);

  ByteReader in(bytes);
  EXPECT_EQ(*in.U8(), 200);
  EXPECT_EQ(*in.U32(), 0xdeadbeef);
  EXPECT_EQ(*in.U64(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(*in.I64(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*in.Sized(), absl::string_view("na\0me", 5));
  EXPECT_EQ(in.rest(), "tail");
  EXPECT_THAT(in.ExpectEnd(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("4 bytes too many")));
  EXPECT_EQ(*in.Raw(4), "tail");
  EXPECT_OK(in.ExpectEnd());
}

TEST(Bytes, IntegersAreLittleEndian) {
  ByteWriter out;
  out.U32(0x01020304);
  EXPECT_EQ(out.bytes(), "\x04\x03\x02\x01");
}

TEST(ByteReader, NamesWhatIsWantedAndWhatIsThereWhenTruncated) {
  EXPECT_THAT(ByteReader("").U8(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("1 bytes wanted, 0 left")));
  EXPECT_THAT(ByteReader("abc").U32(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("4 bytes wanted, 3 left")));
  EXPECT_THAT(ByteReader("abc").U64(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("8 bytes wanted, 3 left")));
  EXPECT_THAT(ByteReader("abc").Raw(4), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("4 bytes wanted, 3 left")));
}

TEST(ByteReader, ASizedFieldLongerThanTheRestIsRefused) {
  ByteWriter out;
  out.U32(std::numeric_limits<uint32_t>::max());
  out.Raw("abc");
  ByteReader in(out.bytes());
  EXPECT_THAT(in.Sized(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("4294967295 bytes wanted, 3 left")));
}

}  // namespace
}  // namespace mnemosyne
