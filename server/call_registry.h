// The calls that are under way, so that a drain can end the streams and a shutdown can wait for the last one.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace mnemosyne {

class CallRegistry {
 public:
  using End = std::function<void(const absl::Status&)>;

  // `end` tells a call to end, and outlives the call (it holds it weakly). Empty for a call that ends by itself.
  uint64_t Add(const End& end);
  // The call's last act: nothing of it uses the engine from here on.
  void Remove(uint64_t id);
  // Ends every call that has an `end`, and those that are added from now on.
  void EndAll(const absl::Status& status);
  void AwaitNone();
  int64_t count() const;

 private:
  mutable absl::Mutex mutex_;  // guards everything below
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, End> calls_ ABSL_GUARDED_BY(mutex_);
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne
