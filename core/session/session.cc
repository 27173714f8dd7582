#include "core/session/session.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

Session::Session(SessionMetadata metadata, const Model* model, Recovered recovered)
    : metadata_(std::move(metadata)),
      model_(model),
      state_(std::move(recovered.state)),
      feed_(&model->tokenizer(), recovered.position),
      replay_skip_tokens_(recovered.position.skip_tokens),
      replay_index_(recovered.position.record_index),
      replay_skip_bytes_(recovered.position.skip_bytes),
      next_index_(recovered.position.record_index),
      durable_index_(recovered.position.record_index),
      snapshot_offset_(recovered.snapshot_offset) {
  marks_.accepted = marks_.durable = marks_.memorized = StateOffset(*state_);
  marks_.accepted_bytes = recovered.accepted_bytes;
  marks_.next_sequence = recovered.next_sequence;
  marks_.durable_sequence = recovered.next_sequence - 1;
  marks_.update_time = metadata_.update_time;
}

Session::Marks Session::marks() const {
  absl::MutexLock lock(&mutex_);
  return marks_;
}

absl::StatusOr<std::vector<int32_t>> Session::Feed(uint64_t index, LogContent kind, absl::string_view payload,
                                                   int64_t skipped_bytes) {
  if (kind == LogContent::kText) return feed_.AddText(index, payload.substr(skipped_bytes), skipped_bytes);
  std::vector<int32_t> ids(payload.size() / sizeof(int32_t));
  if (!payload.empty()) std::memcpy(ids.data(), payload.data(), payload.size());
  return feed_.AddTokens(index, ids);
}

absl::Status Session::Replay(const LogRecord& record) {
  absl::MutexLock lock(&mutex_);
  const int64_t skipped = record.index == replay_index_ ? replay_skip_bytes_ : 0;
  if (skipped > static_cast<int64_t>(record.payload.size())) {
    return absl::DataLossError(absl::StrCat("session '", metadata_.id, "': log record ", record.index, " has ",
                                            record.payload.size(), " bytes; its snapshot has read ", skipped));
  }
  record_bytes_.emplace_back(record.index, marks_.accepted_bytes);
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, Feed(record.index, record.kind, record.payload, skipped));
  const int64_t known = std::min<int64_t>(replay_skip_tokens_, tokens.size());
  replay_skip_tokens_ -= known;
  pending_.insert(pending_.end(), tokens.begin() + known, tokens.end());
  marks_.accepted_bytes += record.payload.size();
  marks_.accepted += tokens.size() - known;
  marks_.durable = marks_.accepted;
  // After a reset to an earlier offset the sequences of what was forgotten are not given again.
  marks_.next_sequence = std::max(metadata_.first_sequence, record.sequence + 1);
  marks_.durable_sequence = marks_.next_sequence - 1;
  marks_.update_time = record.time;
  next_index_ = durable_index_ = record.index + 1;
  return absl::OkStatus();
}

absl::Status Session::CheckReplayed() const {
  absl::MutexLock lock(&mutex_);
  if (replay_skip_tokens_ == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("session '", metadata_.id, "': the log lacks ", replay_skip_tokens_,
                                          " of the tokens in its snapshot at token ", marks_.memorized));
}

absl::Status Session::Accept(std::optional<uint64_t> sequence, LogContent kind, std::string payload,
                             int64_t max_backlog_tokens, absl::Time now, absl::FunctionRef<void(Accepted)> log) {
  absl::MutexLock lock(&mutex_);
  if (!marks_.failure.empty()) return absl::FailedPreconditionError(marks_.failure);
  if (sequence && *sequence != marks_.next_sequence) {
    return absl::OutOfRangeError(
        absl::StrCat("session '", metadata_.id, "' expects sequence ", marks_.next_sequence, "; got ", *sequence));
  }
  if (marks_.accepted - marks_.memorized >= max_backlog_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat("session '", metadata_.id, "' has ",
                                                     marks_.accepted - marks_.memorized,
                                                     " pending tokens; the maximum is ", max_backlog_tokens));
  }
  Accepted accepted;
  accepted.record.first_offset = marks_.accepted;
  const absl::StatusOr<std::vector<int32_t>> fed = Feed(next_index_, kind, payload, 0);
  if (!fed.ok()) {  // part of it may be tokenized: nothing more can be taken
    marks_.failure = absl::StrCat("session '", metadata_.id, "' cannot tokenize: ", fed.status().message());
    return absl::FailedPreconditionError(marks_.failure);
  }
  const std::vector<int32_t>& tokens = *fed;
  record_bytes_.emplace_back(next_index_, marks_.accepted_bytes);
  pending_.insert(pending_.end(), tokens.begin(), tokens.end());
  marks_.accepted += tokens.size();
  marks_.accepted_bytes += payload.size();
  if (sequence) marks_.next_sequence = *sequence + 1;
  marks_.update_time = now;
  accepted.record.session_number = metadata_.number;
  accepted.record.epoch = metadata_.epoch;
  accepted.record.index = next_index_++;
  accepted.record.sequence = marks_.next_sequence - 1;
  accepted.record.time = now;
  accepted.record.kind = kind;
  accepted.record.payload = std::move(payload);
  accepted.end_offset = marks_.accepted;
  log(std::move(accepted));
  return absl::OkStatus();
}

bool Session::Durable(uint64_t index, uint64_t sequence, int64_t end_offset) {
  absl::MutexLock lock(&mutex_);
  durable_index_ = index + 1;
  marks_.durable = end_offset;
  marks_.durable_sequence = sequence;
  return HasBlock();
}

bool Session::HasBlock() const { return marks_.failure.empty() && marks_.durable - marks_.memorized >= block(); }

bool Session::HasWholeBlock() const {
  absl::MutexLock lock(&mutex_);
  return HasBlock();
}

std::optional<Session::Block> Session::NextBlock() const {
  absl::MutexLock lock(&mutex_);
  if (!HasBlock()) return std::nullopt;
  return Block{state_, std::vector<int32_t>(pending_.begin(), pending_.begin() + block())};
}

Session::Published Session::Publish(const BlockResult& result) {
  absl::MutexLock lock(&mutex_);
  Published published;
  if (!result.status.ok()) {
    marks_.failure =
        absl::StrCat("session '", metadata_.id, "' stopped at token ", marks_.memorized, ": ", result.status.message());
    for (const WaitingFork& fork : waiting_forks_) published.failed.push_back(fork.query);
    waiting_forks_.clear();
    return published;
  }
  state_ = result.state;
  pending_.erase(pending_.begin(), pending_.begin() + block());
  marks_.memorized += block();
  surprise_sum_ += result.mean_surprise;
  surprise_blocks_ += 1;
  feed_.ForgetBefore(marks_.memorized);
  const uint64_t first_needed = feed_.PositionAt(marks_.memorized).record_index;
  while (!record_bytes_.empty() && record_bytes_.front().first < first_needed) record_bytes_.pop_front();
  for (size_t i = 0; i < waiting_forks_.size();) {
    WaitingFork& fork = waiting_forks_[i];
    if (fork.boundary != marks_.memorized) {
      ++i;
      continue;
    }
    published.forks.emplace_back(fork.query, ForkPoint{state_, std::move(fork.pending), fork.offset});
    waiting_forks_.erase(waiting_forks_.begin() + i);
  }
  published.ready = HasBlock();
  return published;
}

absl::StatusOr<std::optional<Session::ForkPoint>> Session::RequestFork(QueryId query) {
  absl::MutexLock lock(&mutex_);
  if (!marks_.failure.empty()) return absl::FailedPreconditionError(marks_.failure);
  const int64_t boundary = marks_.accepted / block() * block();
  std::vector<int32_t> pending(pending_.begin() + (boundary - marks_.memorized), pending_.end());
  ASSIGN_OR_RETURN(const std::vector<int32_t> waiting, feed_.WaitingTokens());
  pending.insert(pending.end(), waiting.begin(), waiting.end());
  const int64_t offset = marks_.accepted + static_cast<int64_t>(waiting.size());
  if (boundary == marks_.memorized) return ForkPoint{state_, std::move(pending), offset};
  waiting_forks_.push_back({query, boundary, std::move(pending), offset});
  return std::nullopt;
}

void Session::CancelFork(QueryId query) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(waiting_forks_, [&](const WaitingFork& one) { return one.query == query; });
}

std::vector<Session::QueryId> Session::CancelAllForks() {
  absl::MutexLock lock(&mutex_);
  std::vector<QueryId> queries;
  for (const WaitingFork& fork : waiting_forks_) queries.push_back(fork.query);
  waiting_forks_.clear();
  return queries;
}

std::optional<float> Session::TakeSurprise() {
  absl::MutexLock lock(&mutex_);
  if (surprise_blocks_ == 0) return std::nullopt;
  const float mean = static_cast<float>(surprise_sum_ / static_cast<double>(surprise_blocks_));
  surprise_sum_ = 0;
  surprise_blocks_ = 0;
  return mean;
}

Session::FlushPoint Session::CurrentFlushPoint() const {
  absl::MutexLock lock(&mutex_);
  return {next_index_, marks_.accepted};
}

bool Session::IsFlushed(const FlushPoint& point) const {
  absl::MutexLock lock(&mutex_);
  if (durable_index_ < point.index) return false;
  return !marks_.failure.empty() || marks_.memorized >= point.offset / block() * block();
}

bool Session::IsQuiet() const {
  absl::MutexLock lock(&mutex_);
  return durable_index_ == next_index_ && !HasBlock() && waiting_forks_.empty();
}

bool Session::HasRoom(int64_t max_backlog_tokens) const {
  absl::MutexLock lock(&mutex_);
  return marks_.accepted - marks_.memorized < max_backlog_tokens;
}

std::optional<std::pair<SnapshotHeader, StatePtr>> Session::SnapshotDue(int64_t min_tokens) const {
  absl::MutexLock lock(&mutex_);
  if (marks_.memorized - snapshot_offset_ < std::max<int64_t>(1, min_tokens)) return std::nullopt;
  const TokenFeed::Position position = feed_.PositionAt(marks_.memorized);
  SnapshotHeader header;
  header.session_number = metadata_.number;
  header.epoch = metadata_.epoch;
  header.offset = marks_.memorized;
  header.fingerprint = metadata_.fingerprint;
  header.replay_index = position.record_index;
  header.replay_skip_bytes = position.skip_bytes;
  header.replay_skip_tokens = position.skip_tokens;
  header.next_sequence = marks_.next_sequence;
  header.accepted_bytes = marks_.accepted_bytes;
  for (const auto& [index, bytes] : record_bytes_) {
    if (index == position.record_index) header.accepted_bytes = bytes;
  }
  return std::make_pair(header, state_);
}

void Session::Snapshotted(int64_t offset) {
  absl::MutexLock lock(&mutex_);
  snapshot_offset_ = std::max(snapshot_offset_, offset);
}

}  // namespace mnemosyne
