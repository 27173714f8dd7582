#include "core/storage/data_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/storage/witness.h"
#include "core/storage/write_ahead_log.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"

namespace mnemosyne {
namespace {

absl::Status FromErrno(const std::string& path, int error) {
  const std::string message = absl::StrCat("data folder '", path, "': ", std::strerror(error));
  if (error == EACCES || error == EPERM || error == EROFS) return absl::PermissionDeniedError(message);
  if (error == ENOTDIR) return absl::FailedPreconditionError(message);
  return absl::UnavailableError(message);
}

absl::Status NotADataFolder(const std::string& path, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("'", path, "' is no data folder: ", why));
}

// The new folder's own name must outlive a power failure too.
absl::Status SyncParent(const std::string& path) {
  std::filesystem::path parent = std::filesystem::absolute(path).lexically_normal();
  if (!parent.has_filename()) parent = parent.parent_path();  // "data/"
  const int descriptor = open(parent.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return FromErrno(path, errno);
  const int error = fsync(descriptor) == 0 ? 0 : errno;
  close(descriptor);
  return error == 0 ? absl::OkStatus() : FromErrno(path, error);
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) return FromErrno(path, error.value());
  if (faccessat(AT_FDCWD, path.c_str(), R_OK | W_OK | X_OK, AT_EACCESS) != 0) return FromErrno(path, errno);
  return made ? SyncParent(path) : absl::OkStatus();
}

// A database without CURRENT is one whose creation a crash cut short (nothing was stored yet), or a damaged one.
absl::Status CheckUnfinished(const std::string& path) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string name = entry.path().filename();
    if (name == "lost+found") continue;  // a disk's own root
    if (absl::EndsWith(name, ".sst") || absl::EndsWith(name, ".blob") || absl::EndsWith(name, ".log")) {
      return absl::DataLossError(absl::StrCat("data folder '", path, "': it has ", name, " but no CURRENT"));
    }
    const bool from_creation = name == "LOCK" || name == "IDENTITY" || name == "LOG" ||
                               absl::StartsWith(name, "LOG.old.") || absl::StartsWith(name, "MANIFEST-") ||
                               absl::StartsWith(name, "OPTIONS-") || absl::EndsWith(name, ".dbtmp");
    if (!from_creation) return NotADataFolder(path, absl::StrCat("it has '", name, "'"));
  }
  return error ? FromErrno(path, error.value()) : absl::OkStatus();
}

absl::Status CheckUnlocked(const std::string& path) {
  rocksdb::Env* env = rocksdb::Env::Default();
  rocksdb::FileLock* lock = nullptr;
  const rocksdb::Status status = env->LockFile(path + "/LOCK", &lock);
  if (status.ok()) {
    env->UnlockFile(lock);
    return absl::OkStatus();
  }
  if (absl::StrContains(status.ToString(), std::strerror(EACCES))) return FromErrno(path, EACCES);
  return absl::FailedPreconditionError(absl::StrCat("data folder '", path, "' is locked by another process"));
}

}  // namespace

absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = status.ToString();
  const std::string message = absl::StrCat(doing, ": ", text);
  if (absl::StrContains(text, std::strerror(EACCES)) || absl::StrContains(text, std::strerror(EROFS))) {
    return absl::PermissionDeniedError(message);
  }
  const bool damaged =
      status.IsCorruption() || status.IsPathNotFound() || absl::StrContains(text, std::strerror(ENOENT));
  return damaged ? absl::DataLossError(message) : absl::UnavailableError(message);
}

absl::Status ProbeFolder(const std::string& path) {
  const std::string probe = path + "/probe.dbtmp", bytes(1 << 20, 'p');  // the database deletes one that is left over
  const int descriptor = open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  int error = descriptor < 0 ? errno : 0;
  for (size_t written = 0; error == 0 && written < bytes.size();) {
    const ssize_t more = write(descriptor, bytes.data() + written, bytes.size() - written);
    if (more < 0) error = errno;
    written += more > 0 ? more : 0;
  }
  if (error == 0 && fsync(descriptor) != 0) error = errno;
  if (descriptor >= 0) close(descriptor);
  unlink(probe.c_str());
  return error == 0 ? absl::OkStatus()
                    : absl::UnavailableError(absl::StrCat("data folder '", path, "': ", std::strerror(error)));
}

absl::StatusOr<std::vector<std::string>> PrepareDataFolder(const std::string& path) {
  RETURN_IF_ERROR(MakeFolder(path));
  std::error_code error;
  const bool has_database = std::filesystem::exists(std::filesystem::path(path) / "CURRENT", error);
  if (!has_database) RETURN_IF_ERROR(CheckUnfinished(path));
  RETURN_IF_ERROR(CheckUnlocked(path));
  std::vector<std::string> families;
  if (!has_database) return families;
  RETURN_IF_ERROR(CheckWitness(path));
  RETURN_IF_ERROR(CheckWriteAheadLogs(path));

  RETURN_IF_ERROR(FromRocksDb(rocksdb::DB::ListColumnFamilies(rocksdb::DBOptions(), path, &families),
                              absl::StrCat("data folder '", path, "'")));
  // Ours has all three families, or fewer and no other when a crash cut its creation short.
  const auto is_ours = [](absl::string_view family) {
    return family == kSessionsFamily || family == kLogFamily || family == kSnapshotsFamily;
  };
  const auto ours = std::count_if(families.begin(), families.end(), is_ours);
  const auto others = static_cast<std::ptrdiff_t>(families.size()) - ours - 1;  // "default" is in every database
  if (ours < 3 && others > 0) return NotADataFolder(path, "it is another program's RocksDB");
  return families;
}

}  // namespace mnemosyne
