// Text as tokens: pieces end where the text says, and what they become is what the whole becomes.
#include <algorithm>
#include <cstdint>

#include "core/base/utf8.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/tokenizers.h"

namespace mnemosyne {
namespace {

constexpr size_t kMaxPieceBytes = 4096;  // docs/formats/model.md: pieces longer than that are cut
constexpr absl::string_view kSpaceSymbol = "\xe2\x96\x81";

void CheckText(const FuzzedTokenizer& one, absl::string_view text) {
  const Tokenizer& tokenizer = *one.tokenizer;
  std::vector<int32_t> tokens;
  absl::string_view rest = text;
  while (const std::optional<size_t> piece = tokenizer.NextPiece(rest)) {
    Require(*piece > 0 && *piece <= rest.size(), "a piece has bytes, of its text");
    const auto more = tokenizer.Encode(rest.substr(0, *piece));
    Require(more.ok(), "every piece has tokens");
    tokens.insert(tokens.end(), more->begin(), more->end());
    rest.remove_prefix(*piece);
  }
  Require(rest.size() <= kMaxPieceBytes, "what waits for more is bounded");
  const auto last = tokenizer.Encode(rest);
  Require(last.ok(), "a piece that is not whole has tokens");
  tokens.insert(tokens.end(), last->begin(), last->end());

  for (const int32_t token : tokens) {
    Require(token >= 0 && token < one.vocab_size, "tokens are in the vocabulary");
    Require(token != tokenizer.end_of_answer(), "no text spells a special token");
  }
  // The symbol is how the model writes a space: it comes back as one.
  if (text.find(kSpaceSymbol) != absl::string_view::npos) return;
  if (text.size() <= kMaxPieceBytes) {
    const auto whole = tokenizer.Encode(text);
    Require(whole.ok() && *whole == tokens, "the pieces of a text have the tokens of the whole");
  }
  if (one.is_lossless) {
    Require(ToValidUtf8(tokenizer.Decode(tokens)) == ToValidUtf8(text), "tokens give the text back");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  for (const FuzzedTokenizer& one : FuzzedTokenizers()) CheckText(one, text);
  return 0;
}

}  // namespace mnemosyne
