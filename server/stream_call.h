// One Stream RPC: a writer's messages into the engine, the engine's progress out as acks.
//
// Back-pressure: an append for which the engine has no room is kept, and no further message is read until the engine
// has room again; HTTP/2 flow control then holds the client. So it is with a tenant that is above its tokens a second.
// Acks are coalesced: one write is in flight, and what comes in the meantime is merged into the next (the newest
// watermarks, the mean of the surprise, one ack for every flush).
//
// Threads: gRPC's, the engine's (the observer) and BlockingCalls' meet at mutex_, which is not held while the engine is
// called. The Writer is destroyed on BlockingCalls' threads, never on the engine's: its destructor may wait for them.
// It goes before the client is told that the stream ended, who can then take the seat at once. Lifetime: the call holds
// itself until OnDone; tasks hold it strongly, the observer and the registry weakly.
#pragma once

#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/alarm.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"
#include "server/call.h"

namespace mnemosyne {

class StreamCall final : public grpc::ServerBidiReactor<v1::StreamRequest, v1::StreamResponse>,
                         public std::enable_shared_from_this<StreamCall> {
 public:
  // The result belongs to itself: gRPC takes it and ends it by OnDone.
  static StreamCall* Start(const CallEnvironment& environment, grpc::CallbackServerContext* context);
  ~StreamCall() override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  class Observer;

  StreamCall(const CallEnvironment& environment, grpc::CallbackServerContext* context);

  void HandleOpen();    // the first message
  void OpenSession();   // may wait for a disk
  void HandleAppend();  // also again, when there is room
  void HandleFlush();
  void End(const absl::Status& status);
  void GiveSeatBack();  // may wait for the observer
  void ReadNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // writes what is due, or finishes
  void WriteAck() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Complete() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // half-closed, and nothing left to say
  void Merge(const Progress& progress) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::unique_ptr<Writer>> OpenWriter(bool* created);

  // Whether the append in request_ may go to the engine now. Not: the stream ends, or waits for its tenant's rate.
  bool MayAppend();

  const CallEnvironment environment_;
  CallScope scope_;                   // used by whoever has the message in request_ at hand, and at the end
  std::shared_ptr<StreamCall> self_;  // until OnDone
  uint64_t registration_ = 0;

  v1::StreamRequest request_;    // of the read in flight or the message at work: never both
  v1::StreamResponse response_;  // of the write in flight

  absl::Mutex mutex_;  // guards everything below
  std::shared_ptr<Writer> writer_ ABSL_GUARDED_BY(mutex_);
  bool giving_back_ ABSL_GUARDED_BY(mutex_) = false;  // GiveSeatBack is on its way
  bool open_asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool opened_due_ ABSL_GUARDED_BY(mutex_) = false;
  bool opened_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called: nothing may be started any more
  std::optional<absl::Status> last_ ABSL_GUARDED_BY(mutex_);
  v1::StreamResponse opened_ ABSL_GUARDED_BY(mutex_);

  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t accepted_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // highest of this stream
  bool waiting_for_room_ ABSL_GUARDED_BY(mutex_) = false;
  bool room_seen_ ABSL_GUARDED_BY(mutex_) = false;

  Progress latest_ ABSL_GUARDED_BY(mutex_);
  bool progress_seen_ ABSL_GUARDED_BY(mutex_) = false;
  bool ack_due_ ABSL_GUARDED_BY(mutex_) = false;
  double surprise_sum_ ABSL_GUARDED_BY(mutex_) = 0, surprise_weight_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t flushes_asked_ ABSL_GUARDED_BY(mutex_) = 0;  // not answered by the engine yet
  int64_t flushes_due_ ABSL_GUARDED_BY(mutex_) = 0;    // answered, not acked yet

  std::shared_ptr<TenantMeter> meter_ ABSL_GUARDED_BY(mutex_);  // that what is accepted counts for; null: none
  int64_t overcharged_ ABSL_GUARDED_BY(mutex_) = 0;             // tokens counted, until it is known how many they are
  bool is_uncounted_ ABSL_GUARDED_BY(mutex_) = false;           // an append waits for the one before it to be counted
  bool is_slowed_ ABSL_GUARDED_BY(mutex_) = false;              // one waits for rate_alarm_
  std::unique_ptr<grpc::Alarm> rate_alarm_ ABSL_GUARDED_BY(mutex_);

  uint64_t timed_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: no append is being timed
  absl::Time timed_since_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne
