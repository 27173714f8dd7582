#include "core/storage/storage.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/storage/branch_drop.h"
#include "core/storage/data_folder.h"
#include "core/storage/database.h"
#include "core/storage/record_codec.h"
#include "core/storage/record_names.h"

namespace mnemosyne {
namespace {

constexpr int64_t kMaxStateBytes = int64_t{0xffffffff} - 64;  // RocksDB's largest value, less the record's own fields

absl::StatusOr<uint64_t> FirstUnusedNumber(Database& database) {
  uint64_t next = 1;
  std::unique_ptr<rocksdb::Iterator> last = database.Range(database.sessions(), nullptr, nullptr);
  last->SeekToLast();
  RETURN_IF_ERROR(FromRocksDb(last->status(), "last session"));
  if (last->Valid()) {
    ASSIGN_OR_RETURN(const uint64_t number, ParseSessionKey(View(last->key())));
    next = number + 1;
  }
  const std::string name = "the next session's number";
  const absl::StatusOr<std::string> stored = database.Get(database.db().DefaultColumnFamily(), kNextSessionKey, name);
  if (absl::IsNotFound(stored.status())) return next;
  RETURN_IF_ERROR(stored.status());
  const absl::StatusOr<uint64_t> number = DecodeNextSession(*stored);
  if (!number.ok()) return Annotate(number.status(), name);
  return std::max(next, *number);
}

absl::StatusOr<std::vector<uint64_t>> Marked(Database& database, absl::string_view mark, absl::string_view name) {
  std::vector<uint64_t> numbers;
  const rocksdb::Slice begin = Slice(mark);
  std::unique_ptr<rocksdb::Iterator> it = database.Range(database.db().DefaultColumnFamily(), &begin, nullptr);
  for (it->SeekToFirst(); it->Valid() && it->key().starts_with(begin); it->Next()) {
    const absl::StatusOr<uint64_t> number = DecodeMark(mark, View(it->key()), View(it->value()));
    if (!number.ok()) return Annotate(number.status(), name);
    numbers.push_back(*number);
  }
  RETURN_IF_ERROR(FromRocksDb(it->status(), name));
  return numbers;
}

// Imports that a crash cut short.
absl::Status DropUnfinishedImports(Database& database) {
  rocksdb::WriteBatch batch;
  ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, Marked(database, kImportMark, "an unfinished import"));
  for (const uint64_t number : numbers) {
    DropBranch(database, {number, 1}, &batch);
    batch.Delete(Slice(MarkKey(kImportMark, number)));
  }
  return batch.Count() == 0 ? absl::OkStatus() : database.Write(&batch);
}

}  // namespace

// ---- LogReader

class LogReader::Cursor {
 public:
  Cursor(Storage* storage, std::vector<LogExtent> extents, uint64_t index)
      : storage_(storage), extents_(std::move(extents)), index_(index) {
    absl::MutexLock lock(&storage_->readers_mutex_);
    storage_->readers_.insert(this);
  }
  ~Cursor() {
    {
      absl::MutexLock lock(&storage_->readers_mutex_);
      storage_->readers_.erase(this);
    }
    Detach();
  }

  absl::Status Attach() {
    absl::MutexLock lock(&mutex_);
    return AttachLocked();
  }
  // From any thread.
  void Detach() {
    absl::MutexLock lock(&mutex_);
    it_ = nullptr;
    if (view_ != nullptr) database_->db().ReleaseSnapshot(std::exchange(view_, nullptr));
    database_ = nullptr;
  }

  absl::StatusOr<std::optional<LogRecord>> Next() {
    absl::MutexLock lock(&mutex_);
    if (database_ == nullptr) {
      RETURN_IF_ERROR(AttachLocked());
      is_as_made_ = false;
    }
    while (extent_ < extents_.size()) {
      const LogExtent& extent = extents_[extent_];
      const bool is_own = extent.count == kEndless;
      in_branch_ = std::max(in_branch_, extent.first);
      if (it_ == nullptr) {
        begin_ = LogKey(extent.branch.number, extent.branch.epoch, in_branch_);
        end_ = is_own ? BranchEnd(extent.branch)
                      : LogKey(extent.branch.number, extent.branch.epoch, extent.first + extent.count);
        begin_slice_ = begin_;
        end_slice_ = end_;
        it_ = database_->Range(database_->log(), &begin_slice_, &end_slice_, view_);
        it_->SeekToFirst();
      } else {
        it_->Next();
      }
      const std::string name = LogName(extent.branch, in_branch_);
      RETURN_IF_ERROR(FromRocksDb(it_->status(), name));
      if (!it_->Valid()) {
        if (!is_own && in_branch_ != extent.first + extent.count) return Missing(absl::StrCat(name, " is missing"));
        it_ = nullptr;
        in_branch_ = 0;
        extent_ += 1;
        continue;
      }
      const absl::StatusOr<uint64_t> found = ParseLogIndex(View(it_->key()));
      if (!found.ok()) return Annotate(found.status(), name);
      if (*found != in_branch_) return Missing(absl::StrCat(name, " is missing; the next is ", *found));
      absl::StatusOr<LogRecord> record = DecodeLogRecord(View(it_->key()), View(it_->value()));
      if (!record.ok()) return Annotate(record.status(), name);
      in_branch_ += 1;
      record->index = index_++;
      if (record->first_offset >= 0) record->first_offset -= extent.offset_shift;
      return std::optional<LogRecord>(*std::move(record));
    }
    return std::optional<LogRecord>();
  }

