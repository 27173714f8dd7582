#include "core/engine/query_run.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {
// A turn's length: long enough to amortise taking it, short enough that others do not wait.
constexpr size_t kReadTokensATurn = 512;
constexpr int kAnswerTokensATurn = 8;
// The folder is closed for moments after a write failed; a query of the past waits, as long as the disk is well.
constexpr int kMaxReadTries = 200;
constexpr absl::Duration kReadPause = absl::Milliseconds(10);
}  // namespace

QueryRun::QueryRun(uint64_t id, QueryOptions options, std::vector<int32_t> prompt, SessionHandle session,
                   std::shared_ptr<QueryObserver> observer)
    : id_(id),
      options_(std::move(options)),
      prompt_(std::move(prompt)),
      observer_(std::move(observer)),
      asked_(absl::Now()),
      session_(session.shared()),
      pin_(std::move(session)) {}

void QueryRun::Stop(const absl::Status& reason) {
  absl::MutexLock lock(&stop_mutex_);
  stopped_.Update(reason);
}

absl::Status QueryRun::stopped() const {
  absl::MutexLock lock(&stop_mutex_);
  return stopped_;
}

absl::Status QueryRun::Begin() {
  const Model& model = session_->model();
  decoder_ = std::make_unique<Decoder>(model.NewFork(fork_point_.state), &model.tokenizer(),
                                       DecodingOptions{options_.max_tokens, options_.temperature, options_.top_k,
                                                       options_.top_p, options_.seed, options_.stop});
  summary_.queue_time = absl::Now() - asked_;
  summary_.prompt_tokens = prompt_.size();
  summary_.pending_tokens = fork_point_.pending.size();
  summary_.as_of_offset = fork_point_.offset;
  to_read_ = std::move(fork_point_.pending);
  to_read_.insert(to_read_.end(), prompt_.begin(), prompt_.end());
  return absl::OkStatus();
}

// One block a turn, as its session once did.
absl::Status QueryRun::ReadPast() {
  const Model& model = session_->model();
  const int64_t block = model.config().block_tokens();
  const int64_t count = std::min(block, fork_point_.offset - StateOffset(*fork_point_.state));
  absl::StatusOr<std::vector<int32_t>> next = past_tokens_->Next(count);
  if (absl::IsUnavailable(next.status()) && ++tries_ <= kMaxReadTries) {
    absl::SleepFor(kReadPause);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::vector<int32_t> tokens, std::move(next));
  if (static_cast<int64_t>(tokens.size()) < count) {
    return absl::DataLossError(
        absl::StrCat("the log of session '", session_->metadata().id, "' ends before offset ", fork_point_.offset));
  }
  if (count < block) {
    fork_point_.pending = std::move(tokens);
    past_tokens_ = nullptr;
    return absl::OkStatus();
  }
  const BlockResult result = model.StepBlocks({{fork_point_.state, tokens}})[0];
  RETURN_IF_ERROR(result.status);
  fork_point_.state = result.state;
  return absl::OkStatus();
}

std::optional<absl::StatusOr<QuerySummary>> QueryRun::Turn() {
  const auto turn = [&]() -> absl::Status {
    RETURN_IF_ERROR(stopped());
    if (absl::Now() > options_.deadline) return absl::DeadlineExceededError("the query's deadline passed");
    if (past_tokens_ != nullptr) return ReadPast();
    if (decoder_ == nullptr) RETURN_IF_ERROR(Begin());
    if (read_ < to_read_.size()) {
      const auto part = absl::MakeConstSpan(to_read_).subspan(read_, kReadTokensATurn);
      read_ += part.size();
      RETURN_IF_ERROR(decoder_->Read(part));
      if (read_ < to_read_.size()) return absl::OkStatus();
    }
    for (int i = 0; i < kAnswerTokensATurn && !decoder_->stop_reason(); ++i) {
      ASSIGN_OR_RETURN(Decoder::Piece piece, decoder_->Next());
      if (summary_.time_to_first_token == absl::ZeroDuration()) summary_.time_to_first_token = absl::Now() - asked_;
      if (piece.tokens.empty() && piece.text.empty()) continue;
      const QueryPiece told = {std::move(piece.text), std::move(piece.tokens), std::move(piece.log_probabilities)};
      gate_.Tell([&] { observer_->OnPiece(told); });
    }
    return absl::OkStatus();
  }();
  if (!turn.ok()) return absl::StatusOr<QuerySummary>(turn);
  if (decoder_ == nullptr || !decoder_->stop_reason()) return std::nullopt;
  switch (*decoder_->stop_reason()) {
    case StopReason::kEndOfAnswer:
      summary_.stop_reason = StopReasonKind::kEndOfAnswer;
      break;
    case StopReason::kStopString:
      summary_.stop_reason = StopReasonKind::kStopString;
      break;
    case StopReason::kMaxTokens:
      summary_.stop_reason = StopReasonKind::kMaxTokens;
      break;
  }
  summary_.answer_tokens = decoder_->answer().size();
  summary_.total_time = absl::Now() - asked_;
  return absl::StatusOr<QuerySummary>(summary_);
}

Content QueryRun::Remembered() const {
  Content content = options_.prompt;
  if (content.kind == ContentKind::kText) {
    content.bytes += session_->model().tokenizer().Decode(decoder_->answer());
  } else {
    content.tokens.insert(content.tokens.end(), decoder_->answer().begin(), decoder_->answer().end());
  }
  return content;
}

void QueryRun::Finish(const absl::StatusOr<QuerySummary>& summary) {
  if (finished_.exchange(true)) return;
  past_tokens_ = nullptr;  // the caller may keep the query when the engine and its storage are gone
  pin_.Release();          // before its caller knows, who may need the session's room at once
  gate_.Tell([&] { observer_->OnDone(summary); });
}

}  // namespace mnemosyne
