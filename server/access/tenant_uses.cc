#include "server/access/tenant_uses.h"

#include "core/base/thread_name.h"

namespace mnemosyne {

TenantUses::TenantUses(const Engine& engine, bool is_needed) : engine_(engine) {
  if (is_needed) {
    looker_ = std::thread([this] {
      NameThread("mn-tenants");
      Look();
    });
  }
}

TenantUses::~TenantUses() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (looker_.joinable()) looker_.join();
}

void TenantUses::Look() {
  while (true) {
    const std::map<std::string, TenantUse> uses = engine_.UseByTenant();
    absl::MutexLock lock(&mutex_);
    uses_ = {uses.begin(), uses.end()};
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kLookEvery)) return;
  }
}

TenantUse TenantUses::Of(absl::string_view tenant) const {
  absl::MutexLock lock(&mutex_);
  const auto found = uses_.find(tenant);
  return found == uses_.end() ? TenantUse() : found->second;
}

std::map<std::string, TenantUse, std::less<>> TenantUses::All() const {
  absl::MutexLock lock(&mutex_);
  return uses_;
}

}  // namespace mnemosyne
