// What each tenant has, looked up now and then: adding it up means looking at every session.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"

namespace mnemosyne {

class TenantUses {
 public:
  static constexpr absl::Duration kLookEvery = absl::Seconds(5);
  // `engine` outlives it. Looks only where `is_needed`.
  TenantUses(const Engine& engine, bool is_needed);
  ~TenantUses();

  TenantUse Of(absl::string_view tenant) const;  // as of the last look, at most kLookEvery old
  std::map<std::string, TenantUse, std::less<>> All() const;

 private:
  void Look();

  const Engine& engine_;
  mutable absl::Mutex mutex_;  // guards everything below
  std::map<std::string, TenantUse, std::less<>> uses_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread looker_;  // last: it uses the members above
};

}  // namespace mnemosyne
