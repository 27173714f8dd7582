#include "server/access/audit_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/base/thread_name.h"
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
  RETURN_IF_ERROR(log->Reopen());
  log->thread_ = std::thread([raw = log.get()] {
    NameThread("mn-audit");
    raw->Work();
  });
  return log;
}

AuditLog::~AuditLog() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
  if (file_ >= 0) close(file_);
}

void AuditLog::Add(const AuditRecord& record) {
  std::string line = FormatAuditRecord(record);
  absl::MutexLock lock(&mutex_);
  if (waiting_.size() < kMostWaiting) {
    waiting_.push_back(std::move(line));
  } else {
    failures_ += 1;  // the thread says so when it can
  }
}

void AuditLog::Flush() {
  absl::MutexLock lock(&mutex_);
  const auto is_done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return waiting_.empty() && !is_writing_; };
  mutex_.Await(absl::Condition(&is_done));
}

void AuditLog::Work() {
  int64_t failed = 0;
  while (true) {
    std::deque<std::string> records;
    {
      absl::MutexLock lock(&mutex_);
      is_writing_ = false;
      const auto is_due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !waiting_.empty(); };
      mutex_.Await(absl::Condition(&is_due));
      if (waiting_.empty()) return;
      records.swap(waiting_);
      is_writing_ = true;
    }
    for (const std::string& record : records) Write(record);
    if (failures_ > failed) Complain("they came faster than the disk took them, or it refused them");
    failed = failures_;
  }
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

void AuditLog::Write(const std::string& record) {
  const absl::Time now = absl::Now();
  absl::Status status;
  if (now - looked_ >= kLookEvery) {
    looked_ = now;
    status = Reopen();
  }
  // After a record that a full disk cut, on a line of its own.
  if (file_ >= 0 && WriteAll(file_, absl::StrCat(is_cut_ ? "\n" : "", record, "\n"))) {
    is_cut_ = false;
    return;
  }
  if (status.ok()) status = absl::UnavailableError(std::strerror(errno));
  is_cut_ = true;
  failures_ += 1;
  Complain(status.message());
}

void AuditLog::Complain(absl::string_view reason) {
  const absl::Time now = absl::Now();
  if (now - complained_ < absl::Minutes(1)) return;
  complained_ = now;
  Log(LogLevel::kError, "the audit log lacks records",
      {{"path", path_}, {"reason", std::string(reason)}, {"missing", absl::StrCat(failures_.load())}});
}

}  // namespace mnemosyne
