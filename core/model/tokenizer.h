// Text to tokens and back. Thread-safe.
//
// A stream may be cut anywhere, so its tokens may not depend on the cuts: text is tokenized piece by piece, and pieces
// end only at places fixed by the text itself (NextPiece). Bytes after the last such place wait for more.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/model/config.h"

namespace mnemosyne {

// Ids above the 256 bytes that a model with the bytes tokenizer may have (docs/formats/model.md): with vocab_size > 256
// id 256 ends an answer; with vocab_size > 257 id 257 comes before a question.
inline constexpr int32_t kByteEndOfAnswer = 256;
inline constexpr int32_t kByteQuestion = 257;

class Tokenizer {
 public:
  // `folder` holds tokenizer.file. INVALID_ARGUMENT names what does not fit (the file, its piece count against
  // vocab_size).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const ModelConfig& config, const std::string& folder);
  virtual ~Tokenizer() = default;

  // Bytes of the first whole piece of `text`; nullopt when what is there may still grow.
  virtual std::optional<size_t> NextPiece(absl::string_view text) const = 0;
  // Tokens of one piece, or of a text that stands alone. FAILED_PRECONDITION with the tokenizer `none`.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view piece) const = 0;
  // Bytes of the tokens; special tokens have none. May be cut inside a UTF-8 character. Ids are in the vocabulary.
  virtual std::string Decode(absl::Span<const int32_t> tokens) const = 0;

  virtual std::optional<int32_t> end_of_answer() const = 0;
  virtual std::optional<int32_t> question() const = 0;  // put before a question given as text
};

}  // namespace mnemosyne
