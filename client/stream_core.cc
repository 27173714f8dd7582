#include "client/stream_core.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/checksum.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

// What holding one append costs beside its content: tiny appends may not fill the memory.
constexpr int64_t kHeldOverheadBytes = 128;
// A writer that waits this long for acks asks for one: with some tokenizers the end of a text is not counted before
// more text follows it.
constexpr absl::Duration kAckPatience = absl::Seconds(1);

// Whether it was the connection that ended the stream, or the server asking to try again; in either case a new stream
// may go on.
bool IsBroken(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:  // ended before the writer asked for it
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:  // not by us: the server went away
      return true;
    case absl::StatusCode::kInternal:
      return absl::StrContains(status.message(), "RST_STREAM");
    case absl::StatusCode::kUnknown:
      return absl::StrContains(status.message(), "Stream removed");
    default:
      return false;
  }
}

uint32_t ContentCrc(const v1::Append& append) {
  if (append.has_text()) return Crc32(append.text());
  std::string bytes;
  for (const int32_t id : append.token_ids().ids()) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> shift));
  }
  return Crc32(bytes);
}

}  // namespace

StreamWriter::Core::Core(SharedStub stub, std::string session_id, const StreamOptions& options)
    : stub_(std::move(stub)), options_(options), session_id_(std::move(session_id)) {}

StreamWriter::Core::~Core() {
  Cancel();
  if (receiver_.joinable()) receiver_.join();
  if (sender_.joinable()) sender_.join();
}

absl::Status StreamWriter::Core::Start() {
  receiver_ = std::thread([this] { ReceiveLoop(); });
  sender_ = std::thread([this] { SendLoop(); });
  absl::MutexLock lock(&mutex_);
  while (!ever_opened_ && !final_status_) changed_.Wait(&mutex_);
  return ever_opened_ ? absl::OkStatus() : *final_status_;
}

void StreamWriter::Core::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (context_ != nullptr) context_->TryCancel();
  changed_.SignalAll();
}

// ---- The receiving thread.

void StreamWriter::Core::ReceiveLoop() {
  absl::BitGen random;
  absl::Duration backoff = options_.initial_backoff;
  absl::Time give_up = absl::InfinitePast();
  while (true) {
    const absl::Time started = absl::Now();
    bool progressed = false;
    absl::Status status = RunConnection(&progressed);
    bool may_reopen = false;
    absl::Status judged = JudgeEnd(status, &may_reopen);
    const absl::Time now = absl::Now();
    if (progressed || give_up == absl::InfinitePast() || now - started > options_.reconnect_timeout) {
      give_up = now + options_.reconnect_timeout;
      backoff = options_.initial_backoff;
    }
    // Between half of it and all of it, so that the writers of a server that went away do not come back in step.
    const absl::Duration delay = std::max(retry_after_, backoff) * absl::Uniform(random, 0.5, 1.0);
    backoff = std::min(backoff * 2, options_.max_backoff);
    if (may_reopen && now + delay > give_up) {
      may_reopen = false;
      judged = absl::UnavailableError(absl::StrCat(Name(), ": given up after ",
                                                   absl::FormatDuration(options_.reconnect_timeout),
                                                   " without progress; the last error: ", judged.message()));
    }
    if (!may_reopen) {
      absl::MutexLock lock(&mutex_);
      End(std::move(judged));
      return;
    }
    if (options_.on_reconnect != nullptr) options_.on_reconnect(judged, delay);
    absl::MutexLock lock(&mutex_);
    while (!cancelled_ && !changed_.WaitWithDeadline(&mutex_, now + delay)) {
    }
  }
}

