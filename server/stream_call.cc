#include "server/stream_call.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

class StreamCall::Observer final : public WriterObserver {
 public:
  explicit Observer(std::weak_ptr<StreamCall> call) : call_(std::move(call)) {}

  void OnProgress(const Progress& progress) override {
    const std::shared_ptr<StreamCall> call = call_.lock();
    if (call == nullptr) return;
    absl::MutexLock lock(&call->mutex_);
    call->Merge(progress);
    call->Advance();
  }

  void OnRoom() override {
    const std::shared_ptr<StreamCall> call = call_.lock();
    if (call == nullptr) return;
    absl::MutexLock lock(&call->mutex_);
    if (!call->waiting_for_room_) {  // the append that found no room has not come back yet
      call->room_seen_ = true;
      return;
    }
    call->waiting_for_room_ = false;
    call->environment_.blocking.Continue([call] { call->HandleAppend(); });
  }

  void OnLost(const absl::Status& status) override {
    const std::shared_ptr<StreamCall> call = call_.lock();
    if (call == nullptr) return;
    absl::MutexLock lock(&call->mutex_);
    if (!call->last_.has_value()) call->last_ = status;
    call->Advance();
  }

 private:
  const std::weak_ptr<StreamCall> call_;
};

StreamCall* StreamCall::Start(const CallEnvironment& environment, grpc::CallbackServerContext* context) {
  std::shared_ptr<StreamCall> call = absl::WrapUnique(new StreamCall(environment, context));
  call->self_ = call;
  call->registration_ = environment.registry.Add([weak = std::weak_ptr<StreamCall>(call)](const absl::Status& status) {
    if (const std::shared_ptr<StreamCall> live = weak.lock()) live->End(status);
  });
  const absl::Status admitted = call->scope_.Admit(Role::kWrite);
  absl::MutexLock lock(&call->mutex_);
  if (!admitted.ok()) {
    if (!call->last_.has_value()) call->last_ = admitted;
    call->Advance();
  } else {
    call->ReadNext();
  }
  return call.get();
}

StreamCall::StreamCall(const CallEnvironment& environment, grpc::CallbackServerContext* context)
    : environment_(environment), scope_(environment, "Stream", context, /*lasts=*/true) {}

StreamCall::~StreamCall() { environment_.registry.Remove(registration_); }

void StreamCall::OnReadDone(bool ok) {
  bool first = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!ok) {
      half_closed_ = true;
      if (!open_asked_ && !last_.has_value()) {
        last_ = absl::InvalidArgumentError("the stream ended before its first request, which is to be open");
      }
      return Advance();
    }
    first = !open_asked_;
    open_asked_ = true;
  }
  if (first) return HandleOpen();
  switch (request_.request_case()) {
    case v1::StreamRequest::kAppend:
      return HandleAppend();
    case v1::StreamRequest::kFlush:
      return HandleFlush();
    case v1::StreamRequest::kOpen:
      return End(absl::InvalidArgumentError("open is the first request of a stream, and only the first"));
    case v1::StreamRequest::REQUEST_NOT_SET:
      return End(absl::InvalidArgumentError("the request is none of open, append and flush"));
  }
}

void StreamCall::HandleOpen() {
  if (!request_.has_open()) {
    return End(absl::InvalidArgumentError("the first request of a stream is to be open"));
  }
  if (!environment_.blocking.Schedule([call = shared_from_this()] { call->OpenSession(); })) End(Busy());
}

absl::StatusOr<std::unique_ptr<Writer>> StreamCall::OpenWriter(bool* created) {
  const v1::Open& open = request_.open();
  SessionOptions creation = {.model = open.model(), .labels = LabelsOf(open.labels())};
  ASSIGN_OR_RETURN(creation.settings, SettingsOf(open.settings(), environment_.engine.options().default_settings));
  ASSIGN_OR_RETURN(std::string id, scope_.NewSessionId(open.session_id()));
  RETURN_IF_ERROR(scope_.CheckStoredBytes());
  if (open.session_id().empty()) {
    if (!open.create_if_missing()) {
      return absl::InvalidArgumentError("open.session_id is empty and create_if_missing is not set");
    }
    ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.CreateSession(id, creation));
    id = session.id;
    scope_.NoteSession(id);
    *created = true;
  }
  const WriterOptions options = {
      .create_if_missing = open.create_if_missing(), .creation = creation, .take_over = open.take_over()};
  return environment_.engine.OpenWriter(id, options, std::make_shared<Observer>(weak_from_this()));
}

