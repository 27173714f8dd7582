#include "core/storage/storage.h"

#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/status_macros.h"
#include "core/storage/data_folder.h"
#include "core/storage/record_codec.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/table.h"
#include "rocksdb/write_batch.h"

namespace mnemosyne {
namespace {

constexpr int64_t kMaxStateBytes = int64_t{0xffffffff} - 64;  // RocksDB's largest value, less the record's own fields

absl::string_view View(const rocksdb::Slice& slice) { return absl::string_view(slice.data(), slice.size()); }
rocksdb::Slice Slice(absl::string_view view) { return rocksdb::Slice(view.data(), view.size()); }

absl::Status Annotate(const absl::Status& status, absl::string_view name) {
  return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

std::string LogName(uint64_t number, uint64_t epoch, uint64_t index) {
  return absl::StrCat("log record ", index, " of session number ", number, ", epoch ", epoch);
}

std::string SnapshotName(uint64_t number, uint64_t epoch, int64_t offset) {
  return absl::StrCat("snapshot at offset ", offset, " of session number ", number, ", epoch ", epoch);
}

rocksdb::DBOptions DatabaseOptions() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  // A record cut short at the log's very end was never acknowledged; anything else that is wrong refuses the folder.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_bgerror_resume_count = 0;  // a write that failed is final until the folder is opened again
  options.max_total_wal_size = 64 << 20;
  options.db_write_buffer_size = 48 << 20;
  options.max_background_jobs = 2;
  options.max_open_files = 512;
  options.max_log_file_size = 1 << 20;
  options.keep_log_file_num = 2;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  return options;
}

rocksdb::ColumnFamilyOptions FamilyOptions(const std::string& name, const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options;
  options.write_buffer_size = 16 << 20;
  options.compression = rocksdb::kNoCompression;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  if (name == kSnapshotsFamily) {
    options.enable_blob_files = true;
    options.min_blob_size = 4096;  // headers stay in the tree
    options.blob_file_size = 64 << 20;
    options.enable_blob_garbage_collection = true;
    options.blob_garbage_collection_age_cutoff = 0.5;
    options.blob_garbage_collection_force_threshold = 0.5;
  }
  return options;
}

}  // namespace

struct Storage::Database {
  std::unique_ptr<rocksdb::DB> db;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;  // destroyed before db
  rocksdb::ColumnFamilyHandle* sessions = nullptr;
  rocksdb::ColumnFamilyHandle* log = nullptr;
  rocksdb::ColumnFamilyHandle* snapshots = nullptr;
  bool sync_writes = true;

  absl::Mutex mutex;
  absl::Status write_failure ABSL_GUARDED_BY(mutex);  // the first; refuses every write after it

  ~Database() {
    for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  }

  absl::Status Write(rocksdb::WriteBatch* batch) {
    {
      absl::MutexLock lock(&mutex);
      if (!write_failure.ok()) return write_failure;
    }
    rocksdb::WriteOptions options;
    options.sync = sync_writes;
    const rocksdb::Status status = db->Write(options, batch);
    if (status.ok()) return absl::OkStatus();
    absl::MutexLock lock(&mutex);
    if (write_failure.ok()) {
      write_failure = absl::UnavailableError(
          absl::StrCat("storage takes no writes until it is opened again, since one failed: ", status.ToString()));
    }
    return write_failure;
  }

  // Puts the marker into a new folder; checks it in any other.
  absl::Status CheckMarker(const std::string& path) {
    std::string marker;
    const rocksdb::Slice key = Slice(kFormatKey);
    const rocksdb::Status status = db->Get(rocksdb::ReadOptions(), key, &marker);
    if (status.ok()) {
      const absl::Status checked = CheckFolderFormat(marker);
      return checked.ok() ? checked : Annotate(checked, absl::StrCat("data folder '", path, "'"));
    }
    if (!status.IsNotFound()) return FromRocksDb(status, absl::StrCat("data folder '", path, "'"));
    for (rocksdb::ColumnFamilyHandle* handle : handles) {
      std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(rocksdb::ReadOptions(), handle));
      it->SeekToFirst();
      RETURN_IF_ERROR(FromRocksDb(it->status(), absl::StrCat("data folder '", path, "'")));
      if (it->Valid()) {
        return absl::FailedPreconditionError(absl::StrCat("'", path, "' is no data folder: it has data but no marker"));
      }
    }
    rocksdb::WriteBatch batch;
    batch.Put(key, EncodeFolderFormat(kFolderFormat));
    return Write(&batch);
  }