absl::Status StreamWriter::Core::RunConnection(bool* progressed) {
  grpc::ClientContext context;
  v1::StreamRequest request;
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError(absl::StrCat(Name(), ": cancelled"));
    // Only the first opening creates a session or takes a seat: later ones go on with what was there.
    v1::Open* open = request.mutable_open();
    open->set_session_id(session_id_);
    if (!ever_opened_) {
      open->set_create_if_missing(options_.create_if_missing);
      open->set_model(options_.model);
      open->mutable_labels()->insert(options_.labels.begin(), options_.labels.end());
      ToWire(options_.settings, open->mutable_settings());
      open->set_take_over(options_.take_over);
    }
    context_ = &context;
    open_ = false;
    open_timed_out_ = false;
    open_deadline_ = absl::Now() + options_.open_timeout;
    half_closed_ = false;
    flushes_sent_ = 0;
    // A call that waits makes the channel connect as soon as the server is back; open_deadline_ bounds the wait.
    context.set_wait_for_ready(ever_opened_);
    changed_.SignalAll();
  }
  std::unique_ptr<Connection> connection = stub_->Stream(&context);
  absl::Status protocol_error;
  if (connection->Write(request)) {
    {
      absl::MutexLock lock(&mutex_);
      connection_ = connection.get();
    }
    v1::StreamResponse response;
    while (connection->Read(&response)) {
      protocol_error = OnResponse(response, progressed);
      if (!protocol_error.ok()) {
        context.TryCancel();
        break;
      }
    }
  }
  {
    absl::MutexLock lock(&mutex_);
    connection_ = nullptr;
  }
  absl::Status status = FromWire(connection->Finish());
  retry_after_ = RetryAfter(context);
  absl::MutexLock lock(&mutex_);
  while (writing_) changed_.Wait(&mutex_);
  context_ = nullptr;
  if (!protocol_error.ok()) return protocol_error;
  if (open_timed_out_) {
    return absl::UnavailableError(
        absl::StrCat("the server did not open ", Name(), " within ", absl::FormatDuration(options_.open_timeout)));
  }
  return status;
}

absl::Status StreamWriter::Core::OnResponse(const v1::StreamResponse& response, bool* progressed) {
  if (response.has_opened()) return OnOpened(response.opened());
  if (!response.has_ack()) return absl::OkStatus();  // a later version's; nothing that a writer needs
  RETURN_IF_ERROR(OnAck(response.ack()));
  *progressed = true;
  if (options_.on_progress != nullptr) {
    StreamProgress progress = this->progress();
    if (!response.ack().has_mean_surprise()) progress.mean_surprise.reset();
    options_.on_progress(progress);
  }
  return absl::OkStatus();
}

absl::Status StreamWriter::Core::OnOpened(const v1::Opened& opened) {
  SessionInfo session = FromWire(opened.session());
  absl::MutexLock lock(&mutex_);
  if (!ever_opened_) {
    session_id_ = session.session_id;
    epoch_ = session.epoch;
    next_sequence_ = session.next_sequence;
    crcs_ = {{session.next_sequence - 1, session.last_append_crc32}};
    piece_bytes_ = std::min({options_.max_message_bytes, options_.max_unacknowledged_bytes,
                             std::max<int64_t>(1, opened.max_append_bytes())});
    opening_ = {.session = std::move(session),
                .block_tokens = opened.block_tokens(),
                .max_append_bytes = opened.max_append_bytes(),
                .created = opened.created()};
    ever_opened_ = true;
    session = opening_.session;
  } else {
    const uint64_t lowest = held_.empty() ? next_sequence_ : held_.front().sequence;
    // What was there at the opening and not durable was another writer's, and nobody was told that it was kept.
    if (session.next_sequence < lowest && lowest == opening_.session.next_sequence &&
        opening_.session.watermarks.durable < opening_.session.watermarks.accepted) {
      return absl::AbortedError(absl::StrCat(Name(), ": the server lost what another writer had appended before: it ",
                                             "expects append ", session.next_sequence, ", the first here was ",
                                             lowest));
    }
    if (session.next_sequence < lowest) {
      return absl::DataLossError(absl::StrCat(Name(), ": the server lost data that it had acknowledged as durable: it ",
                                              "expects append ", session.next_sequence, ", and everything before ",
                                              lowest, " was durable"));
    }
    if (session.epoch != epoch_) {
      return absl::AbortedError(absl::StrCat(Name(), " was reset while the connection was broken: its epoch is ",
                                             session.epoch, ", it was ", epoch_));
    }
    if (session.next_sequence > next_sequence_) {
      return absl::AbortedError(absl::StrCat(Name(), ": another writer appended while the connection was broken: the ",
                                             "server expects append ", session.next_sequence, ", the next here is ",
                                             next_sequence_));
    }
    if (!IsOwnLastAppend(session)) {
      return absl::AbortedError(absl::StrCat(Name(),
                                             ": another writer appended while the connection was broken: append ",
                                             session.next_sequence - 1, " is not what was sent here"));
    }
    // Accepted over the former connection, but is it durable? An ack may never say so on its own: no watermark moves.
    if (!held_.empty() && held_.front().sequence < session.next_sequence) AskOwnFlush(0);
  }
  next_to_send_ = session.next_sequence;
  progress_.sequence = session.next_sequence - 1;  // lower than before when the server lost what was not durable
  progress_.watermarks = session.watermarks;
  open_ = true;
  changed_.SignalAll();
  return absl::OkStatus();
}

