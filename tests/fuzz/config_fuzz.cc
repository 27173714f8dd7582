// A model's config.json.
#include <cstdint>
#include <limits>

#include "core/base/utf8.h"
#include "core/model/config.h"
#include "core/model/parameters.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {
namespace {

// What docs/formats/model.md promises of a config that is read, as far as no single key says it.
void RequireSound(const ModelConfig& config) {
  Require(!config.blocks.empty() && config.blocks.size() <= 256, "1 to 256 blocks");
  Require(config.dim % (2 * config.heads) == 0, "dim is a multiple of 2 x heads");
  Require(config.memory.inner() <= 16384, "memory.head_dim times memory.heads is at most 16384");
  Require(config.block_tokens() >= 64 && config.block_tokens() <= 8192, "a block is 64 to 8192 tokens");
  Require(config.block_tokens() % config.memory.chunk == 0, "a block is whole chunks");
  Require(!config.HasMac() || config.block_tokens() % config.segment == 0, "a block is whole segments");
  const TokenizerConfig& tokenizer = config.tokenizer;
  if (tokenizer.kind == TokenizerKind::kBytes) {
    Require(config.vocab_size >= 256 && config.vocab_size <= 1024, "bytes need 256 to 1024 tokens");
  }
  Require((tokenizer.kind == TokenizerKind::kSentencePiece) == !tokenizer.file.empty(), "sentencepiece has a file");
  Require(tokenizer.file.find_first_of(std::string("/\0", 2)) == std::string::npos, "the file is beside config.json");
  for (const ParameterShape& parameter : ParameterShapes(config)) {
    int64_t elements = 1;
    for (const int64_t extent : parameter.shape) {
      Require(extent > 0, "no tensor is empty");
      Require(elements <= std::numeric_limits<int64_t>::max() / 4 / extent, "a tensor's bytes can be counted");
      elements *= extent;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = ParseModelConfig({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    RequireError(config.status(), {absl::StatusCode::kInvalidArgument});
    Require(ToValidUtf8(config.status().message()) == config.status().message(), "a message is UTF-8");
    return 0;
  }
  RequireSound(*config);
  const std::string text = FormatModelConfig(*config);
  const auto again = ParseModelConfig(text);
  Require(again.ok(), "a config that was read can be written and read again");
  Require(FormatModelConfig(*again) == text, "and means the same");
  return 0;
}

}  // namespace mnemosyne
