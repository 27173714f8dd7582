// Who is resident: keeps recently used sessions in memory, within a byte budget, and brings the others back from
// storage.
//
//   ASSIGN_OR_RETURN(SessionHandle session, sessions.Acquire("book"));
//   session->marks();          // pinned until the handle dies
//
// Over the budget the session used longest ago that nobody has and that has nothing on its way is written as a snapshot
// and unloaded. A session is brought back from its newest good snapshot and the log behind it.
//
// Thread-safe. Acquire, Create, Snapshot, Remove and Replace wait for the disk.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/model/model.h"
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
  };
  struct Stats {
    int64_t sessions = 0, resident_sessions = 0, resident_bytes = 0;
    int64_t evictions = 0, reloads = 0, replayed_tokens = 0, snapshots = 0, snapshot_bytes = 0;
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

  // The session's end, and its beginning anew in another epoch. The caller has the only handle, gives it in, and
  // nothing is on its way: no one else gets at the session until it is done.
  absl::Status Remove(SessionHandle handle);
  // What was accepted before token `offset` stays.
  absl::Status BeginEpoch(SessionHandle handle, int64_t offset);
  // INVALID_ARGUMENT where BeginEpoch could not cut: inside a piece of text that was tokenized as one. What is not
  // durable yet is not looked at.
  absl::Status CheckCut(const Session& session, int64_t offset) const;
  bool HasOtherPins(const SessionHandle& handle) const;

  std::shared_ptr<Session> FindResident(uint64_t number) const;
  SessionHandle PinResident(uint64_t number);  // empty: not resident
  std::vector<std::shared_ptr<Session>> Residents() const;
  struct Listed {
    SessionMetadata metadata;
    std::shared_ptr<Session> resident;  // null: not in memory
  };
  // At most `count` sessions with all of the labels, by id, from `from_id` on.
  std::vector<Listed> List(const std::map<std::string, std::string>& labels, const std::string& from_id,
                           int64_t count) const;

  // Writes a snapshot when at least `min_tokens` were memorized since the last; drops all but the newest two.
  absl::Status Snapshot(Session& session, int64_t min_tokens);

  Stats stats() const;

 private:
  friend class SessionHandle;
  struct Entry {
    SessionMetadata metadata;
    std::shared_ptr<Session> session;  // null: not resident
    int64_t pins = 0;
    bool busy = false;                         // being loaded, unloaded or removed: wait
    std::list<std::string>::iterator recency;  // resident only
  };
  SessionManager(const Options& options, Storage* storage, std::map<std::string, const Model*> models,
                 std::function<void(uint64_t)> on_load)
      : options_(options), storage_(storage), models_(std::move(models)), on_load_(std::move(on_load)) {}

  absl::StatusOr<std::shared_ptr<Session>> Load(const SessionMetadata& metadata);
  absl::StatusOr<std::shared_ptr<Session>> Recover(const SessionMetadata& metadata, const Model& model);
  absl::StatusOr<Session::Recovered> RecoverState(const SessionMetadata& metadata, const Model& model);
  absl::Status ReserveRoom(int64_t bytes);  // counts them as resident
  void ReturnRoom(int64_t bytes);
  // Where the log has to be cut so that `offset` tokens stay; nullopt: it does not reach so far yet.
  struct Cut {
    uint64_t record_index = 0;
    int64_t bytes = 0;                    // of that record, that stay
    std::optional<LogContent> last_kept;  // what the last of the records that stay holds
  };
  absl::StatusOr<std::optional<Cut>> FindCut(const Session& session, int64_t offset) const;
  absl::Status CopyEpoch(const Session& session, uint64_t to_epoch, int64_t offset);
  void AddResident(Entry& entry, std::shared_ptr<Session> session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropResident(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  SessionHandle Pin(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unpin(const std::string& id);

  const Options options_;
  Storage* const storage_;
  const std::map<std::string, const Model*> models_;
  const std::function<void(uint64_t)> on_load_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, std::shared_ptr<Session>> residents_ ABSL_GUARDED_BY(mutex_);
  int64_t unloading_ ABSL_GUARDED_BY(mutex_) = 0;           // sessions
  std::list<std::string> recency_ ABSL_GUARDED_BY(mutex_);  // resident sessions, used longest ago first
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne
