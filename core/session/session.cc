#include "core/session/session.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/checksum.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {

// The writer's next sequence before `record` was taken; `next`: after what is before it. After a reset to an earlier
// offset that is above all that is in the log. What `remember` adds repeats the number of the append before it.
uint64_t NextBefore(const LogRecord& record, uint64_t next) {
  return record.sequence + 1 == next ? next : std::min(next, record.sequence);
}

}  // namespace

Session::Session(SessionMetadata metadata, const Model* model, const Limits& limits, Recovered recovered)
    : metadata_(std::move(metadata)),
      model_(model),
      state_(std::move(recovered.state)),
      feed_(&model->tokenizer(), recovered.position),
      replay_skip_tokens_(recovered.position.skip_tokens),
      replay_index_(recovered.position.record_index),
      replay_skip_bytes_(recovered.position.skip_bytes),
      next_index_(recovered.position.record_index),
      durable_index_(recovered.position.record_index),
      limits_(limits),
      trimmed_bytes_(metadata_.trimmed_bytes),
      snapshot_offset_(recovered.snapshot_offset) {
  marks_.accepted = marks_.durable = marks_.memorized = StateOffset(*state_);
  marks_.accepted_bytes = recovered.accepted_bytes;
  marks_.next_sequence = recovered.next_sequence;
  marks_.durable_sequence = marks_.memorized_sequence = recovered.next_sequence - 1;
  marks_.update_time = metadata_.update_time;
  marks_.last_append_crc = recovered.last_append_crc;
}

Session::Marks Session::marks() const {
  absl::MutexLock lock(&mutex_);
  return marks_;
}

int64_t Session::MaxReadTokens() const { return std::max(limits_.max_backlog_tokens, 2 * block()); }

absl::Status Session::Replay(const LogRecord& record) {
  absl::MutexLock lock(&mutex_);
  const RecordStart start = {record.index, marks_.accepted_bytes, NextBefore(record, marks_.next_sequence)};
  if (!unread_ && PendingTokens() >= MaxReadTokens()) {
    unread_.emplace(Unread{start, feed_, {pending_.end() - marks_.accepted % block(), pending_.end()}});
  }
  const int64_t skipped = record.index == replay_index_ ? replay_skip_bytes_ : 0;
  TokenFeed& feed = unread_ ? unread_->feed : feed_;
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, feed.AddRecord(record, skipped));
  const int64_t known = std::min<int64_t>(replay_skip_tokens_, tokens.size());
  replay_skip_tokens_ -= known;
  marks_.accepted_bytes += record.payload.size();
  marks_.accepted += tokens.size() - known;
  marks_.durable = marks_.accepted;
  const bool is_another = record.sequence >= marks_.next_sequence;
  // After a reset to an earlier offset the sequences of what was forgotten are not given again.
  marks_.next_sequence = std::max(metadata_.first_sequence, record.sequence + 1);
  if (marks_.next_sequence != record.sequence + 1) {
    marks_.last_append_crc.reset();
  } else if (is_another) {
    marks_.last_append_crc = Crc32(record.payload);
  }
  marks_.durable_sequence = marks_.next_sequence - 1;
  marks_.update_time = std::max(marks_.update_time, record.time);
  next_index_ = durable_index_ = record.index + 1;
  if (unread_) {
    feed.ForgetBefore(feed.offset());
    std::vector<int32_t>& tail = unread_->tail;
    tail.insert(tail.end(), tokens.begin(), tokens.end());
    tail.erase(tail.begin(), tail.end() - marks_.accepted % block());
    return absl::OkStatus();
  }
  record_starts_.push_back(start);
  pending_.insert(pending_.end(), tokens.begin() + known, tokens.end());
  unmemorized_.emplace_back(record.sequence, marks_.accepted);
  AdvanceMemorizedSequence();
  return absl::OkStatus();
}

std::optional<uint64_t> Session::RecordToReadOn() const {
  absl::MutexLock lock(&mutex_);
  // A block has to be left when this one is memorized.
  if (!unread_ || !marks_.failure.empty() || PendingTokens() >= 2 * block()) return std::nullopt;
  return unread_->next.index;
}