 private:
  absl::Status AttachLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ASSIGN_OR_RETURN(database_, storage_->Use());
    view_ = database_->db().GetSnapshot();
    return absl::OkStatus();
  }
  absl::Status Missing(const std::string& what) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (is_as_made_) return absl::DataLossError(what);
    return absl::AbortedError(absl::StrCat(what, ": the session was changed while it was read; try again"));
  }

  Storage* const storage_;
  const std::vector<LogExtent> extents_;  // what is to be read; the own branch's, without an end, last
  absl::Mutex mutex_;
  std::shared_ptr<Database> database_ ABSL_GUARDED_BY(mutex_);  // null: detached
  const rocksdb::Snapshot* view_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool is_as_made_ ABSL_GUARDED_BY(mutex_) = true;                           // it was never detached
  size_t extent_ ABSL_GUARDED_BY(mutex_) = 0;                                // that is being read
  uint64_t index_ ABSL_GUARDED_BY(mutex_);                                   // of the next record, in the session's log
  uint64_t in_branch_ ABSL_GUARDED_BY(mutex_) = 0;                           // and in its branch
  std::string begin_ ABSL_GUARDED_BY(mutex_), end_ ABSL_GUARDED_BY(mutex_);  // bounds of `it_`
  rocksdb::Slice begin_slice_ ABSL_GUARDED_BY(mutex_), end_slice_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<rocksdb::Iterator> it_ ABSL_GUARDED_BY(mutex_);
};

LogReader::LogReader(std::unique_ptr<Cursor> cursor) : cursor_(std::move(cursor)) {}
LogReader::~LogReader() = default;
absl::StatusOr<std::optional<LogRecord>> LogReader::Next() { return cursor_->Next(); }

// ---- Storage

Storage::Storage(const Options& options, std::shared_ptr<Database> database)
    : options_(options), database_(std::move(database)) {}
Storage::~Storage() = default;

absl::StatusOr<std::unique_ptr<Storage>> Storage::Open(const Options& options) {
  ASSIGN_OR_RETURN(std::shared_ptr<Database> database, Database::Open(options.path, options.sync_writes));
  RETURN_IF_ERROR(DropUnfinishedImports(*database));
  ASSIGN_OR_RETURN(const uint64_t next_number, FirstUnusedNumber(*database));
  std::unique_ptr<Storage> storage(new Storage(options, std::move(database)));
  storage->next_session_number_ = next_number;
  return storage;
}

absl::StatusOr<std::shared_ptr<Database>> Storage::Use() const {
  absl::MutexLock lock(&mutex_);
  if (database_ == nullptr) return absl::UnavailableError("the data folder is being opened again; try again later");
  return database_;
}

absl::Status Storage::Reopen() {
  std::shared_ptr<Database> closing;
  {
    absl::MutexLock lock(&mutex_);
    if (database_ != nullptr && database_->write_failure().ok()) return absl::OkStatus();
    closing = std::exchange(database_, nullptr);
  }
  if (closing != nullptr) {
    DetachReaders();
    // Calls that are on their way end soon.
    for (int i = 0; i < 1000 && closing.use_count() > 1; ++i) absl::SleepFor(absl::Milliseconds(1));
    absl::Status ready;
    if (closing.use_count() > 1) {
      ready = absl::UnavailableError("the data folder is being read; it cannot be opened again yet");
    } else {
      ready = ProbeFolder(options_.path);
    }
    if (!ready.ok()) {  // what can be read is, in the meantime
      absl::MutexLock lock(&mutex_);
      database_ = std::move(closing);
      return ready;
    }
    closing = nullptr;
  }
  absl::StatusOr<std::shared_ptr<Database>> opened = Database::Open(options_.path, options_.sync_writes);
  RETURN_IF_ERROR(opened.status());
  absl::MutexLock lock(&mutex_);
  database_ = *std::move(opened);
  return absl::OkStatus();
}

