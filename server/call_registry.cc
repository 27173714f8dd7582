#include "server/call_registry.h"

#include <utility>
#include <vector>

namespace mnemosyne {

uint64_t CallRegistry::Add(const End& end) {
  absl::Status ended;
  uint64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    id = ++last_id_;
    calls_[id] = end;
    ended = ended_;
  }
  if (!ended.ok() && end != nullptr) end(ended);
  return id;
}

void CallRegistry::Remove(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  calls_.erase(id);
}

void CallRegistry::EndAll(const absl::Status& status) {
  std::vector<End> ends;
  {
    absl::MutexLock lock(&mutex_);
    ended_ = status;
    for (const auto& [id, end] : calls_) {
      if (end != nullptr) ends.push_back(end);
    }
  }
  for (const End& end : ends) end(status);
}

void CallRegistry::AwaitNone() {
  absl::MutexLock lock(&mutex_);
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return calls_.empty(); };
  mutex_.Await(absl::Condition(&none));
}

int64_t CallRegistry::count() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(calls_.size());
}

}  // namespace mnemosyne
