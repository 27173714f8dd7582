#include "core/session/history.h"

#include <algorithm>
#include <bit>
#include <deque>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

absl::Status History::CheckCovered(int64_t offset) const {
  if (offset >= metadata_.earliest_offset) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the log of session '", metadata_.id,
                                                    "' is trimmed: it brings back no offset before ",
                                                    metadata_.earliest_offset, ", and ", offset, " was asked for"));
}

Session::Recovered History::FromCheckpoint(const SnapshotHeader& header, StatePtr state) {
  Session::Recovered recovered;
  recovered.state = std::move(state);
  recovered.position = {header.replay_index, header.replay_skip_bytes, header.offset - header.replay_skip_tokens,
                        header.replay_skip_tokens};
  recovered.accepted_bytes = header.accepted_bytes;
  recovered.next_sequence = header.next_sequence;
  recovered.snapshot_offset = header.offset;
  return recovered;
}

absl::StatusOr<Session::Recovered> History::StateAt(int64_t offset) const {
  RETURN_IF_ERROR(CheckCovered(offset));
  ASSIGN_OR_RETURN(const std::vector<SnapshotId> snapshots, storage_->ListSnapshots(metadata_));
  absl::Status first_damage;
  for (const SnapshotId& id : snapshots) {
    if (id.offset > offset) continue;
    const absl::StatusOr<Snapshot> snapshot = storage_->ReadSnapshot(id);
    if (!snapshot.ok()) {
      if (absl::IsUnavailable(snapshot.status())) return snapshot.status();
      first_damage.Update(snapshot.status());
      continue;
    }
    const SnapshotHeader& header = snapshot->header;
    absl::StatusOr<StatePtr> state = model_->DecodeState(snapshot->state);
    first_damage.Update(state.status());
    if (!state.ok() || header.fingerprint != metadata_.fingerprint || StateOffset(**state) != id.offset) continue;
    if (header.replay_index < metadata_.log_begin) continue;
    return FromCheckpoint(header, *std::move(state));
  }
  if (metadata_.log_begin > 0) {
    return absl::DataLossError(absl::StrCat(
        "session '", metadata_.id, "' has no good snapshot, and its log is trimmed: ", "it begins at record ",
        metadata_.log_begin, first_damage.ok() ? "" : "; ", first_damage.message()));
  }
  Session::Recovered fresh;
  fresh.state = model_->InitialState();
  return fresh;
}

absl::StatusOr<uint64_t> History::LogEnd() const {
  ASSIGN_OR_RETURN(const std::optional<LogRecord> last, storage_->LastLogRecord(metadata_));
  return last ? last->index + 1 : metadata_.log_begin;
}

absl::StatusOr<std::unique_ptr<TokenReader>> History::TokensFrom(const Session::Recovered& past) const {
  ASSIGN_OR_RETURN(std::unique_ptr<LogReader> log, storage_->ReadLog(metadata_, past.position.record_index));
  return std::make_unique<TokenReader>(&model_->tokenizer(), std::move(log), past.position);
}

absl::StatusOr<TokenFeed::Position> History::ReadingStart(int64_t offset) const {
  if (has_pieces()) {  // a piece may begin records before its first token: a snapshot knows where
    ASSIGN_OR_RETURN(const std::vector<SnapshotId> snapshots, storage_->ListSnapshots(metadata_));
    for (const SnapshotId& id : snapshots) {
      if (id.offset > offset) continue;
      const absl::StatusOr<SnapshotHeader> header = storage_->ReadSnapshotHeader(id);
      if (!header.ok() || header->replay_index < metadata_.log_begin) continue;
      return FromCheckpoint(*header, nullptr).position;
    }
    if (metadata_.log_begin > 0) {
      return absl::DataLossError(
          absl::StrCat("session '", metadata_.id, "' has no good snapshot, and its log is trimmed"));
    }
    return TokenFeed::Position{};
  }
  // Otherwise every record says which token it begins with: the last that begins at or before the offset.
  ASSIGN_OR_RETURN(const uint64_t log_end, LogEnd());
  uint64_t low = metadata_.log_begin, high = log_end;  // the record is in [low, high)
  int64_t low_offset = metadata_.earliest_offset;      // where the log begins, also when nothing is in it
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    ASSIGN_OR_RETURN(const LogRecord record, storage_->ReadLogRecord(metadata_, middle));
    if (record.first_offset > offset) {
      high = middle;
      continue;
    }
    low_offset = record.first_offset;
    if (low == middle) break;
    low = middle;
  }
  return TokenFeed::Position{low, 0, low_offset, 0};
}

