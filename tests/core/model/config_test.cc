#include "core/model/config.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/utf8.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

constexpr char kConfig[] = R"({
  "format": "mnemosyne-titans-1", "vocab_size": 258, "dim": 32, "blocks": ["swa", "lmm", "mag", "mal", "mac"],
  "heads": 4, "ff_dim": 24, "window": 7, "segment": 48, "persistent": 1, "gate": "mix", "rope_base": 10000.0,
  "norm_eps": 1e-06, "tie_embeddings": true,
  "memory": {"heads": 2, "head_dim": 8, "depth": 3, "hidden": 20, "chunk": 16, "conv": 4, "theta_max": 0.05,
             "momentum": false, "decay": true, "residual": false, "max_grad_norm": 2},
  "tokenizer": {"kind": "bytes"}
})";

// kConfig with one text replaced; the text is there once.
std::string With(absl::string_view from, absl::string_view to) {
  std::string text = kConfig;
  EXPECT_EQ(absl::StrReplaceAll({{from, to}}, &text), 1) << from;
  return text;
}

TEST(ModelConfig, EveryKeyIsRead) {
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(kConfig);
  ASSERT_OK(config);
  EXPECT_EQ(config->vocab_size, 258);
  EXPECT_EQ(config->dim, 32);
  EXPECT_EQ(config->blocks, (std::vector<BlockKind>{BlockKind::kSwa, BlockKind::kLmm, BlockKind::kMag, BlockKind::kMal,
                                                    BlockKind::kMac}));
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->head_dim(), 8);
  EXPECT_EQ(config->ff_dim, 24);
  EXPECT_EQ(config->window, 7);
  EXPECT_EQ(config->segment, 48);
  EXPECT_EQ(config->persistent, 1);
  EXPECT_EQ(config->gate, GateKind::kMix);
  EXPECT_EQ(config->rope_base, 10000.0);
  EXPECT_EQ(config->norm_eps, 1e-6);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_EQ(config->memory.heads, 2);
  EXPECT_EQ(config->memory.head_dim, 8);
  EXPECT_EQ(config->memory.depth, 3);
  EXPECT_EQ(config->memory.hidden, 20);
  EXPECT_EQ(config->memory.chunk, 16);
  EXPECT_EQ(config->memory.conv, 4);
  EXPECT_EQ(config->memory.theta_max, 0.05);
  EXPECT_FALSE(config->memory.momentum);
  EXPECT_TRUE(config->memory.decay);
  EXPECT_FALSE(config->memory.residual);
  EXPECT_EQ(config->memory.max_grad_norm, 2.0);
  EXPECT_EQ(config->tokenizer.kind, TokenizerKind::kBytes);
  EXPECT_TRUE(config->tokenizer.file.empty());
}

TEST(ModelConfig, FormattedTextIsReadBackTheSame) {
  for (const std::string& text :
       {std::string(kConfig), With("\"bytes\"", "\"sentencepiece\", \"file\": \"words é.model\""),
        With("\"bytes\"", "\"none\""), With("\"theta_max\": 0.05", "\"theta_max\": 0.1000000000000000055")}) {
    const absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
    ASSERT_OK(config);
    const std::string formatted = FormatModelConfig(*config);
    EXPECT_EQ(nlohmann::json::parse(formatted), nlohmann::json::parse(text));
    const absl::StatusOr<ModelConfig> again = ParseModelConfig(formatted);
    ASSERT_OK(again);
    EXPECT_EQ(FormatModelConfig(*again), formatted);
  }
}

TEST(ModelConfig, ABlockIsTheSmallestMultipleOfItsUnitThatIsAtLeast64) {
  struct Case {
    std::vector<BlockKind> blocks;
    int64_t chunk, segment, block_tokens;
  };
  for (const Case& c : std::vector<Case>{{{BlockKind::kLmm}, 1, 1, 64},
                                         {{BlockKind::kLmm}, 16, 48, 64},
                                         {{BlockKind::kLmm}, 48, 48, 96},
                                         {{BlockKind::kLmm}, 64, 64, 64},
                                         {{BlockKind::kLmm}, 100, 1, 100},
                                         {{BlockKind::kSwa, BlockKind::kMac}, 16, 48, 96},
                                         {{BlockKind::kMac}, 1, 3, 66},
                                         {{BlockKind::kMac}, 128, 512, 512}}) {
    ModelConfig config;
    config.blocks = c.blocks;
    config.memory.chunk = c.chunk;
    config.segment = c.segment;
    EXPECT_EQ(config.block_tokens(), c.block_tokens) << c.chunk << " " << c.segment;
  }
}

