// The one door to sessions: what the server calls, free of gRPC and of LibTorch.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Start({.data_path = "data", .models = {{"recall",
//   folder}}})); ASSIGN_OR_RETURN(std::unique_ptr<Writer> writer, engine->OpenWriter("book", {.create_if_missing =
//   true}, observer)); RETURN_IF_ERROR(writer->Append(writer->opened().next_sequence, {.kind = ContentKind::kText,
//   .bytes = "In the beginning"}));
//   ...
//   ASSIGN_OR_RETURN(std::unique_ptr<QueryHandle> query, engine->StartQuery({.session_id = "book", ...},
//   query_observer));
//
// Thread-safe. No call waits for a disk's fsync or for a model's step, except where it says so: results come to
// observers, from the engine's own threads, one call at a time for each observer. An observer must not block and may
// not call the engine's waiting calls; it is called no more once the handle it was given with is destroyed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/distribution.h"
#include "core/base/tenant.h"
#include "core/model/config.h"
#include "core/session/surprise_history.h"
#include "core/storage/records.h"

namespace mnemosyne {

// Offsets are counts of tokens since the session's beginning: accepted >= durable >= memorized.
struct Watermarks {
  int64_t accepted = 0;        // taken into the session's order
  int64_t durable = 0;         // fsynced in the log
  int64_t memorized = 0;       // in the state: a multiple of the model's block
  int64_t accepted_bytes = 0;  // content bytes (a token id counts 4) of all appends accepted
};

struct SessionInfo {
  std::string id;
  std::string model;
  std::string fingerprint;  // the model's, 32 hex digits
  uint64_t epoch = 1;       // counted up by a reset and by an erasure
  uint64_t next_sequence = 1;
  uint64_t memorized_sequence = 0;  // as in Progress; 0 of a session that is not resident
  Watermarks watermarks;
  int64_t pending_tokens = 0;  // accepted, not yet memorized
  int64_t state_bytes = 0;
  int64_t log_bytes = 0;  // approximate
  bool resident = false;  // the state is in memory
  std::map<std::string, std::string> labels;
  SessionSettings settings;
  int64_t earliest_offset = 0;  // the earliest one that a trimmed log can bring back
  absl::Time create_time, update_time;
  absl::Time expire_time = absl::InfiniteFuture();  // by its time to live
  // Crc32 of the content (text, or token ids of 4 bytes each, little-endian) of the append next_sequence - 1, if it is
  // known: a writer that comes back tells by it whether somebody else has appended.
  std::optional<uint32_t> last_append_crc;
  std::string failure;  // not empty: a step was refused as not finite; says where it stopped
};

struct ModelInfo {
  std::string name;
  std::string fingerprint;
  int64_t parameter_count = 0;
  int64_t state_bytes = 0;  // of one session
  ModelConfig config;       // vocabulary, block_tokens(), tokenizer
};

enum class ContentKind { kText, kTokenIds };
struct Content {
  ContentKind kind = ContentKind::kText;
  std::string bytes;            // kText: any cut, also inside a UTF-8 character
  std::vector<int32_t> tokens;  // kTokenIds: each in the vocabulary
};

struct Progress {
  uint64_t sequence = 0;          // last accepted; 0 before the first
  uint64_t durable_sequence = 0;  // last durable
  // Last whose tokens are in the state, but for those of a block that is not whole yet: queries read these too.
  uint64_t memorized_sequence = 0;
  Watermarks watermarks;
  std::optional<float> mean_surprise;  // over the blocks memorized since the last report
  bool flushed = false;                // answers a Flush: all accepted before it is durable, its whole blocks memorized
};

class WriterObserver {
 public:
  virtual ~WriterObserver() = default;
  // At once, but for a block behind which other whole blocks wait: within 20 ms, with what came meanwhile.
  virtual void OnProgress(const Progress& progress) = 0;
  // The backlog went under its limit again after an Append was told there is no room.
  virtual void OnRoom() = 0;
  // The seat is lost, once, and nothing comes after it. ABORTED: another writer took over, or the session was reset;
  // NOT_FOUND: it was deleted; UNAVAILABLE: the engine drains or its disk failed; FAILED_PRECONDITION: the session
  // failed.
  virtual void OnLost(const absl::Status& status) = 0;
};

// One writer's seat in a session. Destroying it gives the seat back; what was accepted stays. It does not outlive the
// engine.
class Writer {
 public:
  virtual ~Writer() = default;
  virtual const SessionInfo& opened() const = 0;  // as it was when the seat was taken
  virtual bool created() const = 0;