void StreamCall::OpenSession() {
  {
    absl::MutexLock lock(&mutex_);
    if (last_.has_value()) return;  // ended while it waited for a thread
  }
  bool created = false;
  absl::StatusOr<std::unique_ptr<Writer>> writer = OpenWriter(&created);
  // On the wire ABORTED is a seat that was had and lost; one that another has is a precondition.
  if (absl::IsAborted(writer.status())) return End(absl::FailedPreconditionError(writer.status().message()));
  if (!writer.ok()) return End(writer.status());
  const SessionInfo& session = (*writer)->opened();
  int64_t block_tokens = 0;
  for (const ModelInfo& model : environment_.engine.models()) {
    if (model.name == session.model) block_tokens = model.config.block_tokens();
  }
  std::shared_ptr<Writer> dropped;  // after the lock is
  absl::MutexLock lock(&mutex_);
  if (last_.has_value()) {
    dropped = *std::move(writer);
    return;
  }
  writer_ = *std::move(writer);
  meter_ = scope_.caller().meter;
  next_sequence_ = session.next_sequence;
  if (!progress_seen_) {
    latest_.sequence = session.next_sequence - 1;
    latest_.watermarks = session.watermarks;
    if (session.watermarks.durable == session.watermarks.accepted) latest_.durable_sequence = latest_.sequence;
    latest_.memorized_sequence = session.memorized_sequence;
  }
  v1::Opened& opened = *opened_.mutable_opened();
  ToProto(session, opened.mutable_session());
  opened.set_block_tokens(block_tokens);
  opened.set_max_append_bytes(environment_.engine.options().max_append_bytes);
  opened.set_created(created || writer_->created());
  opened_due_ = true;
  Advance();
  ReadNext();
}

bool StreamCall::MayAppend() {
  constexpr absl::Duration kLongestPause = absl::Seconds(10);
  absl::Status status = scope_.CheckStillAdmitted(Role::kWrite);
  if (status.ok()) status = scope_.CheckStoredBytes();
  const Caller caller = scope_.caller();
  absl::Duration pause;
  if (status.ok() && caller.meter != nullptr) {
    const int64_t rate = scope_.quotas().max_tokens_per_second;
    if (rate < std::numeric_limits<int64_t>::max()) {
      absl::MutexLock lock(&mutex_);
      is_uncounted_ = latest_.sequence < accepted_sequence_ && !last_.has_value();
      if (is_uncounted_) return false;
    }
    pause = caller.meter->WaitTime(rate, absl::Now());
    if (pause > kLongestPause) {
      status = QuotaError(absl::StrCat("tenant '", caller.tenant, "' is above its ", rate,
                                       " tokens a second (max_tokens_per_second of the tenant)"),
                          pause);
    }
  }
  if (!status.ok()) {
    End(status);
    return false;
  }
  if (pause == absl::ZeroDuration()) return true;
  absl::MutexLock lock(&mutex_);
  if (last_.has_value()) return false;
  is_slowed_ = true;
  rate_alarm_ = std::make_unique<grpc::Alarm>();  // which keeps what it calls: hence weakly
  rate_alarm_->Set(absl::ToChronoTime(absl::Now() + pause), [weak = weak_from_this()](bool) {
    const std::shared_ptr<StreamCall> call = weak.lock();
    if (call == nullptr) return;
    absl::MutexLock lock(&call->mutex_);
    call->is_slowed_ = false;
    if (!call->last_.has_value()) call->environment_.blocking.Continue([call] { call->HandleAppend(); });
  });
  return false;
}

void StreamCall::HandleAppend() {
  if (!MayAppend()) return;
  while (true) {
    const uint64_t sequence = request_.append().sequence();
    absl::StatusOr<Content> content = ContentOf(request_.append());
    if (!content.ok()) return End(content.status());
    const auto bytes = static_cast<int64_t>(content->bytes.size() + content->tokens.size());
    std::shared_ptr<Writer> writer;
    {
      absl::MutexLock lock(&mutex_);
      if (last_.has_value()) return;
      writer = writer_;
      room_seen_ = false;
      if (timed_sequence_ == 0) {
        timed_sequence_ = sequence;
        timed_since_ = absl::Now();
      }
    }
    const absl::Status status = writer->Append(sequence, *std::move(content));
    writer.reset();  // an end gives the seat back: it may not be held here
    if (!status.ok() && !IsNoRoom(status)) return End(status);

    absl::MutexLock lock(&mutex_);
    if (last_.has_value()) return;
    if (!status.ok()) {  // no room: the message stays in request_, and nothing is read
      if (room_seen_) continue;
      waiting_for_room_ = true;
      return;
    }
    if (sequence < next_sequence_) {
      ack_due_ = true;  // a repeat: nothing moves, so the engine has nothing to report
    } else {
      next_sequence_ = sequence + 1;
    }
    if (meter_ != nullptr && sequence > accepted_sequence_) {  // corrected when the engine says what it came to
      meter_->Spend(bytes);
      overcharged_ += bytes;
    }
    accepted_sequence_ = std::max(accepted_sequence_, sequence);
    Advance();
    return ReadNext();
  }
}

