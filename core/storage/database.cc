#include "core/storage/database.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/storage/data_folder.h"
#include "core/storage/record_codec.h"
#include "core/storage/witness.h"
#include "core/storage/write_ahead_log.h"
#include "rocksdb/cache.h"
#include "rocksdb/table.h"

namespace mnemosyne {
namespace {

// The database's own messages, in the folder's LOG; that of the time before is LOG.old. RocksDB's own logger ends the
// process when it writes once more after a write that failed, as on a full disk.
class MessageLog final : public rocksdb::Logger {
 public:
  explicit MessageLog(const std::string& path) : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {
    std::rename((path + "/LOG").c_str(), (path + "/LOG.old").c_str());
    file_.open(path + "/LOG", std::ios::app);
  }
  void Logv(const char* format, va_list arguments) override {
    char message[1000];
    std::vsnprintf(message, sizeof(message), format, arguments);
    absl::MutexLock lock(&mutex_);
    if (written_bytes_ > kMaxBytes) return;
    file_.clear();  // the disk may take it again
    const std::string line = absl::StrCat(absl::FormatTime(absl::Now(), absl::UTCTimeZone()), " ", message, "\n");
    file_ << line << std::flush;
    written_bytes_ += line.size();
  }
  using rocksdb::Logger::Logv;

 private:
  static constexpr size_t kMaxBytes = 4 << 20;
  absl::Mutex mutex_;
  std::ofstream file_ ABSL_GUARDED_BY(mutex_);
  size_t written_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

rocksdb::DBOptions DatabaseOptions(const std::string& path) {
  rocksdb::DBOptions options;
  options.info_log = std::make_shared<MessageLog>(path);
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  // A record cut short at the log's very end was never acknowledged; anything else that is wrong refuses the folder.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_bgerror_resume_count = 0;  // a write that failed is final until the folder is opened again
  // A log that was closed and is still needed must be there, whole; the witness vouches for the newest.
  options.track_and_verify_wals_in_manifest = true;
  options.max_manifest_file_size = 4 << 20;  // the witness reads it after every flush
  options.max_total_wal_size = 64 << 20;
  options.db_write_buffer_size = 48 << 20;
  options.max_background_jobs = 2;
  options.max_open_files = 512;
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
    // Sessions that take turns at memory replace their snapshots all the time: the older half of the files, or files
    // half full, would be moved again and again (a session's return took 23 to 25 ms instead of 16 to 17, and the
    // folder was as large).
    options.blob_garbage_collection_age_cutoff = 0.25;
    options.blob_garbage_collection_force_threshold = 0.8;
  }
  return options;
}

}  // namespace

absl::Status Annotate(const absl::Status& status, absl::string_view name) {
  return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, bool sync_writes) {
  ASSIGN_OR_RETURN(std::vector<std::string> families, PrepareDataFolder(path));
  for (absl::string_view family : {absl::string_view("default"), kSessionsFamily, kLogFamily, kSnapshotsFamily}) {
    if (std::find(families.begin(), families.end(), family) == families.end()) families.emplace_back(family);
  }
  const std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(32 << 20);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(families.size());
  for (const std::string& family : families) descriptors.emplace_back(family, FamilyOptions(family, cache));

  std::unique_ptr<Database> database(new Database(sync_writes));
  database->witness_ = std::make_shared<WitnessWriter>(path);
  rocksdb::DBOptions options = DatabaseOptions(path);
  GapFinder gaps;  // used while the database is opened, and not later
  options.wal_filter = &gaps;
  options.listeners = {database->witness_};
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(options, path, descriptors, &database->handles_, &db);
  if (!gaps.gap().empty()) return absl::DataLossError(absl::StrCat("data folder '", path, "': ", gaps.gap()));
  RETURN_IF_ERROR(FromRocksDb(opened, absl::StrCat("data folder '", path, "'")));
  database->db_.reset(db);
  for (rocksdb::ColumnFamilyHandle* handle : database->handles_) {
    if (handle->GetName() == kSessionsFamily) database->sessions_ = handle;
    if (handle->GetName() == kLogFamily) database->log_ = handle;
    if (handle->GetName() == kSnapshotsFamily) database->snapshots_ = handle;
  }
  RETURN_IF_ERROR(database->CheckMarker(path));
  database->witness_->Write().IgnoreError();
  return database;
}

Database::~Database() {
  if (db_ != nullptr) witness_->Write().IgnoreError();
  for (rocksdb::ColumnFamilyHandle* handle : handles_) db_->DestroyColumnFamilyHandle(handle);
}

// Puts the marker into a new folder; checks it in any other.
absl::Status Database::CheckMarker(const std::string& path) {
  std::string marker;
  const rocksdb::Slice key = Slice(kFormatKey);
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), key, &marker);
  if (status.ok()) {
    const absl::Status checked = CheckFolderFormat(marker);
    return checked.ok() ? checked : Annotate(checked, absl::StrCat("data folder '", path, "'"));
  }
  if (!status.IsNotFound()) return FromRocksDb(status, absl::StrCat("data folder '", path, "'"));
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions(), handle));
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