TEST(ModelConfig, KindsSayWhatABlockHas) {
  EXPECT_FALSE(HasMemory(BlockKind::kSwa));
  EXPECT_TRUE(HasAttention(BlockKind::kSwa));
  EXPECT_TRUE(HasMemory(BlockKind::kLmm));
  EXPECT_FALSE(HasAttention(BlockKind::kLmm));
  for (BlockKind kind : {BlockKind::kMag, BlockKind::kMal, BlockKind::kMac}) {
    EXPECT_TRUE(HasMemory(kind) && HasAttention(kind)) << BlockKindName(kind);
  }
  EXPECT_EQ(BlockKindName(BlockKind::kMac), "mac");
}

TEST(ModelConfig, EveryKeyIsRequiredAndNamedWhenMissing) {
  const nlohmann::json whole = nlohmann::json::parse(kConfig);
  int keys = 0;
  const auto expect_named = [&keys](const nlohmann::json& without, const std::string& key) {
    ++keys;
    EXPECT_THAT(
        ParseModelConfig(without.dump()),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(absl::StrCat("config key '", key, "' is missing"))));
  };
  for (const auto& item : whole.items()) {
    nlohmann::json without = whole;
    without.erase(item.key());
    expect_named(without, item.key());
    if (!item.value().is_object()) continue;
    for (const auto& inner : item.value().items()) {
      without = whole;
      without[item.key()].erase(inner.key());
      expect_named(without, absl::StrCat(item.key(), ".", inner.key()));
    }
  }
  EXPECT_EQ(keys, 15 + 11 + 1);
}

TEST(ModelConfig, AWrongTypeIsNamedForEveryKey) {
  const nlohmann::json whole = nlohmann::json::parse(kConfig);
  const auto expect_named = [](const nlohmann::json& broken, const std::string& key) {
    EXPECT_THAT(ParseModelConfig(broken.dump()), StatusIs(absl::StatusCode::kInvalidArgument,
                                                          HasSubstr(absl::StrCat("config key '", key, "' is not "))));
  };
  for (const auto& item : whole.items()) {
    nlohmann::json broken = whole;
    broken[item.key()] = nullptr;
    expect_named(broken, item.key());
    if (!item.value().is_object()) continue;
    for (const auto& inner : item.value().items()) {
      broken = whole;
      broken[item.key()][inner.key()] = nlohmann::json::array({1});
      expect_named(broken, absl::StrCat(item.key(), ".", inner.key()));
    }
  }
}

struct Broken {
  std::string text;
  std::string message;
};

