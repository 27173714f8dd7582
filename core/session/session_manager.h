// Who is resident: keeps recently used sessions in memory, within a byte budget, and brings the others back from
// storage.
//
//   ASSIGN_OR_RETURN(SessionHandle session, sessions.Acquire("book"));
//   session->marks();          // pinned until the handle dies
//
// Over the budget the session used longest ago that nobody has and that has nothing on its way is written as a snapshot
// and unloaded. A session is brought back from its newest good snapshot and the log behind it.
//
// Thread-safe. Calls that load, make or change a session wait for the disk.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "core/base/distribution.h"
#include "core/base/tenant.h"
#include "core/model/model.h"
#include "core/session/history.h"
#include "core/session/session.h"
#include "core/storage/storage.h"

namespace mnemosyne {

class SessionManager;

// Pins a session. Movable; give it back by destroying it.
class SessionHandle {
 public:
  SessionHandle() = default;
  SessionHandle(SessionHandle&& other) noexcept { *this = std::move(other); }
  SessionHandle& operator=(SessionHandle&& other) noexcept;
  ~SessionHandle() { Release(); }

  explicit operator bool() const { return session_ != nullptr; }
  Session* operator->() const { return session_.get(); }
  Session& operator*() const { return *session_; }
  const std::shared_ptr<Session>& shared() const { return session_; }
  void Release();

 private:
  friend class SessionManager;
  SessionHandle(SessionManager* manager, std::shared_ptr<Session> session)
      : manager_(manager), session_(std::move(session)) {}
  SessionManager* manager_ = nullptr;
  std::shared_ptr<Session> session_;
};

class SessionManager {
 public:
  struct Options {
    int64_t max_resident_bytes = int64_t{1} << 30;
    int64_t max_sessions = 1000000;
    Session::Limits limits;                                               // of a session whose settings name none
    std::function<TenantLimits(absl::string_view tenant)> tenant_limits;  // empty: none
  };
  struct Stats {
    int64_t sessions = 0, resident_sessions = 0, resident_bytes = 0;
    int64_t evictions = 0, replayed_tokens = 0, snapshot_bytes = 0;
    int64_t lag_tokens = 0, max_lag_tokens = 0;  // accepted and not memorized, of resident sessions: all, the most
    Distribution::Counts snapshot_seconds;       // encode and write
    Distribution::Counts reload_seconds;         // read a state and the log behind it
  };
  // storage, models: not owned. `on_load` is told of a session that has whole blocks to memorize after its replay.
  static absl::StatusOr<std::unique_ptr<SessionManager>> Create(const Options& options, Storage* storage,
                                                                std::map<std::string, const Model*> models,
                                                                std::function<void(uint64_t number)> on_load);

  // NOT_FOUND; DATA_LOSS for a damaged log; FAILED_PRECONDITION when the session's model is not loaded;
  // RESOURCE_EXHAUSTED when the budget is full of sessions that are in use.
  absl::StatusOr<SessionHandle> Acquire(const std::string& id);
  // ALREADY_EXISTS; RESOURCE_EXHAUSTED beyond max_sessions. Durable when it returns.
  absl::StatusOr<SessionHandle> CreateSession(SessionMetadata metadata);

  // Makes `fork` (its id, labels and settings are given) a session that goes on from `source` as it is, or as it was at
  // `offset`; shares the state and the log, so that it takes as long for a session of any length. What the source
  // accepted must be durable. Errors as of CreateSession, and of CheckCut.
  absl::StatusOr<SessionHandle> Fork(const SessionHandle& source, std::optional<int64_t> offset, SessionMetadata fork);

  // The session's end. Of this and the next two the caller has the only handle, gives it in, and nothing is on its way:
  // no one else gets at the session until it is done.
  absl::Status Remove(SessionHandle handle);
  // Removes the session if its time is over and nobody has it; returns its number, 0 when it stays.
  absl::StatusOr<uint64_t> RemoveExpired(const std::string& id, absl::Time now);
  absl::StatusOr<uint64_t> RemoveUnused(const std::string& id);  // the same, whatever its time

