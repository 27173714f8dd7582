#include "core/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/utf8.h"

namespace mnemosyne {

absl::Status CheckDecodingOptions(const DecodingOptions& options) {
  const auto refuse = [](const auto&... parts) { return absl::InvalidArgumentError(absl::StrCat(parts...)); };
  if (options.max_tokens < 1 || options.max_tokens > kMaxAnswerTokens) {
    return refuse("max_tokens is ", options.max_tokens, "; it must be in [1, ", kMaxAnswerTokens, "]");
  }
  if (!(options.temperature == 0 || (options.temperature >= 0.01f && options.temperature <= 100.0f))) {
    return refuse("temperature is ", options.temperature, "; it must be 0 or in [0.01, 100]");
  }
  if (options.top_k < 0) return refuse("top_k is ", options.top_k, "; it must be 0 (all) or more");
  if (!(options.top_p > 0 && options.top_p <= 1)) return refuse("top_p is ", options.top_p, "; it must be in (0, 1]");
  if (options.stop.size() > 16) return refuse(options.stop.size(), " stop strings; the maximum is 16");
  for (const std::string& stop : options.stop) {
    if (stop.empty() || stop.size() > 256) {
      return refuse("a stop string has ", stop.size(), " bytes; it must have 1 to 256");
    }
  }
  return absl::OkStatus();
}

Decoder::Decoder(std::unique_ptr<Fork> fork, const Tokenizer* tokenizer, DecodingOptions options)
    : fork_(std::move(fork)), tokenizer_(tokenizer), options_(std::move(options)), random_(options_.seed) {}

absl::Status Decoder::Read(absl::Span<const int32_t> tokens) { return fork_->Feed(tokens); }

int32_t Decoder::Sample(absl::Span<const float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options_.temperature == 0) return best - logits.begin();
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options_.top_k > 0 && options_.top_k < static_cast<int32_t>(order.size())) order.resize(options_.top_k);
  std::vector<double> odds;
  double total = 0;
  for (const int32_t id : order) {
    odds.push_back(std::exp((static_cast<double>(logits[id]) - *best) / options_.temperature));
    total += odds.back();
  }
  double kept = 0;
  size_t count = 0;
  while (count < odds.size() && (count == 0 || kept < options_.top_p * total)) kept += odds[count++];
  double draw = std::uniform_real_distribution<double>(0, kept)(random_);
  for (size_t i = 0; i + 1 < count; ++i) {
    if (draw < odds[i]) return order[i];
    draw -= odds[i];
  }
  return order[count - 1];
}

// Takes from held_ what can no longer become part of a stop string or of an unfinished character.
std::string Decoder::Release(bool is_last) {
  size_t stop_at = std::string::npos;
  for (const std::string& stop : options_.stop) stop_at = std::min(stop_at, held_.find(stop));
  if (stop_at != std::string::npos) {
    held_.resize(stop_at);
    stop_reason_ = StopReason::kStopString;
    is_last = true;
  }
  size_t keep = 0;  // bytes at the end that may still begin a stop string
  if (!is_last) {
    for (const std::string& stop : options_.stop) {
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
        if (absl::string_view(held_).substr(held_.size() - n) == absl::string_view(stop).substr(0, n)) keep = n;
      }
    }
  }
  std::string ready = held_.substr(0, held_.size() - keep);
  if (!is_last) ready.resize(ready.size() - UnfinishedUtf8Bytes(ready));
  held_.erase(0, ready.size());
  return ToValidUtf8(ready);
}

absl::StatusOr<Decoder::Piece> Decoder::Next() {
  if (unread_) RETURN_IF_ERROR(fork_->Feed({*unread_}));
  return Say();
}

std::vector<absl::StatusOr<Decoder::Piece>> Decoder::NextTogether(const Model& model,
                                                                  absl::Span<Decoder* const> decoders) {
  std::vector<absl::Status> statuses(decoders.size());
  std::vector<Fork*> forks;
  std::vector<int32_t> tokens;
  std::vector<size_t> places;  // in `decoders`
  for (size_t i = 0; i < decoders.size(); ++i) {
    if (!decoders[i]->unread_) continue;
    forks.push_back(decoders[i]->fork_.get());
    tokens.push_back(*decoders[i]->unread_);
    places.push_back(i);
  }
  const std::vector<absl::Status> fed = model.FeedTogether(forks, tokens);
  for (size_t n = 0; n < places.size(); ++n) statuses[places[n]] = fed[n];
  std::vector<absl::StatusOr<Piece>> pieces;
  for (size_t i = 0; i < decoders.size(); ++i) {
    pieces.push_back(statuses[i].ok() ? decoders[i]->Say() : absl::StatusOr<Piece>(statuses[i]));
  }
  return pieces;
}

absl::StatusOr<Decoder::Piece> Decoder::Say() {
  const absl::Span<const float> logits = fork_->logits();
  if (logits.empty()) return absl::FailedPreconditionError("there is nothing to answer from: no token was read");
  const int32_t token = Sample(logits);
  unread_ = token;
  Piece piece;
  if (token == tokenizer_->end_of_answer()) {
    stop_reason_ = StopReason::kEndOfAnswer;
    piece.text = Release(/*is_last=*/true);
    return piece;
  }
  answer_.push_back(token);
  piece.tokens = {token};
  const double peak = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - peak);
  piece.log_probabilities = {static_cast<float>(logits[token] - peak - std::log(total))};
  held_ += tokenizer_->Decode({token});
  const bool is_full = static_cast<int32_t>(answer_.size()) >= options_.max_tokens;
  piece.text = Release(is_full);
  if (is_full && !stop_reason_) stop_reason_ = StopReason::kMaxTokens;
  return piece;
}

}  // namespace mnemosyne
