// Writes to one session, exactly once and in order, over connections that may break.
//
//   ASSIGN_OR_RETURN(auto writer, client->OpenStream("book", {}));
//   RETURN_IF_ERROR(writer->Append(text));    // any size, cut anywhere
//   RETURN_IF_ERROR(writer->Await(DeliveryLevel::kDurable));
//   RETURN_IF_ERROR(writer->Flush());         // durable, and every whole block memorized
//   RETURN_IF_ERROR(writer->Close());
//
// What is appended is kept in memory until the server says that it is durable. When the connection breaks, the writer
// reconnects, is told where to go on and sends again exactly what the server does not have.
//
// Thread-safe; an Append is never mixed with another thread's. Each writer has two threads of its own. The callbacks
// run on one of them: they must not call Append, Await, Flush or Close. Any number of threads may wait at once, each
// for what it likes, while others append. A writer may outlive its client.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "client/session_info.h"

namespace mnemosyne::client {

// How far an append has come. Each level has the ones before it.
enum class DeliveryLevel {
  kAccepted,   // in the session's order; a crash of the server may lose it, then this writer sends it again
  kDurable,    // outlives a crash
  kMemorized,  // in the state, but for the last tokens that make no whole block, which queries read besides
};

// What the server said last.
struct StreamProgress {
  Watermarks watermarks;
  uint64_t sequence = 0;                // appends up to here are accepted
  uint64_t durable_sequence = 0;        // appends up to here are durable
  uint64_t memorized_sequence = 0;      // appends up to here are memorized, as DeliveryLevel says
  absl::optional<float> mean_surprise;  // of the blocks memorized since the progress before; unset: none were
};

struct StreamOptions {
  bool create_if_missing = true;
  std::string model;                          // of a session that is created; empty where the server has just one
  std::map<std::string, std::string> labels;  // of a session that is created
  SessionSettings settings;                   // of a session that is created
  bool take_over = false;                     // take the writer's seat from the stream that has it
  int64_t max_unacknowledged_bytes = int64_t{4} << 20;   // content that is not known to be durable; at least 1
  int64_t max_message_bytes = int64_t{256} << 10;        // content of one message, and never more than the server takes
  absl::Duration open_timeout = absl::Seconds(10);       // for the server's answer, every time the stream is opened
  absl::Duration reconnect_timeout = absl::Seconds(60);  // without progress, until a broken stream is given up
  absl::Duration initial_backoff = absl::Milliseconds(100);  // doubled for each attempt
  absl::Duration max_backoff = absl::Seconds(5);
  std::function<void(const StreamProgress&)> on_progress;                           // may be empty
  std::function<void(const absl::Status& why, absl::Duration delay)> on_reconnect;  // may be empty
};

// How a stream began.
struct StreamOpening {
  SessionInfo session;           // watermarks.accepted_bytes says where a file that is being streamed goes on
  int64_t block_tokens = 0;      // tokens that the model steps by
  int64_t max_append_bytes = 0;  // the server's largest append; Append cuts by it
  bool created = false;          // this stream created the session
};

class StreamWriter {
 public:
  // Without a Close before it, what is not durable yet may be lost.
  ~StreamWriter();
  StreamWriter(const StreamWriter&) = delete;
  StreamWriter& operator=(const StreamWriter&) = delete;

  // The first opening; a reconnect does not change it.
  const StreamOpening& opened() const;

  // Returns when the writer has taken all of the text, and blocks while `max_unacknowledged_bytes` are on their way.
  // DEADLINE_EXCEEDED: the end of the text was not taken; appended_bytes() tells how much was. Any other error is the
  // end of the stream, and every later call returns it: ABORTED another stream has the seat, or the session was reset;
  // DATA_LOSS the server came back without what it had acknowledged as durable; UNAVAILABLE reconnect_timeout passed;
  // CANCELLED; or what the server answered.
  absl::Status Append(absl::string_view text, absl::Time deadline = absl::InfiniteFuture());
  absl::Status AppendTokens(absl::Span<const int32_t> token_ids, absl::Time deadline = absl::InfiniteFuture());

  // Number of the last append taken, which Await takes; opened().session.next_sequence - 1 before the first. A text
  // that is larger than a message is several appends; this is the last's.
  uint64_t appended_sequence() const;

  // Waits until the append `sequence`, or all that was appended before the call, has come to `level`. Numbers before
  // the writer's own are the session's earlier appends. OUT_OF_RANGE: a number that was not appended yet.
  // DEADLINE_EXCEEDED leaves the stream as it is; other errors as in Append.
  absl::Status Await(DeliveryLevel level, absl::Time deadline = absl::InfiniteFuture());
  absl::Status AwaitSequence(DeliveryLevel level, uint64_t sequence, absl::Time deadline = absl::InfiniteFuture());

  // Asks the server whether all that was appended before is durable and every whole block of it is memorized, and
  // waits for its word. DEADLINE_EXCEEDED leaves the stream as it is; other errors as in Append.
  absl::Status Flush(absl::Time deadline = absl::InfiniteFuture());

  // Waits until all that was appended is durable, ends the stream and returns its final status. DEADLINE_EXCEEDED
  // cancels it.
  absl::Status Close(absl::Time deadline = absl::InfiniteFuture());

  // Ends the stream now: calls that wait return CANCELLED.
  void Cancel();

  Watermarks watermarks() const;         // as of the server's last word
  StreamProgress progress() const;       // the last mean_surprise, if there was one
  int64_t appended_bytes() const;        // content that Append has taken
  int64_t unacknowledged_bytes() const;  // content that is not known to be durable

 private:
  friend class Client;
  class Core;
  explicit StreamWriter(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace mnemosyne::client
