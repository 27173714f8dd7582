#include "core/model/parameters.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/bytes.h"
#include "core/base/file.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 256;
  config.dim = 8;
  config.blocks = {BlockKind::kMac, BlockKind::kMal};
  config.heads = 2;
  config.ff_dim = 6;
  config.persistent = 3;
  config.gate = GateKind::kMix;
  config.tie_embeddings = false;
  config.memory.heads = 3;
  config.memory.head_dim = 4;
  config.memory.depth = 3;
  config.memory.hidden = 5;
  config.memory.conv = 2;
  return config;
}

std::vector<NamedTensor> Filled(const ModelConfig& config) {
  std::vector<NamedTensor> tensors;
  float next = 0;
  for (const ParameterShape& parameter : ParameterShapes(config)) {
    size_t count = 1;
    for (int64_t extent : parameter.shape) count *= extent;
    std::vector<float> values(count);
    for (float& value : values) value = (next += 0.25f);
    tensors.push_back({parameter.name, parameter.shape, values});
  }
  return tensors;
}

NamedTensor& Find(std::vector<NamedTensor>& tensors, const std::string& name) {
  for (NamedTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << name;
  return tensors.front();
}

std::vector<int64_t> ShapeOf(const ModelConfig& config, const std::string& name) {
  for (const ParameterShape& parameter : ParameterShapes(config)) {
    if (parameter.name == name) return parameter.shape;
  }
  return {-1};
}

TEST(ParameterShapes, FollowTheConfig) {
  ModelConfig config = SmallConfig();
  EXPECT_EQ(ShapeOf(config, "embed.weight"), (std::vector<int64_t>{256, 8}));
  EXPECT_EQ(ShapeOf(config, "head.weight"), (std::vector<int64_t>{256, 8}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.attn.persistent_k"), (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.k_conv.weight"), (std::vector<int64_t>{12, 2}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.gates.weight"), (std::vector<int64_t>{9, 8}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.init.0"), (std::vector<int64_t>{3, 5, 4}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.init.1"), (std::vector<int64_t>{3, 5, 5}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.init.2"), (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.q_context.weight"), (std::vector<int64_t>{12, 8}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.gate.mix.weight"), (std::vector<int64_t>{8, 16}));
  EXPECT_EQ(ShapeOf(config, "blocks.1.norm3.weight"), (std::vector<int64_t>{8}));
  EXPECT_EQ(ShapeOf(config, "blocks.1.ff.up.weight"), (std::vector<int64_t>{12, 8}));
  EXPECT_EQ(ShapeOf(config, "blocks.1.memory.q_context.weight"), (std::vector<int64_t>{-1}));

  config.tie_embeddings = true;
  config.persistent = 0;
  config.gate = GateKind::kMultiply;
  config.memory.depth = 1;
  EXPECT_EQ(ShapeOf(config, "head.weight"), (std::vector<int64_t>{-1}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.attn.persistent_k"), (std::vector<int64_t>{-1}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.gate.mix.weight"), (std::vector<int64_t>{-1}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.init.0"), (std::vector<int64_t>{3, 4, 4}));
  EXPECT_EQ(ShapeOf(config, "blocks.0.memory.init.1"), (std::vector<int64_t>{-1}));
}

TEST(ParameterShapes, ASwaBlockHasNoMemoryAndAnLmmBlockNoAttention) {
  ModelConfig config = SmallConfig();
  config.blocks = {BlockKind::kSwa, BlockKind::kLmm};
  for (const ParameterShape& parameter : ParameterShapes(config)) {
    EXPECT_FALSE(absl::StartsWith(parameter.name, "blocks.0.memory")) << parameter.name;
    EXPECT_FALSE(absl::StartsWith(parameter.name, "blocks.1.attn")) << parameter.name;
  }
}

// The reference implementation wrote these files: its names, shapes and order are the checkpoint's.
TEST(LoadParameters, EveryGoldenCheckpointIsReadInItsOwnOrder) {
  const char* source = std::getenv("MNEMOSYNE_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  int cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(source) + "/tests/golden")) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().string());
    const absl::StatusOr<std::string> text = ReadFile(entry.path() / "config.json");
    ASSERT_OK(text);
    const absl::StatusOr<ModelConfig> config = ParseModelConfig(*text);
    ASSERT_OK(config);
    const absl::StatusOr<std::string> file = ReadFile(entry.path() / "model.safetensors");
    ASSERT_OK(file);
    const absl::StatusOr<std::vector<NamedTensor>> parameters = LoadParameters(*config, *file);
    ASSERT_OK(parameters);
    const absl::StatusOr<std::vector<TensorView>> views = ParseSafetensors(*file);
    ASSERT_OK(views);
    ASSERT_EQ(parameters->size(), views->size());
    for (size_t i = 0; i < views->size(); ++i) {
      EXPECT_EQ((*parameters)[i].name, (*views)[i].name);
      EXPECT_EQ((*parameters)[i].values, (*views)[i].ToFloats());
    }
    ++cases;
  }
  EXPECT_GE(cases, 18);
}

TEST(LoadParameters, TheOrderOfTheFileDoesNotMatter) {
  const ModelConfig config = SmallConfig();
  std::vector<NamedTensor> tensors = Filled(config);
  const std::string straight = FormatSafetensors(tensors);
  std::reverse(tensors.begin(), tensors.end());
  const absl::StatusOr<std::vector<NamedTensor>> parameters = LoadParameters(config, FormatSafetensors(tensors));
  ASSERT_OK(parameters);
  EXPECT_EQ(FormatSafetensors(*parameters), straight);
}

TEST(LoadParameters, EveryTensorIsRequiredAndNamedWhenMissing) {
  const ModelConfig config = SmallConfig();
  const std::vector<NamedTensor> whole = Filled(config);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::vector<NamedTensor> tensors = whole;
    tensors.erase(tensors.begin() + i);
    EXPECT_THAT(LoadParameters(config, FormatSafetensors(tensors)),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(absl::StrCat("tensor '", whole[i].name, "'")), HasSubstr("is missing"))));
  }
}

