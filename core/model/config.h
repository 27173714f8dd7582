// What a Titans model is: the keys of its config.json (docs/formats/model.md).
//
//   ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text));
//   config.blocks  // {BlockKind::kSwa, BlockKind::kLmm}
//
// Every key is required and none may be added: INVALID_ARGUMENT names the key ("memory.heads") and its limit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

enum class BlockKind { kSwa, kLmm, kMag, kMal, kMac };
enum class GateKind { kMultiply, kMix };
enum class TokenizerKind { kBytes, kSentencePiece, kNone };

bool HasMemory(BlockKind kind);     // all but swa
bool HasAttention(BlockKind kind);  // all but lmm
absl::string_view BlockKindName(BlockKind kind);

// One long-term memory layer (arXiv 2501.00663, section 3).
struct MemoryConfig {
  int64_t heads = 1;           // H
  int64_t head_dim = 1;        // d, the width of a key, value and query
  int64_t depth = 1;           // L, the weight matrices of the memory's MLP
  int64_t hidden = 1;          // the MLP's inner width; no meaning at depth 1
  int64_t chunk = 1;           // b, tokens whose gradients are taken at the same weights
  int64_t conv = 1;            // K, taps of the causal convolutions
  double theta_max = 0.1;      // largest step size
  bool momentum = true;        // false: eta = 0
  bool decay = true;           // false: alpha = 0
  bool residual = true;        // the memory's MLP adds its input
  double max_grad_norm = 0.0;  // bound of one token's gradient norm a head; 0 is off

  int64_t inner() const { return heads * head_dim; }
  // Input and output width of MLP layer l.
  int64_t in(int64_t l) const { return l == 0 ? head_dim : hidden; }
  int64_t out(int64_t l) const { return l + 1 == depth ? head_dim : hidden; }
};

struct TokenizerConfig {
  TokenizerKind kind = TokenizerKind::kBytes;
  std::string file;  // sentencepiece only: the model's file, beside config.json
};

struct ModelConfig {
  int64_t vocab_size = 256;  // V
  int64_t dim = 8;           // D
  std::vector<BlockKind> blocks;
  int64_t heads = 1;       // A, attention heads; dim is a multiple of 2 A
  int64_t ff_dim = 8;      // F
  int64_t window = 1;      // w, tokens that sliding-window attention sees, its own among them
  int64_t segment = 1;     // c, mac's segment; a multiple of memory.chunk
  int64_t persistent = 0;  // P
  GateKind gate = GateKind::kMultiply;
  double rope_base = 10000.0;
  double norm_eps = 1e-6;
  bool tie_embeddings = true;
  MemoryConfig memory;
  TokenizerConfig tokenizer;

  bool HasMac() const;
  int64_t head_dim() const { return dim / heads; }  // a
  // Tokens a model steps by: the smallest multiple of memory.chunk (and of segment, with a mac block) that is at
  // least 64. Part of what a stored state means: the shape of every product depends on it.
  int64_t block_tokens() const;
};

// Parses and checks config.json.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text);

// The JSON text that ParseModelConfig reads back.
std::string FormatModelConfig(const ModelConfig& config);

}  // namespace mnemosyne