absl::StatusOr<bool> Session::ReadOn(const LogRecord& record) {
  absl::MutexLock lock(&mutex_);
  RecordStart& next = unread_->next;
  if (record.index != next.index) {
    return absl::DataLossError(absl::StrCat("session '", metadata_.id, "': the log lacks record ", next.index));
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, feed_.AddRecord(record));
  record_starts_.push_back({record.index, next.bytes, NextBefore(record, next.next_sequence)});
  pending_.insert(pending_.end(), tokens.begin(), tokens.end());
  unmemorized_.emplace_back(record.sequence, feed_.offset());
  next = {record.index + 1, next.bytes + static_cast<int64_t>(record.payload.size()),
          std::max(metadata_.first_sequence, record.sequence + 1)};
  if (next.index < next_index_) return PendingTokens() < MaxReadTokens();
  if (feed_.offset() != marks_.accepted) {
    return absl::DataLossError(absl::StrCat("session '", metadata_.id, "': the log had ", marks_.accepted,
                                            " tokens, and has ", feed_.offset(), " now"));
  }
  unread_.reset();
  return false;
}

absl::Status Session::CheckReplayed() const {
  absl::MutexLock lock(&mutex_);
  if (replay_skip_tokens_ == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("session '", metadata_.id, "': the log lacks ", replay_skip_tokens_,
                                          " of the tokens in its snapshot at token ", marks_.memorized));
}

absl::StatusOr<bool> Session::Accept(std::optional<uint64_t> sequence, LogContent kind, std::string payload,
                                     absl::Time now, absl::FunctionRef<void(Accepted)> log) {
  absl::MutexLock lock(&mutex_);
  if (!marks_.failure.empty()) return absl::FailedPreconditionError(marks_.failure);
  if (sequence && *sequence != marks_.next_sequence) {
    return absl::OutOfRangeError(
        absl::StrCat("session '", metadata_.id, "' expects sequence ", marks_.next_sequence, "; got ", *sequence));
  }
  const int64_t log_bytes = marks_.accepted_bytes - trimmed_bytes_, bytes = payload.size();
  if (log_bytes + bytes > limits_.max_log_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("session '", metadata_.id, "' has ", log_bytes,
                                                     " bytes in its log, and ", bytes,
                                                     " more are sent; the maximum is ", limits_.max_log_bytes));
  }
  if (unread_ || marks_.accepted - marks_.memorized >= limits_.max_backlog_tokens) return false;
  Accepted accepted;
  LogRecord& record = accepted.record;
  record.session_number = metadata_.number;
  record.epoch = metadata_.epoch;
  record.index = next_index_;
  record.sequence = sequence ? *sequence : marks_.next_sequence - 1;
  record.first_offset = marks_.accepted;
  record.time = now;
  record.kind = kind;
  record.payload = std::move(payload);
  const uint32_t crc = sequence ? Crc32(record.payload) : 0;
  const absl::StatusOr<std::vector<int32_t>> tokens = feed_.AddRecord(record);
  if (!tokens.ok()) {  // part of it may be tokenized: nothing more can be taken
    marks_.failure = absl::StrCat("session '", metadata_.id, "' cannot tokenize: ", tokens.status().message());
    return absl::FailedPreconditionError(marks_.failure);
  }
  record_starts_.push_back({next_index_, marks_.accepted_bytes, marks_.next_sequence});
  pending_.insert(pending_.end(), tokens->begin(), tokens->end());
  next_index_ += 1;
  marks_.accepted += tokens->size();
  marks_.accepted_bytes += bytes;
  marks_.next_sequence = record.sequence + 1;
  if (sequence) marks_.last_append_crc = crc;  // what `remember` adds carries the number of the append before it
  marks_.update_time = now;
  accepted.end_offset = marks_.accepted;
  unmemorized_.emplace_back(record.sequence, marks_.accepted);
  log(std::move(accepted));
  return true;
}

void Session::SetLimits(const Limits& limits) {
  absl::MutexLock lock(&mutex_);
  limits_ = limits;
}