  // Accepts an append into the session's order, or refuses it and changes nothing. Sequences count up by one from
  // opened().next_sequence; a repeat of one already accepted is OK and not applied again.
  //   OUT_OF_RANGE: a sequence is skipped; says which is expected.   INVALID_ARGUMENT: empty, too large, a token id
  //   outside the vocabulary, text to a model without a tokenizer.   IsNoRoom(status): the backlog is full (wait for
  //   OnRoom, then repeat the call).   Any other RESOURCE_EXHAUSTED: the session's log may not grow so far.   Otherwise
  //   the status the seat was lost with.
  virtual absl::Status Append(uint64_t sequence, Content content) = 0;
  virtual absl::Status Flush() = 0;
};

// "No room now": flow control, which no client sees.
inline constexpr absl::string_view kNoRoomPayload = "mnemosyne/no-room";
inline absl::Status NoRoomError(absl::string_view message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kNoRoomPayload, absl::Cord());
  return status;
}
inline bool IsNoRoom(const absl::Status& status) { return status.GetPayload(kNoRoomPayload).has_value(); }

struct SessionOptions {  // of a session to be made
  std::string model;     // empty: the default
  std::map<std::string, std::string> labels;
  SessionSettings settings;
};

struct WriterOptions {
  bool create_if_missing = false;
  // For creation. A model that is named must be the session's, also of one that exists: FAILED_PRECONDITION.
  SessionOptions creation = {};
  bool take_over = false;  // take the seat from a writer that has it
};

enum class StopReasonKind { kEndOfAnswer, kStopString, kMaxTokens };

struct QueryOptions {
  std::string session_id;
  Content prompt;            // 1 to Limits::max_prompt_tokens tokens
  bool raw_prompt = false;   // do not put the model's question token before a text
  int32_t max_tokens = 256;  // [1, 65536]
  float temperature = 0;     // 0: greedy; else [0.01, 100]
  int32_t top_k = 0;         // 0: all
  float top_p = 1;           // (0, 1]
  uint64_t seed = 0;
  std::vector<std::string> stop;        // at most 16, 1 to 256 bytes each
  std::optional<int64_t> as_of_offset;  // answer as if nothing behind that offset had come
  bool remember = false;  // append question and answer to the session; the summary waits until they are durable
  absl::Time deadline = absl::InfiniteFuture();
};

struct QueryPiece {
  std::string text;  // valid UTF-8
  std::vector<int32_t> tokens;
  std::vector<float> log_probabilities;
};

struct QuerySummary {
  StopReasonKind stop_reason = StopReasonKind::kEndOfAnswer;
  int64_t prompt_tokens = 0;   // with the question token
  int64_t pending_tokens = 0;  // of the session, read before the prompt
  int64_t answer_tokens = 0;
  int64_t as_of_offset = 0;  // tokens of the session that the answer could know
  absl::Duration queue_time, time_to_first_token, total_time;
  std::optional<int64_t> remembered_offset;  // accepted, and durable, watermark after `remember`
};

class QueryObserver {
 public:
  virtual ~QueryObserver() = default;
  // The first token at once; tokens that come faster than every 20 ms may be told together.
  virtual void OnPiece(const QueryPiece& piece) = 0;
  virtual void OnDone(const absl::StatusOr<QuerySummary>& summary) = 0;  // last, once
};

// Destroying it cancels the query.
class QueryHandle {
 public:
  virtual ~QueryHandle() = default;
};

struct ForkOptions {
  std::string source_id, fork_id;  // an empty fork_id: one is made
  std::optional<int64_t> offset;   // unset: as it is
  // Unset: the source's.
  std::optional<std::map<std::string, std::string>> labels;
  std::optional<SessionSettings> settings;
};

struct SessionUpdate {  // unset: stays
  std::optional<std::map<std::string, std::string>> labels;
  std::optional<SessionSettings> settings;
};

struct ErasedSpan {
  SessionInfo session;
  std::vector<std::string> still_in;  // sessions that were forked from this one and have the span still
};

// A session as a stream of bytes (docs/formats/export.md), as it was when the export began. Bound to one thread at a
// time; does not outlive the engine.
class SessionExport {
 public:
  virtual ~SessionExport() = default;
  virtual const SessionInfo& session() const = 0;
  virtual absl::StatusOr<std::string> Next() = 0;  // at most 256 KiB; empty: that was all
};

// Takes such a stream. Destroyed before Finish was OK, it leaves nothing.
class SessionImport {
 public:
  virtual ~SessionImport() = default;
  // DATA_LOSS: altered, out of order or not an export. FAILED_PRECONDITION: no model with the session's fingerprint is
  // loaded, or a newer format. RESOURCE_EXHAUSTED: a limit of this server's.
  virtual absl::Status Add(absl::string_view bytes) = 0;
  virtual absl::StatusOr<SessionInfo> Finish() = 0;  // DATA_LOSS: truncated. Waits for an fsync
};

