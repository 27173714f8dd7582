#include "core/engine/query_run.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {
// A turn's length: long enough to amortise taking it, short enough that others do not wait.
constexpr size_t kReadTokensATurn = 512;
// Tokens that are read at once, whoever shares the turn: where a BLAS computes, bits depend on how many there are.
constexpr size_t kReadTokensAtOnce = 64;
constexpr int kAnswerTokensATurn = 8;
// Tokens that come faster are told together, as those of a turn's end are: a message costs server and client 0.1 ms
// each, beside 0.4 ms that a token of a small model takes.
constexpr absl::Duration kGather = absl::Milliseconds(20);
// The folder is closed for moments after a write failed; a query of the past waits, as long as the disk is well.
constexpr int kMaxReadTries = 3000;  // one after another: half a minute
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
  tries_ = 0;
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

absl::Status QueryRun::Read(size_t max_tokens) {
  RETURN_IF_ERROR(stopped());
  if (absl::Now() > options_.deadline) return absl::DeadlineExceededError("the query's deadline passed");
  if (past_tokens_ != nullptr) return ReadPast();
  if (decoder_ == nullptr) RETURN_IF_ERROR(Begin());
  for (size_t i = 0; i < std::max<size_t>(1, max_tokens / kReadTokensAtOnce) && read_ < to_read_.size(); ++i) {
    const auto part = absl::MakeConstSpan(to_read_).subspan(read_, kReadTokensAtOnce);
    read_ += part.size();
    RETURN_IF_ERROR(decoder_->Read(part));
  }
  return absl::OkStatus();
}

void QueryRun::Gather(Decoder::Piece piece) {
  const absl::Time now = absl::Now();
  if (summary_.time_to_first_token == absl::ZeroDuration()) summary_.time_to_first_token = now - asked_;
  gathered_.text += piece.text;
  gathered_.tokens.insert(gathered_.tokens.end(), piece.tokens.begin(), piece.tokens.end());
  gathered_.log_probabilities.insert(gathered_.log_probabilities.end(), piece.log_probabilities.begin(),
                                     piece.log_probabilities.end());
  if (now - told_at_ >= kGather) TellGathered();
}

void QueryRun::TellGathered() {
  if (gathered_.tokens.empty() && gathered_.text.empty()) return;
  const QueryPiece told = std::exchange(gathered_, {});
  told_at_ = absl::Now();
  gate_.Tell([&] { observer_->OnPiece(told); });
}

QuerySummary QueryRun::Summarize() {
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
  return summary_;
}

std::vector<std::optional<QueryRun::End>> QueryRun::Turns(absl::Span<const std::shared_ptr<QueryRun>> queries) {
  std::vector<std::optional<End>> ends(queries.size());
  std::map<const Model*, std::vector<size_t>> answering;  // a model answers its own queries together
  for (size_t i = 0; i < queries.size(); ++i) {
    // Those beside it wait while it reads.
    if (const absl::Status read = queries[i]->Read(kReadTokensATurn / queries.size()); !read.ok()) ends[i] = End(read);
    if (!ends[i] && queries[i]->is_answering()) answering[&queries[i]->session_->model()].push_back(i);
  }
  for (auto& [model, places] : answering) {
    for (int turn = 0; turn < kAnswerTokensATurn && !places.empty(); ++turn) {
      std::vector<Decoder*> decoders;
      for (const size_t i : places) decoders.push_back(queries[i]->decoder_.get());
      std::vector<absl::StatusOr<Decoder::Piece>> pieces = Decoder::NextTogether(*model, decoders);
      for (size_t n = 0; n < places.size(); ++n) {
        QueryRun& query = *queries[places[n]];
        if (pieces[n].ok()) {
          query.Gather(*std::move(pieces[n]));
          if (query.decoder_->stop_reason()) ends[places[n]] = End(query.Summarize());
        } else {
          ends[places[n]] = End(pieces[n].status());
        }
      }
      std::erase_if(places, [&](size_t i) {
        const bool has_ended = ends[i].has_value();
        if (has_ended) queries[i]->TellGathered();
        return has_ended;
      });
    }
    for (const size_t i : places) queries[i]->TellGathered();
  }
  return ends;
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
