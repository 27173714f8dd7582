// absl::Notification for the thread sanitizer: see mutex.h beside it.
#pragma once

#include "absl/synchronization/mutex.h"

namespace absl {
ABSL_NAMESPACE_BEGIN

class MNEMOSYNE_OURS Notification {
 public:
  void Notify() {
    MutexLock lock(&mutex_);
    notified_ = true;
  }
  bool WaitForNotificationWithTimeout(absl::Duration timeout) {
    MutexLock lock(&mutex_);
    const auto notified = [this] { return notified_; };
    return mutex_.AwaitWithTimeout(Condition(&notified), timeout);
  }

 private:
  Mutex mutex_;
  bool notified_ = false;
};

ABSL_NAMESPACE_END
}  // namespace absl
