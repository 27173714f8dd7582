// Who is calling, and what they may do: the access file as it is now, and what its tenants have in hand.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<AccessControl> access, AccessControl::Start("access.json"));
//   ASSIGN_OR_RETURN(Caller caller, access->Identify("Bearer mn_..."));
//   RETURN_IF_ERROR(caller.Check(Role::kWrite));
//
// The file is looked at every second: one that changed takes effect, also for calls under way; one that cannot be read
// or is wrong leaves what was (and a log record says so). Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/access/access_table.h"
#include "server/access/tenant_meter.h"

namespace mnemosyne {

// Who makes a call. Without an access file: nobody in particular, of no tenant, who may do everything.
struct Caller {
  std::string name;    // the token's
  std::string tenant;  // empty: none
  Role role = Role::kAdmin;
  TokenHash hash = {};
  uint64_t generation = 0;             // of the access file that says so
  std::shared_ptr<TenantMeter> meter;  // null: of no tenant

  absl::Status Check(Role needed) const;  // PERMISSION_DENIED
};

class AccessControl {
 public:
  // An empty path: everyone may do everything. An error of reading or of AccessTable::Parse.
  static absl::StatusOr<std::unique_ptr<AccessControl>> Start(const std::string& path);
  ~AccessControl();

  bool is_open() const { return path_.empty(); }
  // `authorization`: that header's value, empty without one. UNAUTHENTICATED: none, no bearer token, or an unknown one;
  // says no more.
  absl::StatusOr<Caller> Identify(absl::string_view authorization) const;
  // Brings `caller` up to date when the file has changed since. UNAUTHENTICATED: the token is no more.
  absl::Status Renew(Caller* caller) const;
  TenantQuotas QuotasOf(absl::string_view tenant) const;
  int64_t reloads(bool succeeded) const { return succeeded ? reloads_ : failed_reloads_; }

  // Looks at the file now. The error of a file that changed and is not taken.
  absl::Status Reload();

 private:
  explicit AccessControl(std::string path) : path_(std::move(path)) {}
  Caller CallerOf(const AccessTable::Token& token) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Watch();

  const std::string path_;
  std::atomic<uint64_t> generation_ = 0;  // counted up by every file that is taken
  std::atomic<int64_t> reloads_ = 0, failed_reloads_ = 0;
  mutable absl::Mutex mutex_;  // guards everything below
  AccessTable table_ ABSL_GUARDED_BY(mutex_);
  std::string signature_ ABSL_GUARDED_BY(mutex_);  // of the file that was last looked at
  mutable std::map<std::string, std::shared_ptr<TenantMeter>, std::less<>> meters_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watcher_;  // last: it uses the members above
};

}  // namespace mnemosyne
