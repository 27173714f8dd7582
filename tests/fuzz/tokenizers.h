// The tokenizers that text is tried on: bytes, and two small sentencepiece models, trained at the start on fixed text.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/model/tokenizer.h"

namespace mnemosyne {

struct FuzzedTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;
  int64_t vocab_size;
  bool is_lossless;  // gives every text back, but for bytes that are not UTF-8
};

const std::vector<FuzzedTokenizer>& FuzzedTokenizers();

}  // namespace mnemosyne