  // Iterates over [begin, end) of one family; the bounds must outlive the iterator.
  std::unique_ptr<rocksdb::Iterator> Range(rocksdb::ColumnFamilyHandle* family, const rocksdb::Slice* begin,
                                           const rocksdb::Slice* end) {
    rocksdb::ReadOptions options;
    options.iterate_lower_bound = begin;
    options.iterate_upper_bound = end;
    options.fill_cache = false;
    return std::unique_ptr<rocksdb::Iterator>(db->NewIterator(options, family));
  }
};

Storage::Storage(std::unique_ptr<Database> database) : database_(std::move(database)) {}
Storage::~Storage() = default;

absl::StatusOr<std::unique_ptr<Storage>> Storage::Open(const Options& options) {
  ASSIGN_OR_RETURN(std::vector<std::string> families, PrepareDataFolder(options.path));
  for (absl::string_view family : {absl::string_view("default"), kSessionsFamily, kLogFamily, kSnapshotsFamily}) {
    if (std::find(families.begin(), families.end(), family) == families.end()) families.emplace_back(family);
  }
  const std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(32 << 20);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(families.size());
  for (const std::string& family : families) descriptors.emplace_back(family, FamilyOptions(family, cache));

  auto database = std::make_unique<Database>();
  database->sync_writes = options.sync_writes;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened =
      rocksdb::DB::Open(DatabaseOptions(), options.path, descriptors, &database->handles, &db);
  RETURN_IF_ERROR(FromRocksDb(opened, absl::StrCat("data folder '", options.path, "'")));
  database->db.reset(db);
  for (rocksdb::ColumnFamilyHandle* handle : database->handles) {
    if (handle->GetName() == kSessionsFamily) database->sessions = handle;
    if (handle->GetName() == kLogFamily) database->log = handle;
    if (handle->GetName() == kSnapshotsFamily) database->snapshots = handle;
  }
  RETURN_IF_ERROR(database->CheckMarker(options.path));

  std::unique_ptr<rocksdb::Iterator> last(db->NewIterator(rocksdb::ReadOptions(), database->sessions));
  last->SeekToLast();
  RETURN_IF_ERROR(FromRocksDb(last->status(), "last session"));
  uint64_t next_number = 1;
  if (last->Valid()) {
    ASSIGN_OR_RETURN(uint64_t last_number, ParseSessionKey(View(last->key())));
    next_number = last_number + 1;
  }
  last.reset();
  std::string stored;
  const rocksdb::Status found = db->Get(rocksdb::ReadOptions(), Slice(kNextSessionKey), &stored);
  if (found.ok()) {
    const absl::StatusOr<uint64_t> number = DecodeNextSession(stored);
    if (!number.ok()) return Annotate(number.status(), "the next session's number");
    next_number = std::max(next_number, *number);
  } else if (!found.IsNotFound()) {
    return FromRocksDb(found, "the next session's number");
  }
  std::unique_ptr<Storage> storage(new Storage(std::move(database)));
  storage->next_session_number_ = next_number;
  return storage;
}

uint64_t Storage::NextSessionNumber() { return next_session_number_.fetch_add(1); }

absl::Status Storage::PutSession(const SessionMetadata& metadata) {
  rocksdb::WriteBatch batch;
  batch.Put(database_->sessions, SessionKey(metadata.number), EncodeSession(metadata));
  return database_->Write(&batch);
}

absl::Status Storage::PutSessionAndDropOtherEpochs(const SessionMetadata& metadata) {
  rocksdb::WriteBatch batch;
  batch.Put(database_->sessions, SessionKey(metadata.number), EncodeSession(metadata));
  for (rocksdb::ColumnFamilyHandle* family : {database_->log, database_->snapshots}) {
    batch.DeleteRange(family, EpochKey(metadata.number, 0), EpochKey(metadata.number, metadata.epoch));
    batch.DeleteRange(family, EpochKey(metadata.number, metadata.epoch + 1), SessionKey(metadata.number + 1));
  }
  return database_->Write(&batch);
}