TEST(ModelConfig, ABrokenFileIsRefusedByName) {
  const std::vector<Broken> cases = {
      {"", "config is not JSON"},
      {"[]", "config is not a JSON object"},
      {"null", "config is not a JSON object"},
      {std::string(kConfig).substr(0, 200), "config is not JSON"},
      {absl::StrCat(kConfig, "x"), "config is not JSON"},
      {With("\"bytes\"", "\"by\xfftes\""), "config is not JSON"},
      {With("\"theta_max\": 0.05", "\"theta_max\": 1e999"), "config is not JSON"},
      {With("\"theta_max\": 0.05", "\"theta_max\": NaN"), "config is not JSON"},
      {With("mnemosyne-titans-1", "mnemosyne-titans-2"), "config key 'format' is 'mnemosyne-titans-2'"},
      {With("\"dim\": 32", "\"dim\": 32, \"dim\": 32"), "config key 'dim' is there twice"},
      {With("\"depth\": 3", "\"depth\": 3, \"depth\": 2"), "config key 'memory.depth' is there twice"},
      {With("\"dim\": 32", "\"dim\": 32, \"dims\": 1"), "config key 'dims' is unknown"},
      {With("\"window\"", "\"windows\""), "config key 'windows' is unknown"},
      {With("\"depth\": 3", "\"depth\": 3, \"width\": 2"), "config key 'memory.width' is unknown"},
      {With("\"bytes\"", "\"bytes\", \"file\": \"a\""), "config key 'tokenizer.file' is unknown"},
      {With("\"dim\": 32", "\"dim\": 0"), "config key 'dim' is 0; the minimum is 2"},
      {With("\"dim\": 32", "\"dim\": -8"), "config key 'dim' is -8; the minimum is 2"},
      {With("\"dim\": 32", "\"dim\": 16392"), "config key 'dim' is 16392; the maximum is 16384"},
      {With("\"dim\": 32", "\"dim\": 32.0"), "config key 'dim' is not an integer"},
      {With("\"dim\": 32", "\"dim\": 36"), "config key 'dim' is 36; it must be a multiple of 2 x heads = 8"},
      {With("\"dim\": 32", "\"dim\": 18446744073709551615"), "config key 'dim' is 18446744073709551615; the maximum"},
      {With("258", "255"), "config key 'vocab_size' is 255; the minimum is 256 with the bytes tokenizer"},
      {With("258", "1025"), "config key 'vocab_size' is 1025; the maximum is 1024 with the bytes tokenizer"},
      {With("258", "1048577"), "config key 'vocab_size' is 1048577; the maximum is 1048576"},
      {With("\"heads\": 2", "\"heads\": 0"), "config key 'memory.heads' is 0; the minimum is 1"},
      {With("\"heads\": 2, \"head_dim\": 8", "\"heads\": 32, \"head_dim\": 1024"),
       "config key 'memory.head_dim' times"},
      {With("\"depth\": 3", "\"depth\": 9"), "config key 'memory.depth' is 9; the maximum is 8"},
      {With("\"hidden\": 20", "\"hidden\": 0"), "config key 'memory.hidden' is 0; the minimum is 1"},
      {With("\"chunk\": 16", "\"chunk\": 1025"), "config key 'memory.chunk' is 1025; the maximum is 1024"},
      {With("\"chunk\": 16", "\"chunk\": 9"), "config key 'segment' is 48; with a mac block it must be a multiple"},
      {With("\"segment\": 48", "\"segment\": 8208"), "config key 'segment' is 8208; the maximum is 8192"},
      {With("\"conv\": 4", "\"conv\": 0"), "config key 'memory.conv' is 0; the minimum is 1"},
      {With("\"theta_max\": 0.05", "\"theta_max\": -0.1"), "config key 'memory.theta_max' is -0.1; the minimum is 0"},
      {With("\"theta_max\": 0.05", "\"theta_max\": 11"), "config key 'memory.theta_max' is 11; the maximum is 10"},
      {With("\"theta_max\": 0.05", "\"theta_max\": \"x\""), "config key 'memory.theta_max' is not a number"},
      {With("\"max_grad_norm\": 2", "\"max_grad_norm\": -1"), "config key 'memory.max_grad_norm' is -1; the minimum"},
      {With("\"momentum\": false", "\"momentum\": 0"), "config key 'memory.momentum' is not true or false"},
      {With("\"window\": 7", "\"window\": 0"), "config key 'window' is 0; the minimum is 1"},
      {With("\"window\": 7", "\"window\": 65537"), "config key 'window' is 65537; the maximum is 65536"},
      {With("\"persistent\": 1", "\"persistent\": -1"), "config key 'persistent' is -1; the minimum is 0"},
      {With("\"norm_eps\": 1e-06", "\"norm_eps\": 0"), "config key 'norm_eps' is 0; the minimum is 1e-12"},
      {With("\"rope_base\": 10000.0", "\"rope_base\": 0.5"), "config key 'rope_base' is 0.5; the minimum is 1"},
      {With("\"swa\", ", "\"swi\", "), "config key 'blocks[0]' is 'swi'; it must be one of swa, lmm, mag, mal, mac"},
      {With("\"swa\", ", "1, "), "config key 'blocks[0]' is not a string"},
      {With("[\"swa\", \"lmm\", \"mag\", \"mal\", \"mac\"]", "[]"),
       "config key 'blocks' has 0 entries; the minimum is 1"},
      {With("\"mix\"", "\"max\""), "config key 'gate' is 'max'; it must be one of multiply, mix"},
      {With("\"bytes\"", "\"words\""), "config key 'tokenizer.kind' is 'words'"},
      {With("\"bytes\"", "\"sentencepiece\""), "config key 'tokenizer.file' is missing"},
      {With("\"bytes\"", "\"sentencepiece\", \"file\": \"\""), "config key 'tokenizer.file' is ''"},
      {With("\"bytes\"", "\"sentencepiece\", \"file\": \"..\""), "config key 'tokenizer.file' is '..'"},
      {With("\"bytes\"", "\"sentencepiece\", \"file\": \"../a\""), "config key 'tokenizer.file' is '../a'"},
      {With("\"bytes\"", "\"sentencepiece\", \"file\": \"a\\u0000b\""), "config key 'tokenizer.file' is 'a"},
  };
  for (const Broken& broken : cases) {
    EXPECT_THAT(ParseModelConfig(broken.text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(broken.message)));
  }
}

TEST(ModelConfig, AMessageIsUtf8WhateverTheFile) {
  const std::string long_kind = std::string(199, 'x') + "\xc3\xa9";  // cut in its last character
  for (const std::string& text : {std::string("\xff"), With("\"mix\"", absl::StrCat("\"", long_kind, "\""))}) {
    const std::string message(ParseModelConfig(text).status().message());
    EXPECT_EQ(ToValidUtf8(message), message);
  }
}

TEST(ModelConfig, NoTruncationIsAConfig) {
  const std::string text = kConfig;
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_THAT(ParseModelConfig(text.substr(0, size)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config is not JSON")))
        << size;
  }
}

TEST(ModelConfig, AnEndlessNestingIsRefused) { EXPECT_FALSE(ParseModelConfig(std::string(1'000'000, '[')).ok()); }

}  // namespace
}  // namespace mnemosyne
