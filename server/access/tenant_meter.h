// How much a tenant does right now: tokens a second, and queries.
//
// Thread-safe. Time comes from the caller, so that tests need none to pass.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace mnemosyne {

class TenantMeter {
 public:
  // How long to wait until the tenant is within `tokens_per_second` again; zero: not at all. What was spent counts in
  // full, and a second's worth may be saved up.
  absl::Duration WaitTime(int64_t tokens_per_second, absl::Time now);
  void Spend(int64_t tokens);

  bool BeginQuery(int64_t max_queries);  // false: there are as many already
  void EndQuery();
  int64_t queries() const;

  void AddImporting(int64_t bytes) { importing_bytes_ += bytes; }  // of imports under way; less when they are over
  int64_t importing_bytes() const { return importing_bytes_; }

 private:
  std::atomic<int64_t> importing_bytes_ = 0;
  mutable absl::Mutex mutex_;                 // guards everything below
  double spent_ ABSL_GUARDED_BY(mutex_) = 0;  // tokens above what the rate has given since; negative: saved up
  absl::Time seen_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t queries_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne
