#include "core/session/log_committer.h"

#include "absl/time/clock.h"
#include "core/base/thread_name.h"

namespace mnemosyne {

namespace {
constexpr int64_t kMaxWaitingBytes = int64_t{64} << 20;
}

LogCommitter::LogCommitter(Storage* storage, std::function<void(const absl::Status&, const std::vector<Item>&)> done)
    : storage_(storage), done_(std::move(done)), thread_([this] {
        NameThread("mn-log");
        Run();
      }) {}

LogCommitter::~LogCommitter() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void LogCommitter::Add(Item item) {
  absl::MutexLock lock(&mutex_);
  waiting_bytes_ += item.accepted.record.payload.size();
  under_way_[item.session->number()] += 1;
  waiting_.push_back(std::move(item));
}

bool LogCommitter::IsIdle() const {
  absl::MutexLock lock(&mutex_);
  return under_way_.empty();
}

bool LogCommitter::Has(uint64_t session_number) const {
  absl::MutexLock lock(&mutex_);
  return under_way_.contains(session_number);
}

bool LogCommitter::HasRoom() const {
  absl::MutexLock lock(&mutex_);
  return waiting_bytes_ < kMaxWaitingBytes;
}

LogCommitter::Stats LogCommitter::stats() const { return {seconds_.counts(), appends_.counts()}; }

void LogCommitter::Run() {
  while (true) {
    std::vector<Item> batch;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this] {
        mutex_.AssertHeld();
        return stopping_ || !waiting_.empty();
      };
      mutex_.Await(absl::Condition(&due));
      if (waiting_.empty()) return;
      batch.swap(waiting_);
      waiting_bytes_ = 0;
    }
    std::vector<LogRecord> records;
    records.reserve(batch.size());
    for (Item& item : batch) records.push_back(std::move(item.accepted.record));
    const absl::Time begin = absl::Now();
    const absl::Status status = storage_->AppendLog(records);
    seconds_.Add(absl::ToDoubleSeconds(absl::Now() - begin));
    appends_.Add(static_cast<double>(batch.size()));
    for (size_t i = 0; i < batch.size(); ++i) {  // the payload is not needed any more; the numbers are
      batch[i].accepted.record = std::move(records[i]);
      batch[i].accepted.record.payload.clear();
    }
    done_(status, batch);
    absl::MutexLock lock(&mutex_);
    for (const Item& item : batch) {
      const auto found = under_way_.find(item.session->number());
      if (--found->second == 0) under_way_.erase(found);
    }
  }
}

}  // namespace mnemosyne