void Storage::DetachReaders() {
  absl::MutexLock lock(&readers_mutex_);
  for (LogReader::Cursor* reader : readers_) reader->Detach();
}

absl::Status Storage::write_failure() const {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  return database->write_failure();
}

uint64_t Storage::NextSessionNumber() { return next_session_number_.fetch_add(1); }

absl::Status Storage::Apply(const SessionChange& change) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  rocksdb::WriteBatch batch;
  if (change.new_branch) DropBranch(*database, *change.new_branch, &batch);
  if (change.put) batch.Put(database->sessions(), SessionKey(change.put->number), EncodeSession(*change.put));
  if (change.deleted) {
    batch.Delete(database->sessions(), SessionKey(*change.deleted));
    batch.Put(Slice(kNextSessionKey), EncodeNextSession(next_session_number_));
  }
  for (const LogRecord& record : change.records) {
    batch.Put(database->log(), LogKey(record.session_number, record.epoch, record.index), EncodeLogRecord(record));
  }
  for (const KeptOfBranch& kept : change.kept) DropRest(*database, kept, &batch);
  if (change.finished_import) batch.Delete(Slice(MarkKey(kImportMark, *change.finished_import)));
  if (change.scrubbed.empty()) return database->Write(&batch);
  for (const uint64_t number : change.scrubbed) {
    batch.Put(Slice(MarkKey(kScrubMark, number)), EncodeMark(kScrubMark, number));
  }
  absl::MutexLock lock(&erasures_mutex_);
  erasures_ += 1;
  return database->Write(&batch);
}

absl::StatusOr<std::vector<SessionMetadata>> Storage::LoadSessions() {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  std::vector<SessionMetadata> sessions;
  std::unique_ptr<rocksdb::Iterator> it = database->Range(database->sessions(), nullptr, nullptr);
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const absl::StatusOr<uint64_t> number = ParseSessionKey(View(it->key()));
    if (!number.ok()) return Annotate(number.status(), "sessions' metadata");
    absl::StatusOr<SessionMetadata> metadata = DecodeSession(View(it->key()), View(it->value()));
    if (!metadata.ok()) return Annotate(metadata.status(), absl::StrCat("metadata of session number ", *number));
    sessions.push_back(*std::move(metadata));
  }
  RETURN_IF_ERROR(FromRocksDb(it->status(), "sessions' metadata"));
  return sessions;
}

absl::Status Storage::AppendLog(absl::Span<const LogRecord> records) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  rocksdb::WriteBatch batch;
  for (const LogRecord& record : records) {
    batch.Put(database->log(), LogKey(record.session_number, record.epoch, record.index), EncodeLogRecord(record));
  }
  return database->Write(&batch);
}

absl::StatusOr<std::unique_ptr<LogReader>> Storage::ReadLog(const SessionMetadata& session, uint64_t from_index) {
  const uint64_t end = ExtentsEnd(session), index = std::max(from_index, session.log_begin);
  std::vector<LogExtent> extents;
  if (index < end) extents = LogExtents(session, index, end);
  extents.push_back({session.own_branch(), std::max(index, end), kEndless, 0});
  auto cursor = std::make_unique<LogReader::Cursor>(this, std::move(extents), index);
  RETURN_IF_ERROR(cursor->Attach());
  return std::unique_ptr<LogReader>(new LogReader(std::move(cursor)));
}

absl::StatusOr<LogRecord> Storage::ReadLogRecord(const SessionMetadata& session, uint64_t index) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  if (index < session.log_begin) {
    return absl::FailedPreconditionError(absl::StrCat("log record ", index, " of session '", session.id,
                                                      "' was trimmed; the first is ", session.log_begin));
  }
  const LogExtent at = LogExtents(session, index, index + 1).at(0);
  const std::string name = LogName(at.branch, at.first), key = LogKey(at.branch.number, at.branch.epoch, at.first);
  const absl::StatusOr<std::string> value = database->Get(database->log(), key, name);
  if (absl::IsNotFound(value.status())) return absl::DataLossError(absl::StrCat(name, " is missing"));
  RETURN_IF_ERROR(value.status());
  absl::StatusOr<LogRecord> record = DecodeLogRecord(key, *value);
  if (!record.ok()) return Annotate(record.status(), name);
  record->index = index;
  if (record->first_offset >= 0) record->first_offset -= at.offset_shift;
  return record;
}