absl::Status StreamWriter::Core::OnAck(const v1::Ack& ack) {
  absl::MutexLock lock(&mutex_);
  if (!open_) return absl::InternalError(absl::StrCat(Name(), ": the server acknowledged before it opened the stream"));
  progress_.watermarks = FromWire(ack.watermarks());
  progress_.sequence = ack.sequence();
  progress_.durable_sequence = std::max(progress_.durable_sequence, ack.durable_sequence());
  progress_.memorized_sequence = std::max(progress_.memorized_sequence, ack.memorized_sequence());
  if (ack.has_mean_surprise()) progress_.mean_surprise = ack.mean_surprise();
  DropThrough(ack.durable_sequence());
  if (ack.flushed() && flushes_sent_ > 0) {
    flushed_sequence_ = std::max(flushed_sequence_, flushes_.front().covers_sequence);
    DropThrough(flushed_sequence_);
    if (flushes_.front().ticket != 0) answered_ticket_ = flushes_.front().ticket;
    flushes_.pop_front();
    --flushes_sent_;
  }
  changed_.SignalAll();
  return absl::OkStatus();
}

absl::Status StreamWriter::Core::JudgeEnd(const absl::Status& status, bool* may_reopen) {
  bool was_open;
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError(absl::StrCat(Name(), ": cancelled"));
    if (closing_ && NothingLeft() && IsBroken(status)) return absl::OkStatus();  // it was over anyway
    if (!ever_opened_) {
      if (status.ok()) return absl::InternalError(absl::StrCat(Name(), ": the server ended the stream unopened"));
      return IsBroken(status) ? absl::UnavailableError(status.message()) : status;
    }
    was_open = open_;
  }
  absl::Status judged = status;
  if (!was_open && status.code() == absl::StatusCode::kFailedPrecondition) judged = JudgeRefusal(status);
  *may_reopen = IsBroken(judged);
  if (judged.ok()) return absl::UnavailableError(absl::StrCat("the server ended the stream of ", Name()));
  return judged;
}

absl::Status StreamWriter::Core::JudgeRefusal(const absl::Status& refusal) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + options_.open_timeout));
  v1::GetSessionRequest request;
  request.set_session_id(session_id_);
  {
    absl::MutexLock lock(&mutex_);
    context_ = &context;
    if (cancelled_) context.TryCancel();
  }
  v1::GetSessionResponse response;
  const absl::Status status = FromWire(stub_->GetSession(&context, request, &response));
  absl::MutexLock lock(&mutex_);
  context_ = nullptr;
  if (!status.ok()) return IsBroken(status) ? status : refusal;
  if (response.session().has_failure()) return refusal;
  if (response.session().next_sequence() > next_sequence_ || response.session().epoch() != epoch_ ||
      !IsOwnLastAppend(FromWire(response.session()))) {
    return absl::AbortedError(absl::StrCat(Name(), ": another writer has the seat: ", refusal.message()));
  }
  return absl::UnavailableError(refusal.message());
}

// ---- The sending thread.

void StreamWriter::Core::SendLoop() {
  absl::MutexLock lock(&mutex_);
  while (!final_status_) {
    if (context_ != nullptr && !open_ && !open_timed_out_ && absl::Now() >= open_deadline_) {
      open_timed_out_ = true;
      context_->TryCancel();
    }
    const bool can_write = connection_ != nullptr && open_ && !half_closed_;
    std::shared_ptr<const v1::StreamRequest> request = can_write ? NextRequest() : nullptr;
    const bool half_close = can_write && request == nullptr && closing_ && NothingLeft();
    if (request == nullptr && !half_close) {
      const bool opening = context_ != nullptr && !open_ && !open_timed_out_;
      changed_.WaitWithDeadline(&mutex_, opening ? open_deadline_ : absl::InfiniteFuture());
      continue;
    }
    Connection* const connection = connection_;
    if (half_close) half_closed_ = true;
    writing_ = true;
    mutex_.Unlock();
    const bool written = half_close ? connection->WritesDone() : connection->Write(*request);
    mutex_.Lock();
    writing_ = false;
    if (!written && connection_ == connection) connection_ = nullptr;  // the receiving thread sees why
    changed_.SignalAll();
  }
}