absl::Status Storage::DeleteSession(uint64_t number) {
  rocksdb::WriteBatch batch;
  batch.Delete(database_->sessions, SessionKey(number));
  batch.Put(Slice(kNextSessionKey), EncodeNextSession(next_session_number_));
  for (rocksdb::ColumnFamilyHandle* family : {database_->log, database_->snapshots}) {
    batch.DeleteRange(family, SessionKey(number), SessionKey(number + 1));
  }
  return database_->Write(&batch);
}

absl::StatusOr<std::vector<SessionMetadata>> Storage::LoadSessions() {
  std::vector<SessionMetadata> sessions;
  std::unique_ptr<rocksdb::Iterator> it = database_->Range(database_->sessions, nullptr, nullptr);
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
  rocksdb::WriteBatch batch;
  for (const LogRecord& record : records) {
    batch.Put(database_->log, LogKey(record.session_number, record.epoch, record.index), EncodeLogRecord(record));
  }
  return database_->Write(&batch);
}

absl::Status Storage::ReadLog(uint64_t number, uint64_t epoch, uint64_t from_index,
                              absl::FunctionRef<absl::Status(const LogRecord&)> visit) {
  const std::string begin = LogKey(number, epoch, from_index), end = EpochKey(number, epoch + 1);
  const rocksdb::Slice begin_slice(begin), end_slice(end);
  std::unique_ptr<rocksdb::Iterator> it = database_->Range(database_->log, &begin_slice, &end_slice);
  uint64_t expected = from_index;
  for (it->SeekToFirst(); it->Valid(); it->Next(), ++expected) {
    const absl::StatusOr<uint64_t> index = ParseLogIndex(View(it->key()));
    if (!index.ok()) return Annotate(index.status(), LogName(number, epoch, expected));
    if (*index != expected) {
      return absl::DataLossError(absl::StrCat(LogName(number, epoch, expected), " is missing; the next is ", *index));
    }
    const absl::StatusOr<LogRecord> record = DecodeLogRecord(View(it->key()), View(it->value()));
    if (!record.ok()) return Annotate(record.status(), LogName(number, epoch, expected));
    RETURN_IF_ERROR(visit(*record));
  }
  return FromRocksDb(it->status(), LogName(number, epoch, expected));
}

absl::StatusOr<std::optional<LogRecord>> Storage::LastLogRecord(uint64_t number, uint64_t epoch) {
  const std::string begin = EpochKey(number, epoch), end = EpochKey(number, epoch + 1);
  const rocksdb::Slice begin_slice(begin), end_slice(end);
  std::unique_ptr<rocksdb::Iterator> it = database_->Range(database_->log, &begin_slice, &end_slice);
  it->SeekToLast();
  const std::string name = absl::StrCat("last log record of session number ", number, ", epoch ", epoch);
  RETURN_IF_ERROR(FromRocksDb(it->status(), name));
  if (!it->Valid()) return std::nullopt;
  absl::StatusOr<LogRecord> record = DecodeLogRecord(View(it->key()), View(it->value()));
  if (!record.ok()) return Annotate(record.status(), name);
  return *std::move(record);
}

int64_t Storage::LogBytes(uint64_t number) {
  const std::string begin = SessionKey(number), end = SessionKey(number + 1);
  const rocksdb::Range range(begin, end);
  rocksdb::SizeApproximationOptions options;
  options.include_memtables = true;
  options.include_files = true;
  uint64_t bytes = 0;
  return database_->db->GetApproximateSizes(options, database_->log, &range, 1, &bytes).ok()
             ? static_cast<int64_t>(bytes)
             : 0;
}

absl::Status Storage::PutSnapshot(const SnapshotHeader& header, absl::string_view state) {
  if (state.size() > kMaxStateBytes) {
    return absl::InvalidArgumentError(absl::StrCat(SnapshotName(header.session_number, header.epoch, header.offset),
                                                   ": ", state.size(), " bytes; the maximum is ", kMaxStateBytes));
  }
  SnapshotHeader sized = header;
  sized.state_bytes = static_cast<int64_t>(state.size());
  const auto key = [&](SnapshotPart part) {
    return SnapshotKey(header.session_number, header.epoch, part, header.offset);
  };
  rocksdb::WriteBatch batch;
  batch.Put(database_->snapshots, key(SnapshotPart::kHeader), EncodeSnapshotHeader(sized));
  batch.Put(database_->snapshots, key(SnapshotPart::kState), EncodeSnapshotState(sized, state));
  return database_->Write(&batch);
}