void Session::Trimmed(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  trimmed_bytes_ = bytes;
}

bool Session::Durable(uint64_t index, uint64_t sequence, int64_t end_offset) {
  absl::MutexLock lock(&mutex_);
  durable_index_ = index + 1;
  marks_.durable = end_offset;
  marks_.durable_sequence = sequence;
  AdvanceMemorizedSequence();
  return HasBlock();
}

void Session::AdvanceMemorizedSequence() {
  while (!unmemorized_.empty()) {
    const auto [sequence, end_offset] = unmemorized_.front();
    if (sequence > marks_.durable_sequence || end_offset / block() * block() > marks_.memorized) return;
    marks_.memorized_sequence = std::max(marks_.memorized_sequence, sequence);
    unmemorized_.pop_front();
  }
  if (!unread_) marks_.memorized_sequence = marks_.durable_sequence;  // also those of what was forgotten since
}

bool Session::HasBlock() const { return marks_.failure.empty() && marks_.durable - marks_.memorized >= block(); }

bool Session::HasWholeBlock() const {
  absl::MutexLock lock(&mutex_);
  return HasBlock();
}

bool Session::LogFailed() {
  absl::MutexLock lock(&mutex_);
  return !std::exchange(log_failed_, true);
}

std::optional<Session::Block> Session::NextBlock() const {
  absl::MutexLock lock(&mutex_);
  if (!HasBlock() || PendingTokens() < block()) return std::nullopt;
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
  AdvanceMemorizedSequence();
  surprise_sum_ += result.mean_surprise;
  surprise_blocks_ += 1;
  surprise_history_.Add(marks_.memorized, result.mean_surprise);
  feed_.ForgetBefore(marks_.memorized);
  const uint64_t first_needed = feed_.PositionAt(marks_.memorized).record_index;
  while (!record_starts_.empty() && record_starts_.front().index < first_needed) record_starts_.pop_front();
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
  const int64_t known = log_failed_ ? marks_.durable : marks_.accepted, boundary = known / block() * block();
  std::vector<int32_t> pending;
  if (unread_) {  // all of them are in the log, and durable
    pending = unread_->tail;
  } else {
    const auto first = pending_.begin() + (boundary - marks_.memorized);
    pending.assign(first, first + (known - boundary));
  }
  std::vector<int32_t> waiting;
  if (!log_failed_) {
    ASSIGN_OR_RETURN(waiting, (unread_ ? unread_->feed : feed_).WaitingTokens());
  }
  pending.insert(pending.end(), waiting.begin(), waiting.end());
  const int64_t offset = known + static_cast<int64_t>(waiting.size());
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

std::vector<SurprisePoint> Session::SurprisePoints() const {
  absl::MutexLock lock(&mutex_);
  return surprise_history_.points();
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

bool Session::IsDurable(const FlushPoint& point) const {
  absl::MutexLock lock(&mutex_);
  return durable_index_ >= point.index;
}

bool Session::IsQuiet() const {
  absl::MutexLock lock(&mutex_);
  return durable_index_ == next_index_ && !HasBlock() && waiting_forks_.empty();
}

bool Session::HasRoom() const {
  absl::MutexLock lock(&mutex_);
  return !unread_ && marks_.accepted - marks_.memorized < limits_.max_backlog_tokens;
}

std::pair<SnapshotHeader, StatePtr> Session::Checkpoint() const {
  absl::MutexLock lock(&mutex_);
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
  for (const RecordStart& start : record_starts_) {
    if (start.index != position.record_index) continue;
    header.next_sequence = start.next_sequence;
    header.accepted_bytes = start.bytes;
  }
  return {header, state_};
}

bool Session::IsSnapshotDue(int64_t min_tokens) const {
  absl::MutexLock lock(&mutex_);
  return marks_.memorized - snapshot_offset_ >= std::max<int64_t>(1, min_tokens);
}

void Session::Snapshotted(int64_t offset) {
  absl::MutexLock lock(&mutex_);
  snapshot_offset_ = std::max(snapshot_offset_, offset);
}

}  // namespace mnemosyne
