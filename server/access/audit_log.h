// Who did what to which session, and how it ended: a JSON object a line, in a file that is only added to. Never what a
// session was told, asked or answered.
//
//   {"time":"2026-01-31T12:00:00.000Z","token":"acme-ingest","tenant":"acme","peer":"ipv4:10.0.0.7:40112",
//    "method":"DeleteSession","session":"book","code":"OK","seconds":0.004}
//
// The file may be moved away at any time (logrotate): within a second the next record makes it anew. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace mnemosyne {

struct AuditRecord {
  absl::Time time;
  absl::string_view token, tenant, peer, method, session;
  absl::StatusCode code = absl::StatusCode::kOk;
  absl::Duration duration;
};

std::string FormatAuditRecord(const AuditRecord& record);  // without the newline

class AuditLog {
 public:
  // UNAVAILABLE: the file cannot be opened.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& path);
  ~AuditLog();

  // A record that cannot be written is counted, and a log record says so, at most one a minute: calls go on.
  void Add(const AuditRecord& record);
  int64_t failures() const { return failures_; }

 private:
  explicit AuditLog(std::string path) : path_(std::move(path)) {}
  absl::Status Reopen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  std::atomic<int64_t> failures_ = 0;
  absl::Mutex mutex_;  // guards everything below
  int file_ ABSL_GUARDED_BY(mutex_) = -1;
  bool is_cut_ ABSL_GUARDED_BY(mutex_) = false;  // the last record may have been written in part
  absl::Time looked_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time complained_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace mnemosyne