absl::StatusOr<std::optional<LogRecord>> Storage::LastLogRecord(const SessionMetadata& session) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  const BranchId own = session.own_branch();
  const std::string begin = LogKey(own.number, own.epoch, session.own_first), end = BranchEnd(own);
  const rocksdb::Slice begin_slice(begin), end_slice(end);
  std::unique_ptr<rocksdb::Iterator> it = database->Range(database->log(), &begin_slice, &end_slice);
  it->SeekToLast();
  const std::string name = absl::StrCat("last log record of session number ", own.number, ", epoch ", own.epoch);
  RETURN_IF_ERROR(FromRocksDb(it->status(), name));
  if (it->Valid()) {
    absl::StatusOr<LogRecord> record = DecodeLogRecord(View(it->key()), View(it->value()));
    if (!record.ok()) return Annotate(record.status(), name);
    return std::optional<LogRecord>(*std::move(record));
  }
  if (session.extents.empty()) return std::optional<LogRecord>();
  ASSIGN_OR_RETURN(LogRecord record, ReadLogRecord(session, session.own_first - 1));
  return std::optional<LogRecord>(std::move(record));
}

int64_t Storage::StoredBytes() const {
  const absl::StatusOr<std::shared_ptr<Database>> database = Use();
  return database.ok() ? (*database)->StoredBytes() : 0;
}

int64_t Storage::LogBytes(const SessionMetadata& session) {
  const absl::StatusOr<std::shared_ptr<Database>> database = Use();
  if (!database.ok()) return 0;
  std::vector<std::pair<std::string, std::string>> keys;
  for (const LogExtent& extent : session.extents) {
    const auto key = [&](uint64_t index) { return LogKey(extent.branch.number, extent.branch.epoch, index); };
    keys.emplace_back(key(extent.first), key(extent.first + extent.count));
  }
  const BranchId own = session.own_branch();
  keys.emplace_back(LogKey(own.number, own.epoch, session.own_first), BranchEnd(own));
  std::vector<rocksdb::Range> ranges;
  for (const auto& [begin, end] : keys) ranges.emplace_back(begin, end);
  rocksdb::SizeApproximationOptions options;
  options.include_memtables = true;
  options.include_files = true;
  std::vector<uint64_t> bytes(ranges.size());
  const rocksdb::Status status = (*database)->db().GetApproximateSizes(options, (*database)->log(), ranges.data(),
                                                                       static_cast<int>(ranges.size()), bytes.data());
  int64_t sum = 0;
  if (status.ok()) {
    for (const uint64_t one : bytes) sum += static_cast<int64_t>(one);
  }
  return sum;
}

absl::Status Storage::PutSnapshot(const SnapshotHeader& header, absl::string_view state) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  const SnapshotId id = {{header.session_number, header.epoch}, header.offset};
  if (state.size() > kMaxStateBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(SnapshotName(id), ": ", state.size(), " bytes; the maximum is ", kMaxStateBytes));
  }
  SnapshotHeader sized = header;
  sized.state_bytes = static_cast<int64_t>(state.size());
  rocksdb::WriteBatch batch;
  batch.Put(database->snapshots(), HeaderKey(id), EncodeSnapshotHeader(sized));
  batch.Put(database->snapshots(), StateKey(id), EncodeSnapshotState(sized, state));
  return database->Write(&batch);
}

absl::Status Storage::DeleteSnapshots(absl::Span<const SnapshotId> snapshots) {
  if (snapshots.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  rocksdb::WriteBatch batch;
  for (const SnapshotId& id : snapshots) {
    batch.Delete(database->snapshots(), HeaderKey(id));
    batch.Delete(database->snapshots(), StateKey(id));
  }
  return database->Write(&batch);
}

absl::StatusOr<std::vector<SnapshotId>> Storage::ListSnapshots(const SessionMetadata& session) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  std::vector<SnapshotSource> sources = {{session.own_branch(), std::numeric_limits<int64_t>::max() - 1}};
  sources.insert(sources.end(), session.snapshot_sources.begin(), session.snapshot_sources.end());
  std::vector<SnapshotId> snapshots;
  for (const auto& [branch, max_offset] : sources) {
    const std::string begin = HeaderKey({branch, 0}), end = HeaderKey({branch, max_offset + 1});
    const rocksdb::Slice begin_slice(begin), end_slice(end);
    const std::string name = absl::StrCat("snapshots of session number ", branch.number, ", epoch ", branch.epoch);
    std::unique_ptr<rocksdb::Iterator> it = database->Range(database->snapshots(), &begin_slice, &end_slice);
    for (it->SeekToLast(); it->Valid(); it->Prev()) {
      const absl::StatusOr<int64_t> offset = ParseSnapshotOffset(View(it->key()));
      if (!offset.ok()) return Annotate(offset.status(), name);
      snapshots.push_back({branch, *offset});
    }
    RETURN_IF_ERROR(FromRocksDb(it->status(), name));
  }
  std::stable_sort(snapshots.begin(), snapshots.end(),
                   [](const SnapshotId& a, const SnapshotId& b) { return a.offset > b.offset; });
  return snapshots;
}

