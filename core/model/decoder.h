// Decodes an answer token by token from a fork of a session's state.
//
//   Decoder decoder(model.NewFork(state), &model.tokenizer(), {.max_tokens = 64});
//   RETURN_IF_ERROR(decoder.Read(pending_and_question));
//   while (!decoder.stop_reason()) { ASSIGN_OR_RETURN(Decoder::Piece piece, decoder.Next()); ... }
//
// Bound to one thread at a time. Nothing it does reaches the session.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/model/model.h"

namespace mnemosyne {

struct DecodingOptions {
  int32_t max_tokens = 256;  // [1, kMaxAnswerTokens]
  float temperature = 0;     // 0: the most likely token; else [0.01, 100]
  int32_t top_k = 0;         // keep the k most likely; 0: all
  float top_p = 1;           // keep the most likely tokens of this total probability, (0, 1]
  uint64_t seed = 0;
  std::vector<std::string> stop;  // at most 16, each 1 to 256 bytes; the text ends before the first of them
};
inline constexpr int32_t kMaxAnswerTokens = 65536;
// INVALID_ARGUMENT names the field and its limit.
absl::Status CheckDecodingOptions(const DecodingOptions& options);

enum class StopReason { kEndOfAnswer, kStopString, kMaxTokens };

class Decoder {
 public:
  // `tokenizer`: not owned.
  Decoder(std::unique_ptr<Fork> fork, const Tokenizer* tokenizer, DecodingOptions options);

  // Reads what comes before the answer. May be called several times.
  absl::Status Read(absl::Span<const int32_t> tokens);

  struct Piece {
    std::string text;  // valid UTF-8; may lag behind the tokens while a character or a stop string may still complete
    std::vector<int32_t> tokens;
    std::vector<float> log_probabilities;  // of each token under the model, before temperature and cuts
  };
  // One more token. FAILED_PRECONDITION when it is not finite. Not after stop_reason() is set.
  absl::StatusOr<Piece> Next();
  // As Next of each, to the bit, whose forks are all of `model`: it is fed their tokens together.
  static std::vector<absl::StatusOr<Piece>> NextTogether(const Model& model, absl::Span<Decoder* const> decoders);

  std::optional<StopReason> stop_reason() const { return stop_reason_; }
  const std::vector<int32_t>& answer() const { return answer_; }  // every token so far, without the end-of-answer

 private:
  absl::StatusOr<Piece> Say();  // of what the fork's logits say
  int32_t Sample(absl::Span<const float> logits);
  std::string Release(bool is_last);

  const std::unique_ptr<Fork> fork_;
  const Tokenizer* const tokenizer_;
  const DecodingOptions options_;
  std::mt19937_64 random_;
  std::optional<int32_t> unread_;  // decoded, not fed yet: the last token of an answer never needs to be
  std::vector<int32_t> answer_;
  std::string held_;  // bytes decoded, not yet released as text
  std::optional<StopReason> stop_reason_;
};

}  // namespace mnemosyne