absl::StatusOr<History::Cut> History::FindCut(int64_t offset) const {
  RETURN_IF_ERROR(CheckCovered(offset));
  if (offset == 0) return Cut{};
  ASSIGN_OR_RETURN(const TokenFeed::Position start, ReadingStart(offset));
  TokenFeed feed(&model_->tokenizer(), start);
  ASSIGN_OR_RETURN(const std::unique_ptr<LogReader> log, storage_->ReadLog(metadata_, start.record_index));
  std::deque<LogContent> kinds;  // of the records from first_kept on that were read and may be asked about
  uint64_t first_kept = start.record_index;
  while (feed.offset() < offset) {
    ASSIGN_OR_RETURN(const std::optional<LogRecord> record, log->Next());
    if (!record) {
      return absl::OutOfRangeError(absl::StrCat("offset ", offset, " is beyond the log of session '", metadata_.id,
                                                "', which has ", feed.offset(), " tokens"));
    }
    feed.ForgetBefore(feed.offset());
    for (; first_kept + 1 < feed.PositionAt(feed.offset()).record_index; ++first_kept) kinds.pop_front();
    kinds.push_back(record->kind);
    const int64_t skipped = record->index == start.record_index ? start.skip_bytes : 0;
    RETURN_IF_ERROR(feed.AddRecord(*record, skipped).status());
  }
  const TokenFeed::Position at = feed.PositionAt(offset);
  Cut cut = {at.record_index, at.skip_bytes, false};
  const auto kind_of = [&](uint64_t index) { return kinds.at(index - first_kept); };
  if (at.skip_tokens > 0) {
    if (kind_of(at.record_index) == LogContent::kTokenIds) {
      cut.bytes += at.skip_tokens * static_cast<int64_t>(sizeof(int32_t));
    } else if (!has_pieces()) {
      cut.bytes += at.skip_tokens;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("offset ", offset,
                                                     " lies inside a piece of text that was tokenized ",
                                                     "as one; the place before it is ", at.offset));
    }
  }
  // Text before a cut must not run into what comes behind it.
  if (has_pieces()) {
    const uint64_t last = cut.bytes > 0 ? cut.record_index : cut.record_index - 1;
    // A record that was not read is text: token ids begin and end a piece, so that nothing goes on from before them.
    cut.ends_text = last < first_kept || last >= first_kept + kinds.size() || kind_of(last) == LogContent::kText;
  }
  return cut;
}

std::vector<int64_t> SnapshotsToDrop(const std::vector<int64_t>& offsets, const SnapshotNeeds& needs, bool keep_past) {
  if (offsets.size() <= 2) return {};
  std::set<int64_t> kept(offsets.begin(), offsets.begin() + 2);
  kept.insert(needs.offsets.begin(), needs.offsets.end());
  for (const int64_t bound : needs.bounds) {
    int found = 0;
    for (const int64_t offset : offsets) {
      if (offset <= bound && found++ < 2) kept.insert(offset);
    }
  }
  if (keep_past) {
    int last_class = 0;
    for (auto it = offsets.rbegin(); it != offsets.rend(); ++it) {  // oldest first
      const int age_class = std::bit_width(static_cast<uint64_t>(offsets.front() - *it));
      if (age_class != last_class) kept.insert(*it);
      last_class = age_class;
    }
  }
  std::vector<int64_t> dropped;
  for (const int64_t offset : offsets) {
    if (!kept.contains(offset)) dropped.push_back(offset);
  }
  return dropped;
}

}  // namespace mnemosyne