std::shared_ptr<const v1::StreamRequest> StreamWriter::Core::NextRequest() {
  if (flushes_sent_ < flushes_.size() && flushes_[flushes_sent_].after_sequence < next_to_send_) {
    flushes_[flushes_sent_++].covers_sequence = next_to_send_ - 1;
    auto request = std::make_shared<v1::StreamRequest>();
    request->mutable_flush();
    return request;
  }
  if (next_to_send_ == next_sequence_) return nullptr;
  return held_[next_to_send_++ - held_.front().sequence].request;
}

// ---- The callers.

absl::Status StreamWriter::Core::Append(absl::string_view text, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(TakeTurn(deadline));
  absl::Status status;
  while (!text.empty()) {
    const absl::string_view piece = text.substr(0, piece_bytes_);
    status = WaitForRoom(piece.size(), deadline);
    if (!status.ok()) break;
    v1::StreamRequest request;
    request.mutable_append()->set_text(std::string(piece));
    Hold(std::move(request), piece.size());
    text.remove_prefix(piece.size());
  }
  appending_ = false;
  changed_.SignalAll();
  return status;
}

absl::Status StreamWriter::Core::AppendTokens(absl::Span<const int32_t> token_ids, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(TakeTurn(deadline));
  absl::Status status;
  const size_t piece_tokens = std::max<int64_t>(1, piece_bytes_ / int64_t{sizeof(int32_t)});
  while (!token_ids.empty()) {
    const absl::Span<const int32_t> piece = token_ids.subspan(0, piece_tokens);
    const int64_t bytes = piece.size() * sizeof(int32_t);
    status = WaitForRoom(bytes, deadline);
    if (!status.ok()) break;
    v1::StreamRequest request;
    request.mutable_append()->mutable_token_ids()->mutable_ids()->Add(piece.begin(), piece.end());
    Hold(std::move(request), bytes);
    token_ids.remove_prefix(piece.size());
  }
  appending_ = false;
  changed_.SignalAll();
  return status;
}

absl::Status StreamWriter::Core::Await(DeliveryLevel level, uint64_t sequence, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  if (sequence >= next_sequence_) {
    return absl::OutOfRangeError(
        absl::StrCat(Name(), ": append ", sequence, " was not made yet; the last is ", next_sequence_ - 1));
  }
  // No ack need come for what fills no block, so memorized is asked for; the others have an ack of their own.
  absl::Time patience_ends = level == DeliveryLevel::kMemorized ? absl::InfinitePast() : absl::Now() + kAckPatience;
  while (Reached(level) < sequence) {
    RETURN_IF_ERROR(EndedStatus());
    const absl::Time now = absl::Now();
    if (now >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(Name(), ": waiting for append ", sequence, " took too long"));
    }
    if (now >= patience_ends) {
      AskOwnFlush(sequence);
      patience_ends = absl::InfiniteFuture();
    }
    changed_.WaitWithDeadline(&mutex_, std::min(deadline, patience_ends));
  }
  return absl::OkStatus();
}

absl::Status StreamWriter::Core::Flush(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(EndedStatus());
  const uint64_t ticket = ++last_ticket_;
  flushes_.push_back({.after_sequence = next_sequence_ - 1, .ticket = ticket});
  changed_.SignalAll();
  while (answered_ticket_ < ticket) {
    if (final_status_) return EndedStatus();
    if (absl::Now() >= deadline) return absl::DeadlineExceededError(absl::StrCat(Name(), ": the flush took too long"));
    changed_.WaitWithDeadline(&mutex_, deadline);
  }
  return absl::OkStatus();
}

absl::Status StreamWriter::Core::Close(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  closing_ = true;
  if (!held_.empty()) AskOwnFlush(held_.back().sequence);
  changed_.SignalAll();
  while (!final_status_) {
    if (absl::Now() >= deadline) {
      cancelled_ = true;
      if (context_ != nullptr) context_->TryCancel();
      changed_.SignalAll();
      return absl::DeadlineExceededError(
          absl::StrCat(Name(), ": closing took too long; ", held_content_bytes_, " bytes are not known to be durable"));
    }
    changed_.WaitWithDeadline(&mutex_, deadline);
  }
  return *final_status_;
}

uint64_t StreamWriter::Core::appended_sequence() const {
  absl::MutexLock lock(&mutex_);
  return next_sequence_ - 1;
}

StreamProgress StreamWriter::Core::progress() const {
  absl::MutexLock lock(&mutex_);
  return progress_;
}

int64_t StreamWriter::Core::appended_bytes() const {
  absl::MutexLock lock(&mutex_);
  return appended_bytes_;
}

