// Who did what to which session, and how it ended: a JSON object a line, in a file that is only added to. Never what a
// session was told, asked or answered.
//
//   {"time":"2026-01-31T12:00:00.000Z","token":"acme-ingest","tenant":"acme","peer":"ipv4:10.0.0.7:40112",
//    "method":"DeleteSession","session":"book","code":"OK","seconds":0.004}
//
// The file may be moved away at any time (logrotate): within a second the next record makes it anew. A thread of the
// log's own writes: no call waits for the disk. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

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
  ~AuditLog();  // writes what waits

  // A record that cannot be written, or that finds kMostWaiting before it, is counted, and a log record says so, at
  // most one a minute: calls go on.
  static constexpr size_t kMostWaiting = 10000;
  void Add(const AuditRecord& record);
  void Flush();  // waits until all that was added is written, or counted
  int64_t failures() const { return failures_; }

 private:
  explicit AuditLog(std::string path) : path_(std::move(path)) {}
  void Work();
  void Write(const std::string& record);
  absl::Status Reopen();
  void Complain(absl::string_view reason);

  const std::string path_;
  std::atomic<int64_t> failures_ = 0;
  // The thread's, but for Open.
  int file_ = -1;
  bool is_cut_ = false;  // the last record may have been written in part
  absl::Time looked_ = absl::InfinitePast(), complained_ = absl::InfinitePast();

  absl::Mutex mutex_;  // guards everything below
  std::deque<std::string> waiting_ ABSL_GUARDED_BY(mutex_);
  bool is_writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace mnemosyne
