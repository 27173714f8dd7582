#include "server/access/access_control.h"

#include <sys/stat.h>

#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/base/thread_name.h"
#include "server/log.h"

namespace mnemosyne {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(1);

// Says whether a file is another than before: also when it was replaced within a clock tick, or by a link's new target.
std::string SignatureOf(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return absl::StrCat("missing: ", std::strerror(errno));
  return absl::StrCat(info.st_dev, " ", info.st_ino, " ", info.st_size, " ", info.st_mtim.tv_sec, " ",
                      info.st_mtim.tv_nsec, " ", info.st_ctim.tv_sec, " ", info.st_ctim.tv_nsec);
}

absl::Status Unauthenticated() {
  return absl::UnauthenticatedError(
      "the call needs the header 'authorization: Bearer TOKEN' with a token of this server's");
}

}  // namespace

absl::Status Caller::Check(Role needed) const {
  if (role >= needed) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("token '", name, "' has the role ", RoleName(role), "; the call needs ", RoleName(needed)));
}

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::Start(const std::string& path) {
  std::unique_ptr<AccessControl> access = absl::WrapUnique(new AccessControl(path));
  if (path.empty()) return access;
  RETURN_IF_ERROR(access->Reload());
  access->watcher_ = std::thread([raw = access.get()] {
    NameThread("mn-access");
    raw->Watch();
  });
  return access;
}

AccessControl::~AccessControl() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (watcher_.joinable()) watcher_.join();
}

void AccessControl::Watch() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kLookEvery)) return;
    }
    const uint64_t before = generation_;
    const absl::Status status = Reload();
    if (!status.ok()) {
      Log(LogLevel::kError, "the access file is not taken; what it said before holds",
          {{"path", path_}, {"reason", std::string(status.message())}});
    } else if (generation_ != before) {
      Log(LogLevel::kInfo, "access file taken", {{"path", path_}});
    }
  }
}

absl::Status AccessControl::Reload() {
  const std::string signature = SignatureOf(path_);
  {
    absl::MutexLock lock(&mutex_);
    if (signature == signature_) return absl::OkStatus();
    signature_ = signature;
  }
  absl::StatusOr<AccessTable> table = [&]() -> absl::StatusOr<AccessTable> {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(path_));
    return AccessTable::Parse(text);
  }();
  (table.ok() ? reloads_ : failed_reloads_) += 1;
  RETURN_IF_ERROR(table.status());
  absl::MutexLock lock(&mutex_);
  table_ = *std::move(table);
  generation_ += 1;
  return absl::OkStatus();
}

Caller AccessControl::CallerOf(const AccessTable::Token& token) const {
  std::shared_ptr<TenantMeter>& meter = meters_[token.tenant];
  if (meter == nullptr) meter = std::make_shared<TenantMeter>();
  return {token.name, token.tenant, token.role, token.hash, generation_, meter};
}

absl::StatusOr<Caller> AccessControl::Identify(absl::string_view authorization) const {
  if (is_open()) return Caller();
  constexpr absl::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return Unauthenticated();
  const TokenHash hash = HashToken(absl::StripAsciiWhitespace(authorization.substr(kScheme.size())));
  absl::MutexLock lock(&mutex_);
  const AccessTable::Token* const token = table_.Find(hash);
  if (token == nullptr) return Unauthenticated();
  return CallerOf(*token);
}

absl::Status AccessControl::Renew(Caller* caller) const {
  if (is_open() || caller->generation == generation_) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  const AccessTable::Token* const token = table_.Find(caller->hash);
  if (token == nullptr || token->tenant != caller->tenant) {
    return absl::UnauthenticatedError(absl::StrCat("token '", caller->name, "' was withdrawn"));
  }
  *caller = CallerOf(*token);
  return absl::OkStatus();
}

TenantQuotas AccessControl::QuotasOf(absl::string_view tenant) const {
  absl::MutexLock lock(&mutex_);
  return table_.QuotasOf(tenant);
}

}  // namespace mnemosyne