absl::StatusOr<SnapshotHeader> Storage::ReadSnapshotHeader(const SnapshotId& id) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  const std::string name = SnapshotName(id), key = HeaderKey(id);
  ASSIGN_OR_RETURN(const std::string value, database->Get(database->snapshots(), key, name));
  absl::StatusOr<SnapshotHeader> header = DecodeSnapshotHeader(key, value);
  if (!header.ok()) return Annotate(header.status(), name);
  return header;
}

absl::StatusOr<Snapshot> Storage::ReadSnapshot(const SnapshotId& id) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  const std::string name = SnapshotName(id), state_key = StateKey(id);
  absl::StatusOr<SnapshotHeader> header = ReadSnapshotHeader(id);
  absl::StatusOr<std::string> value = database->Get(database->snapshots(), state_key, name);
  const bool has_header = !absl::IsNotFound(header.status()), has_state = !absl::IsNotFound(value.status());
  if (!has_header && !has_state) return absl::NotFoundError(name);
  if (!has_header) return absl::DataLossError(absl::StrCat(name, ": its header is missing"));
  if (!has_state) return absl::DataLossError(absl::StrCat(name, ": its state is missing"));
  RETURN_IF_ERROR(header.status());
  RETURN_IF_ERROR(value.status());
  const absl::StatusOr<absl::string_view> state = DecodeSnapshotState(*header, state_key, *value);
  if (!state.ok()) return Annotate(state.status(), name);
  return Snapshot{*std::move(header), std::string(*state)};
}

absl::Status Storage::BeginImport(uint64_t number) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  rocksdb::WriteBatch batch;
  DropBranch(*database, {number, 1}, &batch);
  batch.Put(Slice(MarkKey(kImportMark, number)), EncodeMark(kImportMark, number));
  batch.Put(Slice(kNextSessionKey), EncodeNextSession(next_session_number_));
  return database->Write(&batch);
}

absl::Status Storage::AbandonImport(uint64_t number) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  rocksdb::WriteBatch batch;
  DropBranch(*database, {number, 1}, &batch);
  batch.Delete(Slice(MarkKey(kImportMark, number)));
  return database->Write(&batch);
}

absl::Status Storage::Flush() {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  return database->Flush();
}

absl::Status Storage::Scrub() {
  absl::MutexLock scrub_lock(&scrub_mutex_);
  while (true) {
    ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
    int64_t erasures = 0;
    {
      absl::MutexLock lock(&erasures_mutex_);
      erasures = erasures_;
    }
    ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, Marked(*database, kScrubMark, "an unfinished erasure"));
    if (numbers.empty()) return absl::OkStatus();
    DetachReaders();                     // what they look at stays in the files
    RETURN_IF_ERROR(database->Flush());  // the write-ahead log has it too
    rocksdb::WriteBatch done;
    for (const uint64_t number : numbers) {
      const std::string begin = SessionKey(number), end = SessionKey(number + 1);
      const rocksdb::Slice begin_slice(begin), end_slice(end);
      RETURN_IF_ERROR(database->Rewrite(database->log(), &begin_slice, &end_slice));
      done.Delete(Slice(MarkKey(kScrubMark, number)));
    }
    // States of many sessions share a blob file, which goes when none of them needs it.
    RETURN_IF_ERROR(database->Rewrite(database->snapshots(), nullptr, nullptr));
    DetachReaders();  // who went on meanwhile looks at the former files
    absl::MutexLock lock(&erasures_mutex_);
    if (erasures_ == erasures) return database->Write(&done);  // otherwise a mark may be another's by now
  }
}

absl::StatusOr<bool> Storage::HasToScrub() {
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, Marked(*database, kScrubMark, "an unfinished erasure"));
  return !numbers.empty();
}

}  // namespace mnemosyne
