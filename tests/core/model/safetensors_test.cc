#include "core/model/safetensors.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

// A file of this header and `data_bytes` bytes behind it.
std::string FileOf(absl::string_view header, size_t data_bytes) {
  ByteWriter out;
  out.U64(header.size());
  out.Raw(header);
  out.Raw(std::string(data_bytes, '\1'));
  return out.Take();
}

// One entry of a header.
std::string Entry(absl::string_view name, absl::string_view dtype, absl::string_view shape, absl::string_view offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", offsets,
                      "}");
}

std::string HeaderOf(const std::vector<std::string>& entries) {
  std::string header = "{";
  for (const std::string& entry : entries) absl::StrAppend(&header, header.size() > 1 ? "," : "", entry);
  return header + "}";
}

TEST(Safetensors, WhatIsFormattedIsParsedBack) {
  const std::vector<NamedTensor> tensors = {
      {"b", {2, 3}, {1, -2, 3.5, 0, 1e-30f, -1e30f}}, {"a", {1}, {42}}, {"scalar", {}, {7}}, {"none", {0, 4}, {}}};
  const std::string file = FormatSafetensors(tensors);
  const absl::StatusOr<std::vector<TensorView>> views = ParseSafetensors(file);
  ASSERT_OK(views);
  ASSERT_EQ(views->size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ((*views)[i].name, tensors[i].name);
    EXPECT_EQ((*views)[i].shape, tensors[i].shape);
    EXPECT_EQ((*views)[i].elements(), tensors[i].values.size());
    EXPECT_EQ((*views)[i].ToFloats(), tensors[i].values);
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  EXPECT_EQ(header_bytes % 8, 0);
}

TEST(Safetensors, AFileWithoutTensorsIsAFile) {
  EXPECT_EQ(ParseSafetensors(FormatSafetensors({}))->size(), 0);
  EXPECT_EQ(ParseSafetensors(FileOf("{}   ", 0))->size(), 0);
}

TEST(Safetensors, TensorsComeInTheOrderOfTheirBytes) {
  const std::string file =
      FileOf(HeaderOf({Entry("z", "F32", "[1]", "[0,4]"), Entry("a", "F16", "[2,1]", "[4,8]"),
                       Entry("m", "BF16", "[3]", "[8,14]"), R"("__metadata__":{"format":"pt","by":"us"})"}),
             14);
  const absl::StatusOr<std::vector<TensorView>> views = ParseSafetensors(file);
  ASSERT_OK(views);
  ASSERT_EQ(views->size(), 3);
  EXPECT_EQ((*views)[0].name, "z");
  EXPECT_EQ((*views)[1].name, "a");
  EXPECT_EQ((*views)[1].dtype, TensorDtype::kF16);
  EXPECT_EQ((*views)[2].name, "m");
  EXPECT_EQ((*views)[2].elements(), 3);
}

// A tensor of 16-bit values widened by the reader.
std::vector<float> Widen(absl::string_view dtype, const std::vector<uint16_t>& values) {
  const std::string header =
      HeaderOf({Entry("t", dtype, absl::StrCat("[", values.size(), "]"), absl::StrCat("[0,", 2 * values.size(), "]"))});
  std::string file = FileOf(header, 0);
  file.append(reinterpret_cast<const char*>(values.data()), 2 * values.size());
  const absl::StatusOr<std::vector<TensorView>> views = ParseSafetensors(file);
  EXPECT_OK(views);
  return views.ok() ? (*views)[0].ToFloats() : std::vector<float>();
}

TEST(Safetensors, HalvesAreWidenedExactly) {
  const std::vector<float> values = Widen(
      "F16", {0x0000, 0x8000, 0x3c00, 0xc000, 0x3555, 0x7bff, 0x0400, 0x0001, 0x03ff, 0x8001, 0x7c00, 0xfc00, 0x7e01});
  ASSERT_EQ(values.size(), 13);
  EXPECT_EQ(values[0], 0.0f);
  EXPECT_TRUE(values[1] == 0.0f && std::signbit(values[1]));
  EXPECT_EQ(values[2], 1.0f);
  EXPECT_EQ(values[3], -2.0f);
  EXPECT_EQ(values[4], 0.333251953125f);
  EXPECT_EQ(values[5], 65504.0f);
  EXPECT_EQ(values[6], 0x1p-14f);
  EXPECT_EQ(values[7], 0x1p-24f);
  EXPECT_EQ(values[8], 1023 * 0x1p-24f);
  EXPECT_EQ(values[9], -0x1p-24f);
  EXPECT_EQ(values[10], std::numeric_limits<float>::infinity());
  EXPECT_EQ(values[11], -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(values[12]));
}

TEST(Safetensors, BrainFloatsAreWidenedExactly) {
  const std::vector<float> values = Widen("BF16", {0x0000, 0x3f80, 0xc040, 0x7f80, 0x7fc0, 0x0001});
  ASSERT_EQ(values.size(), 6);
  EXPECT_EQ(values[0], 0.0f);
  EXPECT_EQ(values[1], 1.0f);
  EXPECT_EQ(values[2], -3.0f);
  EXPECT_TRUE(std::isinf(values[3]));
  EXPECT_TRUE(std::isnan(values[4]));
  EXPECT_EQ(values[5], 0x1p-133f);
}

TEST(Safetensors, EveryTruncationIsDataLoss) {
  const std::string file =
      FormatSafetensors(std::vector<NamedTensor>{{"first", {2}, {1, 2}}, {"last", {3}, {3, 4, 5}}});
  uint64_t header_bytes;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  for (size_t size = 0; size < file.size(); ++size) {
    const char* named = size < 8 ? "header length" : size < 8 + header_bytes ? "header" : "tensor '";
    EXPECT_THAT(ParseSafetensors(absl::string_view(file).substr(0, size)),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(named)))
        << size;
  }
  EXPECT_THAT(ParseSafetensors(absl::string_view(file).substr(0, file.size() - 1)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("tensor 'last' is truncated")));
  EXPECT_THAT(ParseSafetensors(absl::string_view(file).substr(0, file.size() - 13)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("tensor 'first' is truncated")));
}

