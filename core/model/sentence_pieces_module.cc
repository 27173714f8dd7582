// The module that sentence_pieces.cc loads when a model needs it.
#include <sentencepiece_processor.h>

#include <cstdlib>
#include <exception>
#include <utility>

#include "core/model/sentence_pieces.h"

namespace mnemosyne {
namespace {

constexpr char kSpaceSymbol[] = "\xe2\x96\x81";  // U+2581, how a piece writes a space
constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

// ModelProto { normalizer_spec (3) { add_dummy_prefix (3): false, remove_extra_whitespaces (4): false } }. Fields at a
// message's end override those before them, so these bytes behind a model make its normalizer keep every space and add
// none: pieces cut out of a text then have the text's own tokens, and give the text back.
constexpr char kKeepSpaces[] = {0x1a, 0x04, 0x18, 0x00, 0x20, 0x00};

class LoadedPieces : public SentencePieces {
 public:
  std::string Start(const std::string& model) {
    // The bytes must be a model before ours are put behind them: what they lack at their end must not be taken from
    // ours.
    try {
      sentencepiece::util::Status status = processor_.LoadFromSerializedProto(model);
      if (status.ok()) {
        std::string lossless = model;
        lossless.append(kKeepSpaces, sizeof(kKeepSpaces));
        status = processor_.LoadFromSerializedProto(lossless);
      }
      return status.ok() ? "" : status.ToString();
    } catch (const std::exception& error) {  // of a piece that its index cannot hold
      return error.what();
    }
  }

  int32_t size() const override { return processor_.GetPieceSize(); }

  std::optional<int32_t> end_of_sentence() const override {
    const int id = processor_.eos_id();
    return id < 0 ? std::nullopt : std::optional<int32_t>(id);
  }

  bool Encode(const std::string& text, std::vector<int32_t>* tokens, std::string* error) const override {
    const sentencepiece::util::Status status = processor_.Encode(text, tokens);
    if (!status.ok()) *error = status.ToString();
    return status.ok();
  }

  std::string Surface(int32_t token) const override {
    if (processor_.IsControl(token) || processor_.IsUnused(token)) return "";
    if (processor_.IsUnknown(token)) return kReplacement;
    const std::string& piece = processor_.IdToPiece(token);
    if (processor_.IsByte(token)) {  // "<0x0A>"
      return std::string(1, static_cast<char>(std::strtoul(piece.substr(3, 2).c_str(), nullptr, 16)));
    }
    std::string out = piece;
    for (size_t at = 0; (at = out.find(kSpaceSymbol, at)) != std::string::npos; ++at) out.replace(at, 3, 1, ' ');
    return out;
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

// What the loader looks up. Null, with a reason in *error, when `model` is not the bytes of a sentencepiece model.
extern "C" SentencePieces* MnemosyneLoadSentencePieces(const std::string& model, std::string* error) {
  auto pieces = std::make_unique<LoadedPieces>();
  *error = pieces->Start(model);
  return error->empty() ? pieces.release() : nullptr;
}

}  // namespace mnemosyne