absl::Status Storage::DeleteSnapshot(uint64_t number, uint64_t epoch, int64_t offset) {
  rocksdb::WriteBatch batch;
  batch.Delete(database_->snapshots, SnapshotKey(number, epoch, SnapshotPart::kHeader, offset));
  batch.Delete(database_->snapshots, SnapshotKey(number, epoch, SnapshotPart::kState, offset));
  return database_->Write(&batch);
}

absl::StatusOr<std::vector<int64_t>> Storage::ListSnapshots(uint64_t number, uint64_t epoch) {
  const std::string begin = SnapshotKey(number, epoch, SnapshotPart::kHeader, 0);
  const std::string end = SnapshotKey(number, epoch, SnapshotPart::kState, 0);
  const rocksdb::Slice begin_slice(begin), end_slice(end);
  const std::string name = absl::StrCat("snapshots of session number ", number, ", epoch ", epoch);
  std::vector<int64_t> offsets;
  std::unique_ptr<rocksdb::Iterator> it = database_->Range(database_->snapshots, &begin_slice, &end_slice);
  for (it->SeekToLast(); it->Valid(); it->Prev()) {
    const absl::StatusOr<int64_t> offset = ParseSnapshotOffset(View(it->key()));
    if (!offset.ok()) return Annotate(offset.status(), name);
    offsets.push_back(*offset);
  }
  RETURN_IF_ERROR(FromRocksDb(it->status(), name));
  return offsets;
}

absl::StatusOr<SnapshotHeader> Storage::ReadSnapshotHeader(uint64_t number, uint64_t epoch, int64_t offset) {
  const std::string name = SnapshotName(number, epoch, offset);
  const std::string key = SnapshotKey(number, epoch, SnapshotPart::kHeader, offset);
  rocksdb::PinnableSlice value;
  const rocksdb::Status status = database_->db->Get(rocksdb::ReadOptions(), database_->snapshots, key, &value);
  if (status.IsNotFound()) return absl::NotFoundError(name);
  RETURN_IF_ERROR(FromRocksDb(status, name));
  absl::StatusOr<SnapshotHeader> header = DecodeSnapshotHeader(key, View(value));
  if (!header.ok()) return Annotate(header.status(), name);
  return header;
}

absl::StatusOr<Snapshot> Storage::ReadSnapshot(uint64_t number, uint64_t epoch, int64_t offset) {
  const std::string name = SnapshotName(number, epoch, offset);
  const std::string header_key = SnapshotKey(number, epoch, SnapshotPart::kHeader, offset);
  const std::string state_key = SnapshotKey(number, epoch, SnapshotPart::kState, offset);
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  rocksdb::PinnableSlice header_value, state_value;
  const rocksdb::Status header_status = database_->db->Get(options, database_->snapshots, header_key, &header_value);
  const rocksdb::Status state_status = database_->db->Get(options, database_->snapshots, state_key, &state_value);
  if (header_status.IsNotFound() && state_status.IsNotFound()) return absl::NotFoundError(name);
  if (header_status.IsNotFound()) return absl::DataLossError(absl::StrCat(name, ": its header is missing"));
  if (state_status.IsNotFound()) return absl::DataLossError(absl::StrCat(name, ": its state is missing"));
  RETURN_IF_ERROR(FromRocksDb(header_status, name));
  RETURN_IF_ERROR(FromRocksDb(state_status, name));
  absl::StatusOr<SnapshotHeader> header = DecodeSnapshotHeader(header_key, View(header_value));
  if (!header.ok()) return Annotate(header.status(), name);
  const absl::StatusOr<absl::string_view> state = DecodeSnapshotState(*header, state_key, View(state_value));
  if (!state.ok()) return Annotate(state.status(), name);
  return Snapshot{*std::move(header), std::string(*state)};
}

}  // namespace mnemosyne