struct TenantUse {
  int64_t sessions = 0;
  int64_t resident_bytes = 0;
  int64_t stored_bytes = 0;  // approximate: the sessions' logs, and two snapshots of each
};

struct SessionPage {
  std::vector<SessionInfo> sessions;  // by id
  std::string next_id;                // empty: no more
};

struct BackupInfo {
  uint32_t id = 0;
  int64_t bytes = 0;
  absl::Time create_time;
};

// Counts since the start, and levels now: what the server exports as metrics.
struct EngineStats {
  int64_t sessions = 0, resident_sessions = 0, resident_bytes = 0, writers = 0;
  int64_t waiting_sessions = 0, running_sessions = 0, waiting_queries = 0, running_queries = 0;
  double oldest_wait_seconds = 0;              // of the sessions that wait with whole blocks
  int64_t lag_tokens = 0, max_lag_tokens = 0;  // accepted and not memorized, of resident sessions: all, the most
  int64_t stored_bytes = 0;                    // files of the data folder
  int64_t appends_total = 0, append_bytes_total = 0;
  int64_t tokens_accepted_total = 0, tokens_durable_total = 0, tokens_memorized_total = 0;
  int64_t expired_sessions_total = 0, snapshot_bytes_total = 0, evictions_total = 0;
  int64_t replayed_tokens_total = 0, failed_steps_total = 0;
  int64_t queries_total = 0, failed_queries_total = 0, prompt_tokens_total = 0, answer_tokens_total = 0;
  bool disk_failed = false;
  // Seconds, where nothing else is said.
  Distribution::Counts block_wait;      // from a session's whole block to a worker that takes it
  Distribution::Counts commit;          // of the log: the write and the fsync, for many appends
  Distribution::Counts commit_appends;  // how many
  Distribution::Counts snapshot, reload;
  Distribution::Counts query_batch;  // queries that a worker took a turn of together
  struct OfModel {
    Distribution::Counts step;      // of a block of each session in a batch
    Distribution::Counts batch;     // sessions in it
    Distribution::Counts surprise;  // mean over a block: |M(k) - v|^2
  };
  std::map<std::string, OfModel> models;
};

class Engine {
 public:
  struct ModelSource {
    std::string name;  // [A-Za-z0-9._-]{1,64}
    std::string folder;
  };
  struct Options {
    std::string data_path = "data";
    std::vector<ModelSource> models;                // the first is the default
    std::string device = "cpu";                     // a LibTorch device
    std::string weights = "float32";                // or "bfloat16", "bfloat16_products": other models
    int workers = 0;                                // 0: as many as cores on a CPU, 1 on another device
    int64_t batch_sessions = 0;                     // stepped together; 0: 1 on a CPU, 32 on another device
    int64_t max_resident_bytes = int64_t{1} << 30;  // of session states
    int64_t max_backlog_tokens = 65536;             // accepted and not memorized, a session
    int64_t max_append_bytes = int64_t{1} << 20;    // of one append's content
    int64_t max_prompt_tokens = 16384;
    int64_t max_queries = 256;   // waiting and running
    int64_t max_transfers = 64;  // exports and imports under way; each holds a state
    int64_t max_sessions = 1000000;
    int64_t max_log_bytes = int64_t{1} << 40;  // content bytes in the log, a session
    SessionSettings default_settings;          // of sessions whose creation names none
    std::string backup_path;                   // where CreateBackup writes; empty: nowhere
    int64_t snapshot_every_tokens = 262144;    // memorized since the last snapshot, a session
    // Asked whenever a session is made or comes into memory; must not wait. Empty: tenants have no limits of their own.
    std::function<TenantLimits(absl::string_view tenant)> tenant_limits;
    bool sync_writes = true;  // false: durable means handed to the operating system
  };
  // Opens the data folder and loads the models. Sessions are recovered when they are first used. INVALID_ARGUMENT names
  // an option; FAILED_PRECONDITION a data folder that is locked, newer, or made with another model of the same name.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(const Options& options);
  virtual ~Engine() = default;

  virtual const Options& options() const = 0;
  virtual const std::vector<ModelInfo>& models() const = 0;
  virtual std::string blas() const = 0;  // what the numbers run on, for the first log line