int64_t StreamWriter::Core::unacknowledged_bytes() const {
  absl::MutexLock lock(&mutex_);
  return held_content_bytes_;
}

// ---- With the lock held.

absl::Status StreamWriter::Core::TakeTurn(absl::Time deadline) {
  while (appending_) {
    RETURN_IF_ERROR(EndedStatus());
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(Name(), ": another thread's append took too long"));
    }
    changed_.WaitWithDeadline(&mutex_, deadline);
  }
  RETURN_IF_ERROR(EndedStatus());
  appending_ = true;
  return absl::OkStatus();
}

absl::Status StreamWriter::Core::WaitForRoom(int64_t content_bytes, absl::Time deadline) {
  absl::Time patience_ends = absl::Now() + kAckPatience;
  while (true) {
    RETURN_IF_ERROR(EndedStatus());
    const int64_t held_bytes = held_content_bytes_ + kHeldOverheadBytes * static_cast<int64_t>(held_.size());
    if (held_.empty() || held_bytes + content_bytes <= options_.max_unacknowledged_bytes) return absl::OkStatus();
    const absl::Time now = absl::Now();
    if (now >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(Name(), ": ", held_content_bytes_, " bytes wait to be durable; ",
                                                      "at most ", options_.max_unacknowledged_bytes, " may"));
    }
    if (now >= patience_ends) {
      AskOwnFlush(held_.back().sequence);
      patience_ends = absl::InfiniteFuture();
    }
    changed_.WaitWithDeadline(&mutex_, std::min(deadline, patience_ends));
  }
}

void StreamWriter::Core::Hold(v1::StreamRequest request, int64_t content_bytes) {
  request.mutable_append()->set_sequence(next_sequence_);
  crcs_.emplace_back(next_sequence_, ContentCrc(request.append()));
  held_.push_back({.sequence = next_sequence_,
                   .content_bytes = content_bytes,
                   .request = std::make_shared<const v1::StreamRequest>(std::move(request))});
  ++next_sequence_;
  held_content_bytes_ += content_bytes;
  appended_bytes_ += content_bytes;
  changed_.SignalAll();
}

void StreamWriter::Core::DropThrough(uint64_t sequence) {
  // Only what was sent: the server cannot have more.
  while (!held_.empty() && held_.front().sequence <= sequence && held_.front().sequence < next_to_send_) {
    held_content_bytes_ -= held_.front().content_bytes;
    held_.pop_front();
    crcs_.pop_front();  // the one before it; its own stays, as the last
  }
}

bool StreamWriter::Core::IsOwnLastAppend(const SessionInfo& session) const {
  if (!session.last_append_crc32) return true;
  const uint64_t last = session.next_sequence - 1, first = crcs_.front().first;
  if (last < first || last - first >= crcs_.size()) return true;  // is judged by its number
  const absl::optional<uint32_t>& own = crcs_[last - first].second;
  return !own || *own == *session.last_append_crc32;
}

void StreamWriter::Core::AskOwnFlush(uint64_t after_sequence) {
  if (after_sequence == 0) {
    if (flushes_.empty() || flushes_.front().after_sequence != 0) flushes_.push_front({});
  } else if (flushes_.empty() || flushes_.back().after_sequence < after_sequence) {
    flushes_.push_back({.after_sequence = after_sequence});
  }
  changed_.SignalAll();
}

uint64_t StreamWriter::Core::Reached(DeliveryLevel level) const {
  switch (level) {
    case DeliveryLevel::kAccepted:
      return std::max({progress_.sequence, progress_.durable_sequence, flushed_sequence_});
    case DeliveryLevel::kDurable:
      return std::max(progress_.durable_sequence, flushed_sequence_);
    case DeliveryLevel::kMemorized:
      break;
  }
  return std::max(progress_.memorized_sequence, flushed_sequence_);
}

bool StreamWriter::Core::NothingLeft() const {
  if (!held_.empty()) return false;
  return std::all_of(flushes_.begin(), flushes_.end(), [](const PendingFlush& flush) { return flush.ticket == 0; });
}

absl::Status StreamWriter::Core::EndedStatus() const {
  if (final_status_ && !final_status_->ok()) return *final_status_;
  if (final_status_ || closing_) return absl::FailedPreconditionError(absl::StrCat(Name(), ": the stream is closed"));
  return absl::OkStatus();
}

void StreamWriter::Core::End(absl::Status status) {
  final_status_ = std::move(status);
  changed_.SignalAll();
}

}  // namespace mnemosyne::client
