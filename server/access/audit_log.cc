#include "server/access/audit_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/log.h"

namespace mnemosyne {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(1);

bool IsSameFile(int file, const std::string& path) {
  struct stat open {
  }, named{};
  return fstat(file, &open) == 0 && stat(path.c_str(), &named) == 0 && open.st_dev == named.st_dev &&
         open.st_ino == named.st_ino;
}

bool WriteAll(int file, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(written);
  }
  return true;
}

}  // namespace

std::string FormatAuditRecord(const AuditRecord& record) {
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", record.time, absl::UTCTimeZone());
  line["token"] = std::string(record.token);
  line["tenant"] = std::string(record.tenant);
  line["peer"] = std::string(record.peer);
  line["method"] = std::string(record.method);
  line["session"] = std::string(record.session);
  line["code"] = absl::StatusCodeToString(record.code);
  line["seconds"] = absl::ToInt64Microseconds(record.duration) / 1e6;
  return line.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& path) {
  std::unique_ptr<AuditLog> log = absl::WrapUnique(new AuditLog(path));
  absl::MutexLock lock(&log->mutex_);
  RETURN_IF_ERROR(log->Reopen());
  return log;
}

AuditLog::~AuditLog() {
  absl::MutexLock lock(&mutex_);
  if (file_ >= 0) close(file_);
}

absl::Status AuditLog::Reopen() {
  if (file_ >= 0 && IsSameFile(file_, path_)) return absl::OkStatus();
  const int file = open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
  if (file < 0) {
    return absl::UnavailableError(absl::StrCat("cannot open the audit log '", path_, "': ", std::strerror(errno)));
  }
  if (file_ >= 0) close(file_);
  file_ = file;
  return absl::OkStatus();
}

void AuditLog::Add(const AuditRecord& record) {
  absl::MutexLock lock(&mutex_);
  // After a record that a full disk cut, on a line of its own.
  const std::string line = absl::StrCat(is_cut_ ? "\n" : "", FormatAuditRecord(record), "\n");
  absl::Status status;
  if (record.time - looked_ >= kLookEvery) {
    looked_ = record.time;
    status = Reopen();
  }
  if (file_ >= 0 && WriteAll(file_, line)) {
    is_cut_ = false;
    return;
  }
  is_cut_ = true;
  if (status.ok()) status = absl::UnavailableError(std::strerror(errno));
  failures_ += 1;
  if (record.time - complained_ < absl::Minutes(1)) return;
  complained_ = record.time;
  Log(LogLevel::kError, "the audit log lacks records",
      {{"path", path_}, {"reason", std::string(status.message())}, {"missing", absl::StrCat(failures_.load())}});
}

}  // namespace mnemosyne