TEST(LoadParameters, AnExtraTensorIsNamed) {
  const ModelConfig config = SmallConfig();
  std::vector<NamedTensor> tensors = Filled(config);
  tensors.push_back({"blocks.2.norm1.weight", {8}, std::vector<float>(8)});
  EXPECT_THAT(LoadParameters(config, FormatSafetensors(tensors)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor 'blocks.2.norm1.weight' is not one of")));
}

TEST(LoadParameters, AMisshapenTensorIsNamedWithBothShapes) {
  const ModelConfig config = SmallConfig();
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{8, 12}, {96}, {12, 8, 1}}) {
    std::vector<NamedTensor> tensors = Filled(config);
    Find(tensors, "blocks.1.ff.up.weight").shape = shape;
    EXPECT_THAT(
        LoadParameters(config, FormatSafetensors(tensors)),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 AllOf(HasSubstr("tensor 'blocks.1.ff.up.weight' has shape ["), HasSubstr("the config says [12, 8]"))));
  }
}

TEST(LoadParameters, AWeightThatIsNotFiniteIsNamed) {
  const ModelConfig config = SmallConfig();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
    std::vector<NamedTensor> tensors = Filled(config);
    Find(tensors, "blocks.0.memory.init.1").values.back() = bad;
    EXPECT_THAT(LoadParameters(config, FormatSafetensors(tensors)),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("tensor 'blocks.0.memory.init.1' is not finite"), HasSubstr("element 74"))));
  }
}

TEST(LoadParameters, HalvesAreAcceptedAndAnInfiniteHalfIsNamed) {
  ModelConfig config;
  config.dim = 2;
  config.ff_dim = 1;
  config.blocks = {BlockKind::kSwa};
  std::string header = "{";
  std::string data;
  uint64_t offset = 0;
  for (const ParameterShape& parameter : ParameterShapes(config)) {
    uint64_t count = 1;
    for (int64_t extent : parameter.shape) count *= extent;
    absl::StrAppend(&header, offset > 0 ? "," : "", "\"", parameter.name, R"(":{"dtype":"F16","shape":[)",
                    absl::StrJoin(parameter.shape, ","), R"(],"data_offsets":[)", offset, ",", offset + 2 * count,
                    "]}");
    offset += 2 * count;
    for (uint64_t i = 0; i < count; ++i) data += std::string("\x00\x3c", 2);  // 1.0
  }
  header += "}";
  ByteWriter out;
  out.U64(header.size());
  out.Raw(header);
  out.Raw(data);
  std::string file = out.Take();
  const absl::StatusOr<std::vector<NamedTensor>> parameters = LoadParameters(config, file);
  ASSERT_OK(parameters);
  EXPECT_EQ(parameters->back().values, (std::vector<float>{1, 1}));
  file.back() = 0x7c;  // the last element of norm.weight: infinity
  EXPECT_THAT(LoadParameters(config, file),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor 'norm.weight' is not finite")));
}

TEST(LoadParameters, ADamagedFileIsDataLoss) {
  const ModelConfig config = SmallConfig();
  const std::string file = FormatSafetensors(Filled(config));
  EXPECT_THAT(LoadParameters(config, absl::string_view(file).substr(0, file.size() / 2)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("tensor '")));
  EXPECT_THAT(LoadParameters(config, file + "x"), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("1 bytes too many")));
  EXPECT_THAT(LoadParameters(config, ""), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("header length")));
}

}  // namespace
}  // namespace mnemosyne
