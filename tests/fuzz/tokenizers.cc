#include "tests/fuzz/tokenizers.h"

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <utility>

#include "tests/core/model/sentencepiece_training.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {
namespace {

FuzzedTokenizer SentencePiece(const std::string& folder, const std::string& flags, int64_t vocab_size,
                              bool is_lossless) {
  const std::vector<std::string> sentences = {"In the beginning God created the heaven and the earth.",
                                              "And the earth    was without form,    and void;",
                                              "and darkness was upon the face of the deep."};
  const std::string model = TrainSentencePieces(
      sentences, flags + " --hard_vocab_limit=false --vocab_size=" + std::to_string(vocab_size), folder + "/pieces");
  Require(!model.empty(), "a tokenizer can be trained");
  ModelConfig config;
  config.tokenizer.kind = TokenizerKind::kSentencePiece;
  config.tokenizer.file = "pieces.model";
  config.vocab_size = vocab_size;
  auto tokenizer = Tokenizer::Create(config, folder);
  Require(tokenizer.ok(), tokenizer.status().message());
  return {*std::move(tokenizer), vocab_size, is_lossless};
}

std::vector<FuzzedTokenizer> MakeTokenizers() {
  std::vector<FuzzedTokenizer> made;
  ModelConfig bytes;
  bytes.vocab_size = 258;
  made.push_back({*Tokenizer::Create(bytes, ""), bytes.vocab_size, true});
  std::string folder = std::filesystem::temp_directory_path() / "mnemosyne_XXXXXX";
  Require(mkdtemp(folder.data()) != nullptr, "there is a temporary folder");
  made.push_back(SentencePiece(folder,
                               "--model_type=bpe --normalization_rule_name=identity --byte_fallback=true "
                               "--remove_extra_whitespaces=false --allow_whitespace_only_pieces=true",
                               310, true));
  made.push_back(SentencePiece(folder, "--model_type=bpe --normalization_rule_name=nmt_nfkc", 60, false));
  std::filesystem::remove_all(folder);
  return made;
}

}  // namespace

const std::vector<FuzzedTokenizer>& FuzzedTokenizers() {
  static const auto* const tokenizers = new std::vector<FuzzedTokenizer>(MakeTokenizers());
  return *tokenizers;
}

}  // namespace mnemosyne