  // Makes a session of what was imported under its number: metadata, log and snapshot are in its own branch.
  absl::Status FinishImport(const SessionMetadata& metadata);
  absl::Status CheckNewId(const std::string& id) const;  // ALREADY_EXISTS
  // Forgets what comes after token `offset`, in another epoch.
  absl::Status Reset(SessionHandle handle, int64_t offset);
  // Takes the tokens [begin, end) out of the log, in another epoch. `others`: ids of the sessions that still have them,
  // since one was forked from the other. Storage::Scrub makes the files forget them too.
  absl::Status Erase(SessionHandle handle, int64_t begin, int64_t end, std::vector<std::string>* others);
  // Where Reset, Erase and Fork can cut, of what is durable: errors as of History::FindCut.
  absl::Status CheckCut(const SessionHandle& handle, int64_t offset) const;

  // Puts the session out of memory without a snapshot: the next load brings back what storage has of it. As with
  // Remove, the caller has the only handle.
  absl::Status Discard(SessionHandle handle);

  // After a write failed: opens the folder again, and makes what is known of the sessions what it says: a change whose
  // write failed may have happened. Returns ids of sessions in memory that are not what storage has, each to be
  // discarded by the caller. Until it is OK, no session can be changed.
  absl::StatusOr<std::vector<std::string>> Reopen();

  // The session's metadata as it is now.
  SessionMetadata Metadata(const std::string& id) const;
  // As it is when no change of it is being written.
  SessionMetadata SettledMetadata(const std::string& id) const;
  // UNAVAILABLE: the log is trimmed further than `metadata` says. OK: a reader made of it before has all of it.
  absl::Status CheckNotTrimmedSince(const SessionMetadata& metadata) const;
  // What `read` (metadata -> a status, or a value or status) makes of the session's past: again when a trim took
  // meanwhile what it was reading.
  template <typename Read>
  auto ReadPast(const std::string& id, const Read& read) const {
    SessionMetadata metadata = Metadata(id);
    while (true) {
      auto result = read(std::as_const(metadata));
      SessionMetadata now;
      if (!result.ok()) now = SettledMetadata(id);
      if (result.ok() || now.earliest_offset == metadata.earliest_offset) return result;
      metadata = std::move(now);
    }
  }
  // Replaces labels and settings.
  absl::Status Update(const SessionHandle& handle, const std::map<std::string, std::string>& labels,
                      const SessionSettings& settings);
  bool HasOtherPins(const SessionHandle& handle) const;

  std::shared_ptr<Session> FindResident(uint64_t number) const;
  SessionHandle PinResident(uint64_t number);  // empty: not resident
  std::vector<std::shared_ptr<Session>> Residents() const;
  std::vector<std::shared_ptr<Session>> NewestResidents(int64_t count) const;  // used last first
  struct Listed {
    SessionMetadata metadata;
    std::shared_ptr<Session> resident;  // null: not in memory
  };
  // At most `count` sessions of the tenant with all of the labels, by id, from `from_id` on.
  std::vector<Listed> List(const std::map<std::string, std::string>& labels, absl::string_view tenant,
                           const std::string& from_id, int64_t count) const;
  // All sessions' metadata, whether resident.
  std::vector<std::pair<SessionMetadata, bool>> All() const;

  // Ids of sessions whose time is over, at most `count`.
  std::vector<std::string> Expired(absl::Time now, int64_t count) const;

  // Reads on in the log for a session that has not all of it in memory, when its next block needs it. UNAVAILABLE or
  // ABORTED: not now; to be tried again. Not while the session is being changed.
  absl::Status ReadOn(Session& session) const;

  // Writes a snapshot when at least `min_tokens` were memorized since the last; drops older ones, and with
  // Retention::kTrim the log that the older of the two that stay covers. Who needs the session's room waits for it.
  absl::Status Snapshot(SessionHandle handle, int64_t min_tokens);

  Stats stats() const;

 private:
  friend class SessionHandle;
  struct Entry {
    SessionMetadata metadata;
    std::shared_ptr<Session> session;  // null: not resident
    int64_t pins = 0;
    bool busy = false;                         // being loaded, unloaded or removed: wait
    bool is_stale = false;                     // in memory it is not what storage has: to be discarded
    bool is_gone = false;                      // and storage has nothing of it
    absl::Time last_used;                      // since the start
    std::list<std::string>::iterator recency;  // resident only
  };
  SessionManager(const Options& options, Storage* storage, std::map<std::string, const Model*> models,
                 std::function<void(uint64_t)> on_load)
      : options_(options), storage_(storage), models_(std::move(models)), on_load_(std::move(on_load)) {}

