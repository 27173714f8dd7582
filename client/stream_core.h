// The inside of StreamWriter: what is held, what is sent, and the two threads that move it. Internal to client/.
//
// `held_` has every append that is not known to be durable, in the order of sequence numbers, without gaps; it ends
// just before `next_sequence_`. On a connection, `next_to_send_` runs through it; a reconnect puts that back to where
// the server says. Flushes wait in `flushes_` and are asked anew on every connection until they are answered.
//
// The receiving thread owns the connection: it opens, reads until the end, and decides whether to open another. The
// sending thread writes; while a write is under way (`writing_`) the connection is not destroyed.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "client/stream_writer.h"
#include "client/wire.h"

namespace mnemosyne::client {

class StreamWriter::Core {
 public:
  Core(SharedStub stub, std::string session_id, const StreamOptions& options);
  ~Core();

  // Starts the threads and waits for the first opening.
  absl::Status Start();

  const StreamOpening& opened() const { return opening_; }
  absl::Status Append(absl::string_view text, absl::Time deadline);
  absl::Status AppendTokens(absl::Span<const int32_t> token_ids, absl::Time deadline);
  absl::Status Await(DeliveryLevel level, uint64_t sequence, absl::Time deadline);
  absl::Status Flush(absl::Time deadline);
  absl::Status Close(absl::Time deadline);
  void Cancel();
  StreamProgress progress() const;
  uint64_t appended_sequence() const;
  int64_t appended_bytes() const;
  int64_t unacknowledged_bytes() const;

 private:
  using Connection = grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>;

  struct HeldAppend {
    uint64_t sequence = 0;
    int64_t content_bytes = 0;
    std::shared_ptr<const v1::StreamRequest> request;  // shared: an ack may drop it while it is being written
  };
  struct PendingFlush {
    uint64_t after_sequence = 0;   // goes out after this append
    uint64_t ticket = 0;           // 0: the writer's own, nobody waits for it
    uint64_t covers_sequence = 0;  // last append that was sent before it
  };

  // The receiving thread.
  void ReceiveLoop();
  absl::Status RunConnection(bool* progressed);
  absl::Status OnResponse(const v1::StreamResponse& response, bool* progressed);
  absl::Status OnOpened(const v1::Opened& opened);
  absl::Status OnAck(const v1::Ack& ack);
  // Whether a stream that ended like this may be opened again.
  absl::Status JudgeEnd(const absl::Status& status, bool* may_reopen);
  // Why a reopening was refused: OK when our own former stream still has the seat, and will lose it.
  absl::Status JudgeRefusal(const absl::Status& refusal);

  // The sending thread.
  void SendLoop();
  // The next thing to write; null when there is none.
  std::shared_ptr<const v1::StreamRequest> NextRequest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status TakeTurn(absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WaitForRoom(int64_t content_bytes, absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Hold(v1::StreamRequest request, int64_t content_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropThrough(uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False: the session's last append is not what was sent under its number.
  bool IsOwnLastAppend(const SessionInfo& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AskOwnFlush(uint64_t after_sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The last append that has come to the level.
  uint64_t Reached(DeliveryLevel level) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool NothingLeft() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status EndedStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Name() const { return "session '" + session_id_ + "'"; }

  const SharedStub stub_;
  const StreamOptions options_;
  std::string session_id_;   // the receiving thread's; the server may have chosen it
  StreamOpening opening_;    // constant once Start has returned
  int64_t piece_bytes_ = 1;  // constant once Start has returned: content of the largest message
  uint64_t epoch_ = 0;       // the receiving thread's

  mutable absl::Mutex mutex_;  // guards everything below
  absl::CondVar changed_;      // signalled whenever something below changes
  bool ever_opened_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::optional<absl::Status> final_status_ ABSL_GUARDED_BY(mutex_);

  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the call under way
  absl::Duration retry_after_;  // what the server asked for when the last stream ended; the receiving thread's
  Connection* connection_ ABSL_GUARDED_BY(mutex_) = nullptr;  // null when it may not be written to
  bool open_ ABSL_GUARDED_BY(mutex_) = false;                 // this connection's Opened came
  bool open_timed_out_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time open_deadline_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;

  std::deque<HeldAppend> held_ ABSL_GUARDED_BY(mutex_);
  // CRC-32s of the appends that may be the server's last, by sequence: the last that is known to be durable, or that
  // was there at the opening, and those held. Unset: not known.
  std::deque<std::pair<uint64_t, absl::optional<uint32_t>>> crcs_ ABSL_GUARDED_BY(mutex_);
  int64_t held_content_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // of the next Append
  uint64_t next_to_send_ ABSL_GUARDED_BY(mutex_) = 0;   // on this connection
  std::deque<PendingFlush> flushes_ ABSL_GUARDED_BY(mutex_);
  size_t flushes_sent_ ABSL_GUARDED_BY(mutex_) = 0;  // of flushes_, on this connection
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t answered_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t flushed_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // appends up to here were answered by a flush
  bool appending_ ABSL_GUARDED_BY(mutex_) = false;         // an Append has its turn
  int64_t appended_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  StreamProgress progress_ ABSL_GUARDED_BY(mutex_);

  std::thread receiver_;
  std::thread sender_;
};

}  // namespace mnemosyne::client