void StreamCall::HandleFlush() {
  if (const absl::Status admitted = scope_.CheckStillAdmitted(Role::kWrite); !admitted.ok()) return End(admitted);
  std::shared_ptr<Writer> writer;
  {
    absl::MutexLock lock(&mutex_);
    if (last_.has_value()) return;
    writer = writer_;
    ++flushes_asked_;
  }
  const absl::Status status = writer->Flush();
  writer.reset();
  if (!status.ok()) return End(status);
  absl::MutexLock lock(&mutex_);
  ReadNext();
}

void StreamCall::Merge(const Progress& progress) {
  const int64_t memorized_before = progress_seen_ ? latest_.watermarks.memorized : progress.watermarks.memorized;
  if (progress.mean_surprise.has_value()) {
    const double weight = std::max<double>(1, progress.watermarks.memorized - memorized_before);
    surprise_sum_ += *progress.mean_surprise * weight;
    surprise_weight_ += weight;
  }
  if (progress.flushed) {
    flushes_asked_ = std::max<int64_t>(0, flushes_asked_ - 1);
    ++flushes_due_;
  }
  // A byte was counted as a token, at once: also of a stream that ends before it is told how many they were.
  if (meter_ != nullptr && overcharged_ > 0 && progress.sequence >= accepted_sequence_) {
    const int64_t tokens = std::max<int64_t>(0, progress.watermarks.accepted - latest_.watermarks.accepted);
    meter_->Spend(std::min(tokens, overcharged_) - overcharged_);
    overcharged_ = 0;
  }
  if (is_uncounted_ && progress.sequence >= accepted_sequence_) {
    is_uncounted_ = false;
    environment_.blocking.Continue([call = shared_from_this()] { call->HandleAppend(); });
  }
  latest_ = progress;
  progress_seen_ = true;
  ack_due_ = true;
  if (timed_sequence_ != 0 && progress.durable_sequence >= timed_sequence_) {
    environment_.metrics.ObserveAppendToDurable(absl::Now() - timed_since_);
    timed_sequence_ = 0;
  }
}

bool StreamCall::Complete() const {
  return half_closed_ && opened_sent_ && !waiting_for_room_ && !is_slowed_ && !is_uncounted_ && flushes_asked_ == 0 &&
         latest_.durable_sequence >= accepted_sequence_;
}

void StreamCall::WriteAck() {
  response_.Clear();
  v1::Ack& ack = *response_.mutable_ack();
  ack.set_sequence(latest_.sequence);
  ack.set_durable_sequence(latest_.durable_sequence);
  ack.set_memorized_sequence(latest_.memorized_sequence);
  ToProto(latest_.watermarks, ack.mutable_watermarks());
  if (surprise_weight_ > 0) ack.set_mean_surprise(static_cast<float>(surprise_sum_ / surprise_weight_));
  surprise_sum_ = surprise_weight_ = 0;
  if (flushes_due_ > 0) {
    ack.set_flushed(true);
    --flushes_due_;
  }
  ack_due_ = flushes_due_ > 0;
  write_in_flight_ = true;
  StartWrite(&response_);
}

void StreamCall::Advance() {
  if (last_.has_value() && writer_ != nullptr && !giving_back_) {
    giving_back_ = true;
    environment_.blocking.Continue([call = shared_from_this()] { call->GiveSeatBack(); });
  }
  if (last_.has_value() && is_slowed_) rate_alarm_->Cancel();
  if (finished_ || write_in_flight_) return;
  if (opened_due_ && !cancelled_) {
    opened_due_ = false;
    opened_sent_ = true;
    response_ = opened_;
    write_in_flight_ = true;
    return StartWrite(&response_);
  }
  if (ack_due_ && opened_sent_ && !cancelled_) return WriteAck();  // also before an error: what became durable is said
  if (!last_.has_value() && Complete()) {
    last_ = absl::OkStatus();
    return Advance();
  }
  if (!last_.has_value() || giving_back_) return;
  finished_ = true;
  Finish(scope_.Last(*last_));
}

void StreamCall::ReadNext() {
  if (!finished_ && !last_.has_value()) StartRead(&request_);
}

void StreamCall::End(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!last_.has_value()) last_ = status;
  Advance();
}

void StreamCall::GiveSeatBack() {
  std::shared_ptr<Writer> writer;
  {
    absl::MutexLock lock(&mutex_);
    writer = std::move(writer_);
  }
  writer.reset();  // without the lock, which the observer takes
  absl::MutexLock lock(&mutex_);
  giving_back_ = false;
  Advance();
}

void StreamCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  write_in_flight_ = false;
  if (!ok) {
    cancelled_ = true;
    if (!last_.has_value()) last_ = absl::CancelledError("the client is gone");
  }
  Advance();
}

void StreamCall::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
  }
  End(absl::CancelledError("the client cancelled the stream or is gone"));
}

void StreamCall::OnDone() { const std::shared_ptr<StreamCall> last_reference = std::move(self_); }

}  // namespace mnemosyne
