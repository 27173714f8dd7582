#include "core/model/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/sentence_pieces.h"

namespace mnemosyne {
namespace {

constexpr size_t kMaxPieceBytes = 4096;

// A byte is a token.
class BytesTokenizer : public Tokenizer {
 public:
  explicit BytesTokenizer(int64_t vocab_size) : vocab_size_(vocab_size) {}

  std::optional<size_t> NextPiece(absl::string_view text) const override {
    return text.empty() ? std::nullopt : std::optional<size_t>(text.size());
  }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view piece) const override {
    std::vector<int32_t> tokens;
    tokens.reserve(piece.size());
    for (const char byte : piece) tokens.push_back(static_cast<unsigned char>(byte));
    return tokens;
  }
  std::string Decode(absl::Span<const int32_t> tokens) const override {
    std::string text;
    for (const int32_t token : tokens) {
      if (token >= 0 && token < 256) text.push_back(static_cast<char>(token));
    }
    return text;
  }
  std::optional<int32_t> end_of_answer() const override { return Special(kByteEndOfAnswer); }
  std::optional<int32_t> question() const override { return Special(kByteQuestion); }

 private:
  std::optional<int32_t> Special(int32_t id) const {
    return id < vocab_size_ ? std::optional<int32_t>(id) : std::nullopt;
  }
  const int64_t vocab_size_;
};

// The model has no text: token ids only.
class NoTokenizer : public Tokenizer {
 public:
  std::optional<size_t> NextPiece(absl::string_view text) const override {
    return text.empty() ? std::nullopt : std::optional<size_t>(text.size());
  }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view) const override {
    return absl::FailedPreconditionError("the model has no tokenizer: give token ids, not text");
  }
  std::string Decode(absl::Span<const int32_t>) const override { return ""; }
  std::optional<int32_t> end_of_answer() const override { return std::nullopt; }
  std::optional<int32_t> question() const override { return std::nullopt; }
};

// Whatever the model's own settings, no space is added or removed (sentence_pieces.cc): a text's tokens are those of
// its pieces, and decoding is a concatenation. What its normalizer folds (NFKC, say) does not come back.
class SentencePieceTokenizer : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(std::unique_ptr<SentencePieces> pieces) : pieces_(std::move(pieces)) {}

  std::optional<size_t> NextPiece(absl::string_view text) const override {
    for (size_t i = 1; i < text.size() && i <= kMaxPieceBytes; ++i) {
      if (text[i] == ' ' && text[i - 1] != ' ') return i;
    }
    if (text.size() <= kMaxPieceBytes) return std::nullopt;
    // Not inside a UTF-8 character: its bytes apart would be unknown to the model.
    for (size_t cut = kMaxPieceBytes; cut > kMaxPieceBytes - 4; --cut) {
      if ((static_cast<unsigned char>(text[cut]) & 0xc0) != 0x80) return cut;
    }
    return kMaxPieceBytes;
  }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view piece) const override {
    std::vector<int32_t> tokens;
    std::string error;
    if (!pieces_->Encode(std::string(piece), &tokens, &error)) {
      return absl::InternalError(absl::StrCat("sentencepiece cannot encode ", piece.size(), " bytes: ", error));
    }
    return tokens;
  }
  std::string Decode(absl::Span<const int32_t> tokens) const override {
    std::string text;
    for (const int32_t token : tokens) {
      if (token >= 0 && token < pieces_->size()) text += pieces_->Surface(token);
    }
    return text;
  }
  std::optional<int32_t> end_of_answer() const override { return pieces_->end_of_sentence(); }
  std::optional<int32_t> question() const override { return std::nullopt; }

 private:
  const std::unique_ptr<SentencePieces> pieces_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> CreateSentencePiece(const ModelConfig& config, const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", config.tokenizer.file);
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  std::string error;
  std::unique_ptr<SentencePieces> pieces = SentencePieces::Load(bytes, &error);
  if (pieces == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is not a sentencepiece model: ", error));
  }
  if (pieces->size() != config.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' has ", pieces->size(), " pieces; config key 'vocab_size' is ", config.vocab_size));
  }
  return std::make_unique<SentencePieceTokenizer>(std::move(pieces));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const ModelConfig& config, const std::string& folder) {
  switch (config.tokenizer.kind) {
    case TokenizerKind::kBytes:
      return std::make_unique<BytesTokenizer>(config.vocab_size);
    case TokenizerKind::kSentencePiece:
      return CreateSentencePiece(config, folder);
    case TokenizerKind::kNone:
      return std::make_unique<NoTokenizer>();
  }
  return absl::InvalidArgumentError("config key 'tokenizer.kind' has no value we know");
}

}  // namespace mnemosyne
