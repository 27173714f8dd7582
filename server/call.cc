#include "server/call.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/base/tenant.h"
#include "server/log.h"

namespace mnemosyne {
namespace {

constexpr absl::string_view kRetryAfterPayload = "mnemosyne/retry-after-ms";
constexpr size_t kMostShownBytes = 128;  // of a name that may be none
constexpr absl::Duration kRetryUnavailable = absl::Milliseconds(500), kRetryExhausted = absl::Seconds(1);

int64_t RetryAfterMilliseconds(const absl::Status& status) {
  if (const absl::optional<absl::Cord> given = status.GetPayload(kRetryAfterPayload)) {
    int64_t milliseconds = 0;
    if (absl::SimpleAtoi(std::string(*given), &milliseconds)) return milliseconds;
  }
  return absl::ToInt64Milliseconds(absl::IsUnavailable(status) ? kRetryUnavailable : kRetryExhausted);
}

absl::string_view AuthorizationOf(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return "";
  return {found->second.data(), found->second.size()};
}

}  // namespace

absl::Status QuotaError(absl::string_view message, absl::Duration retry_after) {
  absl::Status status = absl::ResourceExhaustedError(message);
  const absl::Duration bounded = std::min(std::max(retry_after, absl::Milliseconds(1)), absl::Hours(1));
  status.SetPayload(kRetryAfterPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(bounded))));
  return status;
}

CallScope::CallScope(const CallEnvironment& environment, const char* method, grpc::CallbackServerContext* context,
                     bool lasts)
    : environment_(environment), method_(method), context_(context), begin_(absl::Now()), lasts_(lasts) {}

absl::Status CallScope::Admit(Role needed) {
  ASSIGN_OR_RETURN(const Caller caller, environment_.access.Identify(AuthorizationOf(*context_)));
  absl::MutexLock lock(&mutex_);
  caller_ = caller;
  return caller_.Check(needed);
}

absl::Status CallScope::CheckStillAdmitted(Role needed) {
  Caller now = caller();
  const uint64_t generation = now.generation;
  RETURN_IF_ERROR(environment_.access.Renew(&now));
  if (now.generation != generation) {
    absl::MutexLock lock(&mutex_);
    caller_ = now;
  }
  return now.Check(needed);
}

absl::StatusOr<std::string> CallScope::SessionId(const std::string& name) {
  if (name.empty()) return absl::InvalidArgumentError("session_id is empty");
  return NewSessionId(name);
}

absl::StatusOr<std::string> CallScope::NewSessionId(const std::string& name) {
  const std::string shown = name.substr(0, kMostShownBytes);
  absl::MutexLock lock(&mutex_);
  if (session_.empty()) session_ = shown;
  if (name.find(kTenantSeparator) != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("session id '", shown, "' is not [A-Za-z0-9._-]{1,128}"));
  }
  return caller_.tenant.empty() ? name : absl::StrCat(caller_.tenant, std::string(1, kTenantSeparator), name);
}

void CallScope::NoteStage(const char* name, absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  stages_.emplace_back(name, duration);
}

void CallScope::NoteSession(absl::string_view id) {
  absl::MutexLock lock(&mutex_);
  session_ = std::string(SessionNameOf(id));
}

Caller CallScope::caller() const {
  absl::MutexLock lock(&mutex_);
  return caller_;
}

TenantQuotas CallScope::quotas() const { return environment_.access.QuotasOf(caller().tenant); }

absl::Status CallScope::CheckStoredBytes() const {
  const Caller now = caller();
  if (now.tenant.empty()) return absl::OkStatus();
  const int64_t most = environment_.access.QuotasOf(now.tenant).max_stored_bytes;
  const int64_t stored = environment_.tenant_uses.Of(now.tenant).stored_bytes + now.meter->importing_bytes();
  if (stored < most) return absl::OkStatus();
  return QuotaError(absl::StrCat("tenant '", now.tenant, "' stores ", stored, " bytes; its maximum is ", most,
                                 " (max_stored_bytes of the tenant)"),
                    TenantUses::kLookEvery);
}

grpc::Status CallScope::Last(const absl::Status& status) {
  const absl::Duration duration = absl::Now() - begin_;
  environment_.metrics.CountRpc(method_, status.code(), duration);
  absl::MutexLock lock(&mutex_);
  if (environment_.audit_log != nullptr) {
    environment_.audit_log->Add({.time = absl::Now(),
                                 .token = caller_.name,
                                 .tenant = caller_.tenant,
                                 .peer = context_->peer(),
                                 .method = method_,
                                 .session = session_,
                                 .code = status.code(),
                                 .duration = duration});
  }
  std::string stages;
  for (const auto& [name, time] : stages_) absl::StrAppend(&stages, name, "=", absl::ToDoubleMilliseconds(time), " ");
  absl::StrAppend(&stages, "total=", absl::ToDoubleMilliseconds(duration));
  if (context_->client_metadata().contains(kTraceKey)) context_->AddTrailingMetadata(kTraceKey, stages);
  if (duration >= environment_.slow_call && !lasts_) {
    Log(LogLevel::kWarning, "slow call",
        {{"method", method_},
         {"session", session_},
         {"code", absl::StatusCodeToString(status.code())},
         {"milliseconds", stages}});
  }
  if (absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) {
    context_->AddTrailingMetadata(kRetryAfterKey, absl::StrCat(RetryAfterMilliseconds(status)));
  }
  if (status.ok()) return grpc::Status::OK;
  return ToGrpcStatus(absl::Status(status.code(), WithoutTenant(status.message(), caller_.tenant)));
}

}  // namespace mnemosyne