  // An empty id: one is made. ALREADY_EXISTS; INVALID_ARGUMENT for an id that is not [A-Za-z0-9._-]{1,128}, with a
  // tenant before it (core/base/tenant.h) if there are tenants, for more than 64 labels, a key that is not 1 to 63
  // bytes or a value over 255, for a setting out of its range; NOT_FOUND for the model. Waits for an fsync.
  virtual absl::StatusOr<SessionInfo> CreateSession(const std::string& id, const SessionOptions& options) = 0;
  virtual absl::StatusOr<SessionInfo> UpdateSession(const std::string& id, const SessionUpdate& update) = 0;
  // Loads the session when it is not resident, as all calls that name one do: may wait for a disk read.
  virtual absl::StatusOr<SessionInfo> GetSession(const std::string& id) = 0;
  // The tenant's sessions with every one of the labels, by id, from `from_id` on; `page_size` in [1, 1000]. Loads none:
  // watermarks of a session that was not used since the start are as in its newest snapshot.
  virtual SessionPage ListSessions(const std::map<std::string, std::string>& labels, const std::string& from_id,
                                   int page_size, absl::string_view tenant = "") = 0;
  // Of every tenant that has sessions; "" stands for the sessions without one. Looks at every session.
  virtual std::map<std::string, TenantUse> UseByTenant() const = 0;
  virtual absl::Status DeleteSession(const std::string& id) = 0;  // waits for an fsync
  // Forgets everything after `offset` (0: everything), in a new epoch; sequences go on. The writer loses its seat.
  // OUT_OF_RANGE past the accepted offset; INVALID_ARGUMENT inside a piece of text that was tokenized as one, names the
  // place before it; FAILED_PRECONDITION before what a trimmed log can bring back. Waits for an fsync.
  virtual absl::StatusOr<SessionInfo> Reset(const std::string& id, int64_t offset) = 0;
  // A session that goes on from another as it is, or as it was; takes as long for a session of any length. Errors as of
  // Reset and CreateSession. Waits for an fsync.
  virtual absl::StatusOr<SessionInfo> ForkSession(const ForkOptions& options) = 0;
  // Makes the session what it would be had it never seen the tokens [begin, end), and rewrites the files that had them.
  // The writer loses its seat; sequences go on. The tokens behind the span are memorized anew: queries wait for it.
  // OUT_OF_RANGE, INVALID_ARGUMENT, FAILED_PRECONDITION as of Reset, for either end. INTERNAL: the span is erased, and
  // the files are rewritten when the disk lets them; not to be called again.
  virtual absl::StatusOr<ErasedSpan> EraseSpan(const std::string& id, int64_t begin, int64_t end) = 0;
  // RESOURCE_EXHAUSTED when max_transfers are under way.
  virtual absl::StatusOr<std::unique_ptr<SessionExport>> ExportSession(const std::string& id) = 0;
  // An empty id, or a tenant's without a name: the exported session's name, which a stream has without its tenant.
  // ALREADY_EXISTS, also at Finish; RESOURCE_EXHAUSTED as above.
  virtual absl::StatusOr<std::unique_ptr<SessionImport>> ImportSession(const std::string& id) = 0;
  // Of all sessions as they are, into Options::backup_path. FAILED_PRECONDITION: there is none. Waits for the copy.
  virtual absl::StatusOr<BackupInfo> CreateBackup() = 0;

  // FAILED_PRECONDITION when another writer has the seat and take_over is not set, or the session failed; NOT_FOUND;
  // UNAVAILABLE while draining.
  virtual absl::StatusOr<std::unique_ptr<Writer>> OpenWriter(const std::string& id, const WriterOptions& options,
                                                             std::shared_ptr<WriterObserver> observer) = 0;

  // Answers from what the session had accepted when it was asked. INVALID_ARGUMENT names the field and its limit;
  // RESOURCE_EXHAUSTED when max_queries wait; FAILED_PRECONDITION for a session that failed.
  virtual absl::StatusOr<std::unique_ptr<QueryHandle>> StartQuery(const QueryOptions& options,
                                                                  std::shared_ptr<QueryObserver> observer) = 0;

  virtual EngineStats stats() const = 0;
  // For people who look at a server: sessions in memory, used last first, whosever they are, and the surprise of one
  // over its stream since it came into memory. Loads none.
  virtual std::vector<SessionInfo> ResidentSessions(int64_t count) const = 0;
  virtual std::vector<SurprisePoint> SurpriseOf(const std::string& id) const = 0;

  // Refuses new work with UNAVAILABLE, makes what was accepted durable and memorized, answers the queries that wait
  // (all until `deadline`), and snapshots every session that changed. Waits.
  virtual absl::Status Drain(absl::Time deadline) = 0;
};

}  // namespace mnemosyne
