#include "server/access/tenant_meter.h"

#include <algorithm>
#include <limits>

namespace mnemosyne {

absl::Duration TenantMeter::WaitTime(int64_t tokens_per_second, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (tokens_per_second == std::numeric_limits<int64_t>::max()) {
    spent_ = 0;
    seen_ = now;
    return absl::ZeroDuration();
  }
  const double rate = static_cast<double>(tokens_per_second);
  if (seen_ != absl::InfinitePast()) spent_ -= rate * std::max(0.0, absl::ToDoubleSeconds(now - seen_));
  spent_ = std::max(spent_, -rate);
  seen_ = now;
  if (spent_ < 0 || (spent_ == 0 && rate > 0)) return absl::ZeroDuration();
  return rate > 0 ? absl::Seconds(spent_ / rate) : absl::InfiniteDuration();
}

void TenantMeter::Spend(int64_t tokens) {
  absl::MutexLock lock(&mutex_);
  spent_ += static_cast<double>(tokens);
}

bool TenantMeter::BeginQuery(int64_t max_queries) {
  absl::MutexLock lock(&mutex_);
  if (queries_ >= max_queries) return false;
  queries_ += 1;
  return true;
}

void TenantMeter::EndQuery() {
  absl::MutexLock lock(&mutex_);
  queries_ -= 1;
}

int64_t TenantMeter::queries() const {
  absl::MutexLock lock(&mutex_);
  return queries_;
}

}  // namespace mnemosyne