  absl::StatusOr<std::shared_ptr<Session>> Load(const SessionMetadata& metadata);
  // Of the writer's append whose content the log's last record is, or what `remember` added after it.
  std::optional<uint32_t> LastAppendCrc(const SessionMetadata& metadata, LogRecord last) const;
  // `start`: where to go on from instead of the newest snapshot.
  absl::StatusOr<std::shared_ptr<Session>> Recover(const SessionMetadata& metadata, const Model& model,
                                                   std::optional<Session::Recovered> start);
  // Counts them as resident. RESOURCE_EXHAUSTED: others that are in use take the server's room, or the tenant's.
  absl::Status ReserveRoom(absl::string_view id, int64_t bytes);
  void ReturnRoom(absl::string_view id, int64_t bytes);
  TenantLimits LimitsOfTenant(absl::string_view id) const;
  Entry& NewEntry(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EraseEntry(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Settled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Session::Limits LimitsOf(const SessionSettings& settings) const;
  bool IsExpired(const Entry& entry, absl::Time now) const;
  void SetMetadata(Entry& entry, const SessionMetadata& metadata) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes `fork` (its number, id, labels and settings are given) in storage, of `source`, whose metadata is `from`, as
  // it is or was at `offset`. `start`: the state in memory, if the fork can go on from it. UNAVAILABLE: `from` is no
  // more.
  absl::StatusOr<SessionMetadata> PutFork(const Session& source, const SessionMetadata& from,
                                          std::optional<int64_t> offset, const SessionMetadata& fork,
                                          std::optional<Session::Recovered>* start);
  absl::Status Delete(const SessionMetadata& metadata);  // from storage
  absl::StatusOr<uint64_t> RemoveIf(const std::string& id, absl::FunctionRef<bool(const Entry&)> condition);
  absl::StatusOr<SessionMetadata> AddEntry(SessionMetadata metadata);  // busy; gives it a number if it has none
  // Takes the session for oneself. ABORTED: someone else has it, and for long.
  absl::Status Seize(const SessionHandle& handle);
  // Puts `next` in the place of `former`, with records of its own, and drops what nobody reads any more.
  absl::Status Switch(const SessionMetadata& former, const SessionMetadata& next, const std::vector<LogRecord>& records,
                      absl::Span<const uint64_t> scrubbed);
  // Of every branch of the session; and of those, as they are now, that are less.
  std::vector<KeptOfBranch> KeptOfAll(const SessionMetadata& metadata) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(branches_mutex_);
  std::vector<KeptOfBranch> LessKept(const std::vector<KeptOfBranch>& before) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(branches_mutex_);
  absl::Status CheckReconciled() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(branches_mutex_);
  absl::Status EndSwitch(SessionHandle handle, const SessionMetadata& next, const absl::Status& status);
  absl::Status WriteSnapshot(Session& session, int64_t min_tokens);
  absl::Status DropSnapshots(const SessionMetadata& metadata);
  absl::Status Trim(Session& session);
  void AddResident(Entry& entry, std::shared_ptr<Session> session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropResident(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  SessionHandle Pin(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unpin(const std::string& id);

  const Options options_;
  Storage* const storage_;
  const std::map<std::string, const Model*> models_;
  const std::function<void(uint64_t)> on_load_;
  // Held while a change of who reads which branch is written, before mutex_: what is dropped then nobody begins to
  // read.
  mutable absl::Mutex branches_mutex_;
  BranchTable branches_ ABSL_GUARDED_BY(branches_mutex_);
  bool is_reconciled_ ABSL_GUARDED_BY(branches_mutex_) = true;  // false: the folder may know better than we
  mutable absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  struct OfTenant {
    int64_t sessions = 0, resident_bytes = 0;
  };
  absl::flat_hash_map<std::string, OfTenant> tenants_ ABSL_GUARDED_BY(mutex_);  // those with sessions
  absl::flat_hash_map<uint64_t, std::shared_ptr<Session>> residents_ ABSL_GUARDED_BY(mutex_);
  // Sessions that are ours for moments, being unloaded or written as snapshots: their room may soon be had. And how
  // often one was done.
  int64_t settling_ ABSL_GUARDED_BY(mutex_) = 0, settled_ ABSL_GUARDED_BY(mutex_) = 0;
  std::list<std::string> recency_ ABSL_GUARDED_BY(mutex_);  // resident sessions, used longest ago first
  bool some_expire_ ABSL_GUARDED_BY(mutex_) = false;        // or did: most servers have none to look for
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  Distribution snapshot_seconds_{StageSecondsBounds()}, reload_seconds_{StageSecondsBounds()};
};

}  // namespace mnemosyne
