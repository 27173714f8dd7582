// What every call of the service is given, and what every call does first and last.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/engine/engine.h"
#include "grpcpp/grpcpp.h"
#include "server/access/access_control.h"
#include "server/access/audit_log.h"
#include "server/access/tenant_uses.h"
#include "server/blocking_calls.h"
#include "server/call_registry.h"
#include "server/conversions.h"
#include "server/metrics.h"

namespace mnemosyne {

// Trailing metadata of every UNAVAILABLE and RESOURCE_EXHAUSTED: milliseconds to wait before the call is tried again.
inline constexpr char kRetryAfterKey[] = "retry-after-ms";
inline constexpr char kTraceKey[] = "mnemosyne-trace";

// All outlive the calls: CallRegistry::AwaitNone sees to it.
struct CallEnvironment {
  Engine& engine;
  BlockingCalls& blocking;
  CallRegistry& registry;
  Metrics& metrics;
  const AccessControl& access;
  const TenantUses& tenant_uses;
  AuditLog* audit_log;                                  // null: none is kept
  absl::Duration slow_call = absl::InfiniteDuration();  // a call that takes longer is told in the log
};

// RESOURCE_EXHAUSTED of a quota, with the time after which it makes sense to try again.
absl::Status QuotaError(absl::string_view message, absl::Duration retry_after);

// One call: who makes it, of which session, since when. Thread-safe: a call may end while a message of it is at work.
class CallScope {
 public:
  // `lasts`: the call takes as long as its client likes, and is never a slow one.
  CallScope(const CallEnvironment& environment, const char* method, grpc::CallbackServerContext* context,
            bool lasts = false);

  // First: finds out who calls. UNAUTHENTICATED, PERMISSION_DENIED.
  absl::Status Admit(Role needed);
  // Again, in a call that lasts: the access file may have changed.
  absl::Status CheckStillAdmitted(Role needed);

  // The engine's id of the session that the caller calls `name`, in the caller's tenant. INVALID_ARGUMENT: it is empty,
  // or looks like one in another tenant.
  absl::StatusOr<std::string> SessionId(const std::string& name);
  // As above; an empty name asks for one to be made.
  absl::StatusOr<std::string> NewSessionId(const std::string& name);
  void NoteStage(const char* name, absl::Duration duration);  // of the call's way, for the slow log and a trace
  void NoteSession(absl::string_view id);                     // for the audit log: which one it came to be
  Caller caller() const;
  TenantQuotas quotas() const;
  absl::Status CheckStoredBytes() const;  // RESOURCE_EXHAUSTED: the tenant's sessions take as many as they may

  // Last, right before Finish, once: counts the call, tells the logs, and gives what it is finished with. A caller that
  // sent the header "mnemosyne-trace" gets one back: the stages, in milliseconds.
  grpc::Status Last(const absl::Status& status);

 private:
  const CallEnvironment environment_;
  const char* const method_;
  grpc::CallbackServerContext* const context_;  // valid until the call's OnDone
  const absl::Time begin_;
  const bool lasts_;
  mutable absl::Mutex mutex_;  // guards everything below; taken last
  Caller caller_ ABSL_GUARDED_BY(mutex_);
  std::string session_ ABSL_GUARDED_BY(mutex_);  // its name
  std::vector<std::pair<const char*, absl::Duration>> stages_ ABSL_GUARDED_BY(mutex_);
};

inline absl::Status Busy() {
  return absl::UnavailableError("the server has as many calls waiting as it may have; try again later");
}

}  // namespace mnemosyne
