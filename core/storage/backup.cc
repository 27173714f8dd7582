// Backups of a data folder, by RocksDB's backup engine.
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/storage/data_folder.h"
#include "core/storage/database.h"
#include "core/storage/storage.h"
#include "rocksdb/utilities/backup_engine.h"

namespace mnemosyne {

namespace {

StorageBackup ToStorageBackup(const rocksdb::BackupInfo& info) {
  return {info.backup_id, static_cast<int64_t>(info.size), absl::FromUnixSeconds(info.timestamp)};
}

absl::StatusOr<std::unique_ptr<rocksdb::BackupEngineReadOnly>> OpenBackups(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat("backup folder '", path, "' does not exist"));
  }
  rocksdb::BackupEngineReadOnly* engine = nullptr;
  const rocksdb::Status status =
      rocksdb::BackupEngineReadOnly::Open(rocksdb::BackupEngineOptions(path), rocksdb::Env::Default(), &engine);
  RETURN_IF_ERROR(FromRocksDb(status, absl::StrCat("backup folder '", path, "'")));
  return std::unique_ptr<rocksdb::BackupEngineReadOnly>(engine);
}

}  // namespace

absl::StatusOr<StorageBackup> Storage::CreateBackup(const std::string& backup_path) {
  absl::MutexLock lock(&backup_mutex_);
  ASSIGN_OR_RETURN(const std::shared_ptr<Database> database, Use());
  const std::string name = absl::StrCat("backup folder '", backup_path, "'");
  rocksdb::BackupEngineOptions options(backup_path);
  options.share_table_files = true;
  options.sync = true;
  rocksdb::BackupEngine* opened = nullptr;
  RETURN_IF_ERROR(FromRocksDb(rocksdb::BackupEngine::Open(options, rocksdb::Env::Default(), &opened), name));
  const std::unique_ptr<rocksdb::BackupEngine> engine(opened);
  rocksdb::CreateBackupOptions create;
  create.flush_before_backup = true;
  rocksdb::BackupID id = 0;
  RETURN_IF_ERROR(FromRocksDb(engine->CreateNewBackup(create, &database->db(), &id), name));
  rocksdb::BackupInfo info;
  RETURN_IF_ERROR(FromRocksDb(engine->GetBackupInfo(id, &info), name));
  return ToStorageBackup(info);
}

absl::StatusOr<std::vector<StorageBackup>> Storage::ListBackups(const std::string& backup_path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<rocksdb::BackupEngineReadOnly> engine, OpenBackups(backup_path));
  std::vector<rocksdb::BackupInfo> infos;
  engine->GetBackupInfo(&infos);
  std::vector<StorageBackup> backups;
  for (const rocksdb::BackupInfo& info : infos) backups.push_back(ToStorageBackup(info));
  return backups;
}

absl::Status Storage::RestoreBackup(const std::string& backup_path, uint32_t id, const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<StorageBackup> backups, ListBackups(backup_path));
  if (backups.empty()) return absl::NotFoundError(absl::StrCat("backup folder '", backup_path, "' has no backup"));
  if (id == 0) id = backups.back().id;
  std::error_code error;
  if (std::filesystem::exists(path, error) && !std::filesystem::is_empty(path, error)) {
    return absl::FailedPreconditionError(absl::StrCat("'", path, "' is there and not empty"));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<rocksdb::BackupEngineReadOnly> engine, OpenBackups(backup_path));
  const std::string name = absl::StrCat("backup ", id, " in '", backup_path, "'");
  const rocksdb::Status verified = engine->VerifyBackup(id, /*verify_with_checksum=*/true);
  if (verified.IsNotFound() && !verified.IsPathNotFound()) return absl::NotFoundError(name);
  RETURN_IF_ERROR(FromRocksDb(verified, name));
  return FromRocksDb(engine->RestoreDBFromBackup(id, path, path), name);
}

}  // namespace mnemosyne