absl::Status Database::Failed(const rocksdb::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (write_failure_.ok()) {
    write_failure_ = absl::UnavailableError(
        absl::StrCat("storage takes no writes until it is opened again, since one failed: ", status.ToString()));
  }
  return write_failure_;
}

absl::Status Database::write_failure() const {
  absl::MutexLock lock(&mutex_);
  return write_failure_;
}

absl::Status Database::Write(rocksdb::WriteBatch* batch) {
  RETURN_IF_ERROR(write_failure());
  rocksdb::WriteOptions options;
  options.sync = sync_writes_;
  const rocksdb::Status status = db_->Write(options, batch);
  return status.ok() ? absl::OkStatus() : Failed(status);
}

absl::Status Database::Flush() {
  RETURN_IF_ERROR(write_failure());
  const rocksdb::Status status = db_->Flush(rocksdb::FlushOptions(), handles_);
  return status.ok() ? absl::OkStatus() : Failed(status);
}

absl::Status Database::Rewrite(rocksdb::ColumnFamilyHandle* family, const rocksdb::Slice* begin,
                               const rocksdb::Slice* end) {
  RETURN_IF_ERROR(write_failure());
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
  options.blob_garbage_collection_age_cutoff = 1.0;
  const rocksdb::Status status = db_->CompactRange(options, family, begin, end);
  return status.ok() ? absl::OkStatus() : Failed(status);
}

int64_t Database::StoredBytes() const {
  int64_t total = 0;
  for (rocksdb::ColumnFamilyHandle* const family : handles_) {
    for (const std::string& property :
         {rocksdb::DB::Properties::kTotalSstFilesSize, rocksdb::DB::Properties::kTotalBlobFileSize}) {
      uint64_t bytes = 0;
      if (db_->GetIntProperty(family, property, &bytes)) total += static_cast<int64_t>(bytes);
    }
  }
  return total;
}

absl::StatusOr<std::string> Database::Get(rocksdb::ColumnFamilyHandle* family, absl::string_view key,
                                          absl::string_view name) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  std::string value;
  const rocksdb::Status status = db_->Get(options, family, Slice(key), &value);
  if (status.IsNotFound()) return absl::NotFoundError(name);
  RETURN_IF_ERROR(FromRocksDb(status, name));
  return value;
}

std::unique_ptr<rocksdb::Iterator> Database::Range(rocksdb::ColumnFamilyHandle* family, const rocksdb::Slice* begin,
                                                   const rocksdb::Slice* end, const rocksdb::Snapshot* view) {
  rocksdb::ReadOptions options;
  options.iterate_lower_bound = begin;
  options.iterate_upper_bound = end;
  options.fill_cache = false;
  options.snapshot = view;
  return std::unique_ptr<rocksdb::Iterator>(db_->NewIterator(options, family));
}

}  // namespace mnemosyne
