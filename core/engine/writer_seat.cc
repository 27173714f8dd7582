#include "core/engine/writer_seat.h"

#include "absl/time/clock.h"
#include "core/base/thread_name.h"

namespace mnemosyne {

namespace {
constexpr absl::Duration kSoon = absl::Milliseconds(20);
}  // namespace

bool WriterSeat::Lose(const absl::Status& status) {
  SessionHandle pin;  // given back with no lock held
  absl::MutexLock lock(&mutex_);
  if (!lost_.ok()) return false;
  lost_ = status;
  pin = std::move(session_);
  return true;
}

absl::StatusOr<bool> WriterSeat::Accept(uint64_t sequence, LogContent kind, std::string payload, bool has_room,
                                        absl::Time now, absl::FunctionRef<void(Session::Accepted)> log, bool* repeat) {
  absl::MutexLock lock(&mutex_);
  if (!lost_.ok()) return lost_;
  *repeat = sequence < session_->marks().next_sequence;
  if (*repeat) return true;
  wants_room_ = true;  // before looking, so that room made meanwhile is not missed
  absl::StatusOr<bool> taken = false;
  if (has_room) taken = session_->Accept(sequence, kind, std::move(payload), now, log);
  if (!taken.ok() || *taken) wants_room_ = false;
  return taken;
}

void WriterSeat::RequestFlush() {
  absl::MutexLock lock(&mutex_);
  if (session_) flushes_.push_back(session_->CurrentFlushPoint());
}

void WriterSeat::Tell() {
  gate_.Tell([this] {
    std::shared_ptr<Session> session;
    int flushed = 0;
    bool has_room = false;
    {
      absl::MutexLock lock(&mutex_);
      if (told_lost_) return;
      if (!lost_.ok()) {
        told_lost_ = true;
      } else {
        session = session_.shared();
        while (!flushes_.empty() && session->IsFlushed(flushes_.front())) {
          flushes_.pop_front();
          flushed += 1;
        }
        has_room = wants_room_ && session->HasRoom();
        if (has_room) wants_room_ = false;
      }
    }
    if (session == nullptr) {
      observer_->OnLost(lost());
      return;
    }
    const Session::Marks marks = session->marks();
    Progress progress;
    progress.sequence = marks.next_sequence - 1;
    progress.durable_sequence = marks.durable_sequence;
    progress.memorized_sequence = marks.memorized_sequence;
    progress.watermarks = {marks.accepted, marks.durable, marks.memorized, marks.accepted_bytes};
    progress.mean_surprise = session->TakeSurprise();
    do {
      progress.flushed = flushed > 0;
      observer_->OnProgress(progress);
      progress.mean_surprise.reset();
    } while (--flushed > 0 && !gate_.closed());
    if (has_room && !gate_.closed()) observer_->OnRoom();
  });
}

WriterNotifier::WriterNotifier()
    : thread_([this] {
        NameThread("mn-notify");
        Run();
      }) {}

WriterNotifier::~WriterNotifier() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void WriterNotifier::Mark(std::shared_ptr<WriterSeat> seat) {
  if (seat->mark.exchange(WriterSeat::Mark::kNow) == WriterSeat::Mark::kNow) return;
  absl::MutexLock lock(&mutex_);
  now_.push_back(std::move(seat));
}

void WriterNotifier::MarkSoon(std::shared_ptr<WriterSeat> seat) {
  WriterSeat::Mark none = WriterSeat::Mark::kNone;
  if (!seat->mark.compare_exchange_strong(none, WriterSeat::Mark::kSoon)) return;
  absl::MutexLock lock(&mutex_);
  if (soon_.empty()) soon_at_ = absl::Now() + kSoon;
  soon_.push_back(std::move(seat));
}

void WriterNotifier::Run() {
  std::deque<std::shared_ptr<WriterSeat>> seats;
  while (true) {
    WriterSeat::Mark mark = WriterSeat::Mark::kNow;
    {
      absl::MutexLock lock(&mutex_);
      const auto any = [this] {
        mutex_.AssertHeld();
        return stopping_ || !now_.empty() || !soon_.empty();
      };
      const auto at_once = [this] {
        mutex_.AssertHeld();
        return stopping_ || !now_.empty();
      };
      mutex_.Await(absl::Condition(&any));
      if (!soon_.empty()) mutex_.AwaitWithDeadline(absl::Condition(&at_once), soon_at_);
      if (now_.empty() && soon_.empty()) return;
      if (now_.empty() || (!soon_.empty() && absl::Now() >= soon_at_)) {
        seats.swap(soon_);
        mark = WriterSeat::Mark::kSoon;
      } else {
        seats.swap(now_);
      }
    }
    for (const std::shared_ptr<WriterSeat>& seat : seats) {
      // Before it looks: what comes later marks it again.
      WriterSeat::Mark expected = mark;
      if (seat->mark.compare_exchange_strong(expected, WriterSeat::Mark::kNone)) seat->Tell();
    }
    seats.clear();
  }
}

}  // namespace mnemosyne
