// The bytes of a sentencepiece model.
#include <cstdint>

#include "core/model/sentence_pieces.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string error;
  const auto pieces = SentencePieces::Load(std::string(reinterpret_cast<const char*>(data), size), &error);
  if (pieces == nullptr) {
    Require(!error.empty(), "an error has a message");
    return 0;
  }
  Require(pieces->size() > 0, "a model has pieces");
  const auto end = pieces->end_of_sentence();
  Require(!end || (*end >= 0 && *end < pieces->size()), "the end of a sentence is a piece");
  std::vector<int32_t> tokens;
  if (!pieces->Encode("In the  beginning \xf0\x9f\x8c\x8d\xff", &tokens, &error)) return 0;
  for (const int32_t token : tokens) {
    Require(token >= 0 && token < pieces->size(), "tokens are in the vocabulary");
    pieces->Surface(token);
  }
  for (int32_t token = 0; token < pieces->size(); ++token) pieces->Surface(token);
  return 0;
}

}  // namespace mnemosyne
