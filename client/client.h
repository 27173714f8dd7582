// A client of a Mnemosyne server.
//
//   ASSIGN_OR_RETURN(auto client, Client::Connect("127.0.0.1:50051", {}));
//   ASSIGN_OR_RETURN(auto writer, client->OpenStream("book", {}));         // creates the session when it is missing
//   RETURN_IF_ERROR(writer->Append("The key is under the third stone. "));
//   RETURN_IF_ERROR(writer->Close());
//   client->Query("book", "Where is the key?", {}, [](const QueryDelta& delta) { std::cout << delta.text; });
//
// Thread-safe: calls may run side by side, and each blocks until it is answered. Errors carry the server's code and
// message; UNAVAILABLE also when the server cannot be reached. StreamWriter has thread rules of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "client/session_info.h"
#include "client/stream_writer.h"

namespace mnemosyne::client {

using Labels = std::map<std::string, std::string>;

// What is unset is left to the server; memory_service.proto has the ranges and the defaults.
struct QueryOptions {
  absl::optional<int32_t> max_tokens;
  absl::optional<float> temperature;  // 0: greedy
  absl::optional<int32_t> top_k;
  absl::optional<float> top_p;
  absl::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool remember = false;                 // append the question and the answer to the session afterwards
  bool raw_prompt = false;               // without the model's question token
  absl::optional<int64_t> as_of_offset;  // as if nothing behind that offset had come; not with `remember`
  absl::Time deadline = absl::InfiniteFuture();
};

// A piece of an answer. The text may lag behind the tokens; the last piece brings the rest.
struct QueryDelta {
  std::string text;  // whole UTF-8 characters
  std::vector<int32_t> token_ids;
  std::vector<float> log_probabilities;  // one for each of token_ids
};

enum class StopReason { kUnspecified, kEndOfAnswer, kStopString, kMaxTokens };

struct QuerySummary {
  StopReason stop_reason = StopReason::kUnspecified;
  int64_t prompt_tokens = 0;
  int64_t pending_tokens = 0;  // of the session, read before the prompt
  int64_t answer_tokens = 0;
  absl::Duration queue_time;
  absl::Duration time_to_first_token;
  absl::Duration total_time;
  int64_t as_of_offset = 0;                   // tokens of the session that the answer knows
  absl::optional<int64_t> remembered_offset;  // with QueryOptions::remember
};

struct ForkOptions {
  absl::optional<int64_t> offset;  // tokens of the session that the fork has; unset: all
  Labels labels;                   // none: the session's
  // With any of them set, the others are the server's defaults; with none they are the session's.
  SessionSettings settings;
};

struct SessionUpdate {  // what is unset stays
  absl::optional<Labels> labels;
  SessionSettings settings;
};

struct ErasedSpan {
  SessionInfo session;                // offsets behind the span are lower by its length
  std::vector<std::string> still_in;  // sessions that share the log by a fork, and have tokens of the span still
};

struct BackupInfo {
  uint32_t backup_id = 0;  // counted up from 1 in its folder
  int64_t bytes = 0;       // of its files, those shared with other backups among them
  absl::Time create_time;
};

// What a connection by TLS needs. Contents of PEM files, not their names.
struct Tls {
  std::string root_certificates;  // of who may sign the server's; empty: what the system trusts
  std::string certificate, key;   // the client's own, for a server that asks for one
};

class Client {
 public:
  struct Options {
    absl::optional<Tls> tls;  // unset: in the clear
    std::string token;        // goes with every call; empty: none
    absl::Duration connect_timeout = absl::Seconds(5);
    absl::Duration call_timeout = absl::InfiniteDuration();  // for every call but Query, streams, exports and imports
    // How often an idle connection is checked. The server must permit pings this often.
    absl::Duration keepalive_time = absl::InfiniteDuration();
  };

  // `target`: HOST:PORT, or any gRPC target name. UNAVAILABLE: no connection within connect_timeout.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& target, const Options& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // An empty id: the server chooses one. An empty model: the server's only one.
  absl::StatusOr<SessionInfo> CreateSession(absl::string_view session_id, absl::string_view model = "",
                                            const Labels& labels = {}, const SessionSettings& settings = {});
  // INVALID_ARGUMENT: nothing to change.
  absl::StatusOr<SessionInfo> UpdateSession(absl::string_view session_id, const SessionUpdate& update);
  // A session that goes on from another as it is, or was. An empty fork_id: the server chooses one.
  absl::StatusOr<SessionInfo> ForkSession(absl::string_view session_id, absl::string_view fork_id,
                                          const ForkOptions& options = {});
  // The session as if it had never seen the tokens [begin, end). Returns when they are out of the server's files.
  absl::StatusOr<ErasedSpan> EraseSpan(absl::string_view session_id, int64_t begin, int64_t end);
  absl::StatusOr<SessionInfo> GetSession(absl::string_view session_id);
  // Every session that has all of these labels, in the order of their ids.
  absl::StatusOr<std::vector<SessionInfo>> ListSessions(const Labels& labels = {});
  absl::Status DeleteSession(absl::string_view session_id);
  // Keeps the first `offset` tokens; 0: to empty.
  absl::StatusOr<SessionInfo> Reset(absl::string_view session_id, int64_t offset = 0);
  absl::StatusOr<std::vector<ModelInfo>> ListModels();

  // Gives the session whole to `sink`, in order, a part at a time, in the calling thread (docs/formats/export.md). An
  // error of the sink's ends the export and is the result.
  absl::Status ExportSession(absl::string_view session_id, const std::function<absl::Status(absl::string_view)>& sink);
  // Makes a session of what an export gave. `source` gives the next bytes, empty at the end; its error ends the import,
  // which leaves nothing, and is the result. An empty id: the one that it was exported with.
  absl::StatusOr<SessionInfo> ImportSession(absl::string_view session_id,
                                            const std::function<absl::StatusOr<std::string>()>& source);

  // Copies the server's data folder into its backup folder. FAILED_PRECONDITION: it has none.
  absl::StatusOr<BackupInfo> CreateBackup();

  // Calls `on_delta` (may be empty) in the calling thread for every piece of the answer.
  absl::StatusOr<QuerySummary> Query(absl::string_view session_id, absl::string_view prompt,
                                     const QueryOptions& options,
                                     const std::function<void(const QueryDelta&)>& on_delta);
  absl::StatusOr<QuerySummary> QueryTokens(absl::string_view session_id, absl::Span<const int32_t> prompt,
                                           const QueryOptions& options,
                                           const std::function<void(const QueryDelta&)>& on_delta);

  // Returns once the server has opened the stream. It is not tried twice: FAILED_PRECONDITION when another stream has
  // the writer's seat and take_over is not set, or the session's memory has stopped.
  absl::StatusOr<std::unique_ptr<StreamWriter>> OpenStream(absl::string_view session_id, const StreamOptions& options);

  // Ends every call under way with CANCELLED, and every later one. Streams have a Cancel of their own.
  void Cancel();

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace mnemosyne::client