struct Broken {
  std::string file;
  absl::StatusCode code;
  std::string message;
};

TEST(Safetensors, ABrokenFileIsRefusedByName) {
  constexpr absl::StatusCode kLoss = absl::StatusCode::kDataLoss;
  constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
  const std::string good = Entry("a", "F32", "[1]", "[0,4]");
  const auto one = [](const std::string& entry, size_t data_bytes) { return FileOf(HeaderOf({entry}), data_bytes); };
  std::string huge(8, '\xff');
  std::string limit = FileOf("{}", 0);
  limit.replace(0, 8, std::string("\x01\xe1\xf5\x05\0\0\0\0", 8));  // 100,000,001
  const std::vector<Broken> cases = {
      // The header's length.
      {huge, kInvalid, "header length is 18446744073709551615 bytes; the maximum is 100000000"},
      {limit, kInvalid, "header length is 100000001 bytes; the maximum is 100000000"},
      {std::string("\x09\0\0\0\0\0\0\0{}", 10), kLoss, "header is truncated: 9 bytes wanted, 2 left"},
      {FileOf("", 0), kInvalid, "header does not begin with '{'"},
      // The header's JSON.
      {FileOf("[]", 0), kInvalid, "header does not begin with '{'"},
      {FileOf(" {}", 0), kInvalid, "header does not begin with '{'"},
      {FileOf("{", 0), kInvalid, "header is not JSON"},
      {FileOf("{}}", 0), kInvalid, "header is not JSON"},
      {FileOf("{\"a\"}", 0), kInvalid, "header is not JSON"},
      {FileOf("{\"\xff\":1}", 0), kInvalid, "header is not JSON"},
      {FileOf(HeaderOf({good, good}), 4), kInvalid, "header key 'a' is there twice"},
      {one(R"("a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})", 4), kInvalid,
       "header key 'a.dtype' is there twice"},
      // An entry.
      {one(R"("a":1)", 0), kInvalid, "tensor 'a' is not an object"},
      {one(Entry("", "F32", "[1]", "[0,4]"), 4), kInvalid, "tensor '' has an empty name"},
      {one(R"("a":{"shape":[1],"data_offsets":[0,4]})", 4), kInvalid, "tensor 'a' has no 'dtype'"},
      {one(R"("a":{"dtype":"F32","data_offsets":[0,4]})", 4), kInvalid, "tensor 'a' has no 'shape'"},
      {one(R"("a":{"dtype":"F32","shape":[1]})", 4), kInvalid, "tensor 'a' has no 'data_offsets'"},
      {one(R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})", 4), kInvalid,
       "tensor 'a' has the unknown key 'x'"},
      {one(R"("a":{"dtype":1,"shape":[1],"data_offsets":[0,4]})", 4), kInvalid, "tensor 'a' has a dtype that is not"},
      {one(Entry("a", "F64", "[1]", "[0,8]"), 8), kInvalid, "tensor 'a' has dtype 'F64'; it must be F32, F16 or BF16"},
      {one(Entry("a", "I32", "[1]", "[0,4]"), 4), kInvalid, "tensor 'a' has dtype 'I32'"},
      {one(Entry("a", "f32", "[1]", "[0,4]"), 4), kInvalid, "tensor 'a' has dtype 'f32'"},
      // A shape.
      {one(Entry("a", "F32", "1", "[0,4]"), 4), kInvalid, "tensor 'a' has a shape that is not a list"},
      {one(Entry("a", "F32", "[-1]", "[0,4]"), 4), kInvalid, "tensor 'a' has a shape with something else"},
      {one(Entry("a", "F32", "[1.0]", "[0,4]"), 4), kInvalid, "tensor 'a' has a shape with something else"},
      {one(Entry("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), kInvalid, "tensor 'a' has 9 dimensions; the maximum"},
      {one(Entry("a", "F32", "[2]", "[0,4]"), 4), kInvalid, "tensor 'a' has 4 bytes; its shape [2] needs 8"},
      {one(Entry("a", "F16", "[1]", "[0,4]"), 4), kInvalid, "tensor 'a' has 4 bytes; its shape [1] needs 2"},
      {one(Entry("a", "F32", "[]", "[0,0]"), 0), kInvalid, "tensor 'a' has 0 bytes; its shape [] needs 4"},
      {one(Entry("a", "F32", "[4294967296,4294967296]", "[0,0]"), 0), kInvalid,
       "tensor 'a' has a shape whose bytes overflow"},
      {one(Entry("a", "F32", "[4611686018427387904]", "[0,0]"), 0), kInvalid,
       "tensor 'a' has a shape whose bytes overflow"},
      {one(Entry("a", "F32", "[0,18446744073709551615]", "[0,0]"), 0), kInvalid, "tensor 'a' has a shape whose bytes"},
      // Offsets and places.
      {one(Entry("a", "F32", "[1]", "[0]"), 4), kInvalid, "tensor 'a' has data_offsets that are not two counts"},
      {one(Entry("a", "F32", "[1]", "[0,4,8]"), 4), kInvalid, "tensor 'a' has data_offsets that are not two counts"},
      {one(Entry("a", "F32", "[1]", "[-4,0]"), 4), kInvalid, "tensor 'a' has data_offsets that are not two counts"},
      {one(Entry("a", "F32", "[1]", "[8,4]"), 8), kInvalid, "tensor 'a' has data_offsets [8, 4] that run backwards"},
      {one(Entry("a", "F32", "[1]", "[4,8]"), 8), kLoss, "tensor 'a' begins at byte 4, after a gap"},
      {FileOf(HeaderOf({good, Entry("b", "F32", "[1]", "[0,4]")}), 4), kLoss, "tensor 'b' begins at byte 0, inside"},
      {FileOf(HeaderOf({Entry("a", "F32", "[2]", "[0,8]"), Entry("b", "F32", "[2]", "[4,12]")}), 12), kLoss,
       "tensor 'b' begins at byte 4, inside the one before it"},
      {FileOf(HeaderOf({good, Entry("b", "F32", "[1]", "[8,12]")}), 12), kLoss,
       "tensor 'b' begins at byte 8, after a gap"},
      {one(Entry("a", "F32", "[2]", "[0,8]"), 7), kLoss,
       "tensor 'a' is truncated: it ends at byte 8, the file's data at 7"},
      {one(good, 5), kLoss, "1 bytes too many after tensor 'a'"},
      {FileOf("{}", 1), kLoss, "1 bytes too many after the header"},
      // Metadata.
      {FileOf(R"({"__metadata__":[]})", 0), kInvalid, "'__metadata__' is not an object"},
      {FileOf(R"({"__metadata__":{"x":1}})", 0), kInvalid, "'__metadata__' key 'x' is not a string"},
  };
  for (const Broken& broken : cases) {
    EXPECT_THAT(ParseSafetensors(broken.file), StatusIs(broken.code, HasSubstr(broken.message))) << broken.message;
  }
}

TEST(Safetensors, AnUnprintableNameIsEscapedAndCutInMessages) {
  const std::string name = std::string("a\\n") + std::string(5000, 'x');
  const absl::Status status = ParseSafetensors(FileOf(HeaderOf({Entry(name, "F64", "[1]", "[0,8]")}), 8)).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor 'a\\nxxx")));
  EXPECT_LT(status.message().size(), 400);
}

}  // namespace
}  // namespace mnemosyne
