#include "core/model/piece_file.h"

#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

std::string Field(int number, const std::string& bytes) {
  std::string field = {static_cast<char>(number << 3 | 2)};
  for (size_t left = bytes.size(); true; left >>= 7) {
    field.push_back(static_cast<char>((left & 0x7f) | (left > 0x7f ? 0x80 : 0)));
    if (left <= 0x7f) return field + bytes;
  }
}

// A model that is nothing but a normalizer with this double array and these texts.
std::string Model(const std::vector<uint32_t>& array, const std::string& texts) {
  ByteWriter table;
  table.Sized({reinterpret_cast<const char*>(array.data()), array.size() * sizeof(uint32_t)});
  table.Raw(texts);
  return Field(3, Field(2, table.bytes()));
}

// The root's only child is 'A', whose value is `value`.
std::vector<uint32_t> ArrayOfA(uint32_t value) {
  std::vector<uint32_t> array(512);
  array[0] = 256 << 10;                         // the root's children are at 256 ^ their byte
  array[256 ^ 'A'] = 'A' | 1 << 8 | 'A' << 10;  // 'A' has a value, at its place ^ 'A'
  array[256] = uint32_t{1} << 31 | value;
  return array;
}

TEST(PieceFile, ATableThatStaysInItselfIsTaken) {
  EXPECT_OK(CheckPieceFile(""));
  EXPECT_OK(CheckPieceFile(Model(ArrayOfA(0), std::string("a\0", 2))));
  EXPECT_OK(CheckPieceFile(Model(ArrayOfA(1), std::string("a\0", 2))));
  EXPECT_OK(CheckPieceFile(Field(3, Field(2, ""))));  // no table: nothing is normalized
}

TEST(PieceFile, ATableThatLeadsOutOfItselfIsRefused) {
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("character table"));
  const std::string texts("a\0", 2);
  EXPECT_THAT(CheckPieceFile(Model(ArrayOfA(2), texts)), refused) << "a value behind the texts";
  EXPECT_THAT(CheckPieceFile(Model(ArrayOfA(0), "a")), refused) << "a text without an end";
  EXPECT_THAT(CheckPieceFile(Model(ArrayOfA(0), "")), refused) << "no texts";
  EXPECT_THAT(CheckPieceFile(Model({}, texts)), refused) << "no root";
  std::vector<uint32_t> array = ArrayOfA(0);
  array.resize(511);
  EXPECT_THAT(CheckPieceFile(Model(array, texts)), refused) << "children partly outside";
  array = ArrayOfA(0);
  array[256 ^ 'A'] |= 0xfff << 10;
  EXPECT_THAT(CheckPieceFile(Model(array, texts)), refused) << "children of a child outside";
  EXPECT_THAT(CheckPieceFile(Field(3, Field(2, std::string("\xff\xff\xff\xff", 4)))), refused) << "truncated";
}

TEST(PieceFile, BytesThatAreNoMessageAreRefused) {
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not those of a model"));
  for (const std::string& file : {std::string("\0", 1), std::string("\x1a\x05x"), std::string("\x0b"),
                                  std::string(11, '\xff'), Field(3, "\x12\x05x")}) {
    EXPECT_THAT(CheckPieceFile(file), refused);
  }
}

}  // namespace
}  // namespace mnemosyne
