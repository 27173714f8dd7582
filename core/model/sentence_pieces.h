// A sentencepiece model behind a header of our own: the library's declares another absl::string_view than Debian's
// Abseil has, so no file may include both.
//
// Thread-safe after Load.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mnemosyne {

class SentencePieces {
 public:
  // Null, with a reason in *error, when `model` is not the bytes of a sentencepiece model.
  static std::unique_ptr<SentencePieces> Load(const std::string& model, std::string* error);
  virtual ~SentencePieces() = default;

  virtual int32_t size() const = 0;  // pieces
  virtual std::optional<int32_t> end_of_sentence() const = 0;
  // False, with a reason in *error, when the library refuses.
  virtual bool Encode(const std::string& text, std::vector<int32_t>* tokens, std::string* error) const = 0;
  // Bytes of one token, whatever is before it; `token` is in [0, size).
  virtual std::string Surface(int32_t token) const = 0;
};

}  // namespace mnemosyne
