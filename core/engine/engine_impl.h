// The engine: sessions, their log, the workers and the queries, wired together (docs/architecture.md).
//
// Lock order: mutex_ before a seat's or the session manager's, those before a session's, that before the committer's;
// the scheduler's comes last.
// None is held across a disk access, a model's step or an observer.
#pragma once

#include <atomic>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "core/engine/engine.h"
#include "core/engine/query_run.h"
#include "core/engine/writer_seat.h"
#include "core/execution/worker_pool.h"
#include "core/scheduling/scheduler.h"
#include "core/session/log_committer.h"
#include "core/session/session_manager.h"

namespace mnemosyne {

// Content as the log keeps it.
struct LoggedContent {
  LogContent kind = LogContent::kText;
  std::string payload;
};
LoggedContent ToLog(Content content);

// Its methods are in engine_impl.cc (start, workers, snapshots, end), engine_sessions.cc, engine_writers.cc and
// engine_queries.cc; exports and imports in engine_transfers.cc.
class EngineImpl final : public Engine {
 public:
  static absl::StatusOr<std::unique_ptr<EngineImpl>> Start(const Options& options);
  ~EngineImpl() override;

  const Options& options() const override { return options_; }
  const std::vector<ModelInfo>& models() const override { return model_infos_; }
  std::string blas() const override { return BlasDescription(); }
  absl::StatusOr<SessionInfo> CreateSession(const std::string& id, const SessionOptions& options) override;
  absl::StatusOr<SessionInfo> UpdateSession(const std::string& id, const SessionUpdate& update) override;
  absl::StatusOr<SessionInfo> GetSession(const std::string& id) override;
  SessionPage ListSessions(const std::map<std::string, std::string>& labels, const std::string& from_id, int page_size,
                           absl::string_view tenant) override;
  std::map<std::string, TenantUse> UseByTenant() const override;
  absl::Status DeleteSession(const std::string& id) override;
  absl::StatusOr<SessionInfo> Reset(const std::string& id, int64_t offset) override;
  absl::StatusOr<SessionInfo> ForkSession(const ForkOptions& options) override;
  absl::StatusOr<ErasedSpan> EraseSpan(const std::string& id, int64_t begin, int64_t end) override;
  absl::StatusOr<std::unique_ptr<SessionExport>> ExportSession(const std::string& id) override;
  absl::StatusOr<std::unique_ptr<SessionImport>> ImportSession(const std::string& id) override;
  absl::StatusOr<BackupInfo> CreateBackup() override;
  absl::StatusOr<std::unique_ptr<Writer>> OpenWriter(const std::string& id, const WriterOptions& options,
                                                     std::shared_ptr<WriterObserver> observer) override;
  absl::StatusOr<std::unique_ptr<QueryHandle>> StartQuery(const QueryOptions& options,
                                                          std::shared_ptr<QueryObserver> observer) override;
  EngineStats stats() const override;
  std::vector<SessionInfo> ResidentSessions(int64_t count) const override;
  std::vector<SurprisePoint> SurpriseOf(const std::string& id) const override;
  absl::Status Drain(absl::Time deadline) override;

  // For writers.
  absl::Status Append(const std::shared_ptr<WriterSeat>& seat, uint64_t sequence, Content content);
  absl::Status Flush(const std::shared_ptr<WriterSeat>& seat);
  void CloseWriter(const std::shared_ptr<WriterSeat>& seat);
  // For query handles.
  void CancelQuery(const std::shared_ptr<QueryRun>& query);

 private:
  class Import;  // in engine_transfers.cc
  explicit EngineImpl(const Options& options) : options_(options) {}
  absl::Status Initialize();
  absl::StatusOr<SessionMetadata> NewMetadata(const std::string& id, const SessionOptions& options) const;
  absl::StatusOr<SessionHandle> CreateHandle(const std::string& id, const SessionOptions& options);
  absl::Status CheckTakingWork() const;
  absl::Status CheckOffset(const SessionHandle& handle, int64_t offset) const;  // [0, accepted]
  absl::Status AwaitDurable(const Session& session) const;                      // all that it has accepted
  SessionInfo Describe(const SessionHandle& handle) const;
  // After a change that is done: also when there is no room for the session in memory.
  absl::StatusOr<SessionInfo> DescribeChanged(const std::string& id);
  SessionInfo Describe(const SessionMetadata& metadata, const Session* session) const;

  void Ready(uint64_t number);  // the session has a whole block
  void Committed(const absl::Status& status, const std::vector<LogCommitter::Item>& items);
  void RunWork(const Work& work);
  struct DueBlock;
  std::optional<DueBlock> TakeBlock(uint64_t number);
  void StepSessions(absl::Span<const uint64_t> numbers);
  void EndBlock(const DueBlock& due, const BlockResult& result);
  void RunQueries(const std::vector<QueryId>& ids);
  void EndTurn(const std::shared_ptr<QueryRun>& query, std::optional<QueryRun::End> end);
  void EnqueueQuery(const std::shared_ptr<QueryRun>& query);
  void StopQuery(const std::shared_ptr<QueryRun>& query, const absl::Status& reason);
  void EndQuery(const std::shared_ptr<QueryRun>& query, const absl::StatusOr<QuerySummary>& summary);
  // `remember`: adds question and answer to the session's log. EndRemembered ends the queries whose content is durable
  // up to `durable`, or all of the session's with an error.
  absl::StatusOr<QuerySummary> Remember(QueryRun& query, QuerySummary summary);
  void EndRemembered(uint64_t number, int64_t durable, const absl::Status& status);
  std::shared_ptr<QueryRun> FindQuery(uint64_t id) const;

  void MarkWriter(uint64_t number, bool is_urgent);
  void LoseWriter(uint64_t number, const absl::Status& status);
  // Ends everyone's business with the session and waits until nothing of it is on its way.
  absl::Status Isolate(const SessionHandle& handle, const absl::Status& reason);
  // Isolates the session, and lets others at it again after `change`.
  absl::Status ChangeAlone(SessionHandle handle, const absl::Status& reason,
                           absl::FunctionRef<absl::Status(SessionHandle)> change);
  struct Past {
    Session::ForkPoint point;
    std::unique_ptr<TokenReader> tokens;  // after its state
  };
  absl::StatusOr<Past> FindPast(const SessionHandle& handle, int64_t offset) const;
  void DeleteExpired();
  void FailDisk(const absl::Status& status);  // from now on new work is refused with it
  void RecoverDisk();                         // after it failed: takes work again, if the disk does
  // After the session could not read on in its log. True: it will be tried again; false: it never will.
  bool PutOff(uint64_t number, const absl::Status& reason);
  void ReadOnAgain();
  void FinishErasures();    // whose files could not be rewritten at once
  void ReturnWhatIsFree();  // to the operating system
  void Housekeeper();

  const Options options_;
  std::map<std::string, std::unique_ptr<Model>> models_;
  std::vector<ModelInfo> model_infos_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<SessionManager> sessions_;
  std::unique_ptr<WriterNotifier> notifier_;
  std::unique_ptr<LogCommitter> committer_;
  std::unique_ptr<WorkerPool> workers_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<WriterSeat>> seats_ ABSL_GUARDED_BY(mutex_);  // by session number
  absl::flat_hash_map<uint64_t, std::shared_ptr<QueryRun>> queries_ ABSL_GUARDED_BY(mutex_);
  struct Remembering {
    std::shared_ptr<QueryRun> query;
    QuerySummary summary;
  };
  // Answers that wait for the log, by session number.
  absl::flat_hash_map<uint64_t, std::vector<Remembering>> remembering_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<uint64_t> isolated_ ABSL_GUARDED_BY(mutex_);  // sessions that are being changed or deleted
  absl::flat_hash_set<uint64_t> snapshots_due_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, int> put_off_ ABSL_GUARDED_BY(mutex_);  // sessions that could not read their log: tries
  uint64_t next_query_ ABSL_GUARDED_BY(mutex_) = 1;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status disk_status_ ABSL_GUARDED_BY(mutex_);
  EngineStats counts_ ABSL_GUARDED_BY(mutex_);  // the counters that are the engine's own
  mutable absl::Mutex ready_mutex_;             // taken after mutex_, before the session manager's
  // Since when sessions have a block that no worker took.
  mutable absl::flat_hash_map<uint64_t, absl::Time> ready_since_ ABSL_GUARDED_BY(ready_mutex_);
  Distribution block_wait_{StageSecondsBounds()};
  Distribution query_batch_{{1, 2, 3, 4, 5, 6, 7, 8}};
  struct OfModel {
    Distribution step{StageSecondsBounds()};
    Distribution batch{{1, 2, 4, 8, 16, 32, 64, 128, 256}};
    Distribution surprise{{0.1, 1, 5, 10, 25, 50, 75, 100, 125, 150, 200, 300, 500, 1000, 10000}};
  };
  std::map<const Model*, std::unique_ptr<OfModel>> of_models_;  // constant after Initialize
  std::atomic<int64_t> transfers_ = 0;                          // exports and imports under way
  std::atomic<bool> log_was_full_ = false;                      // a writer was refused for it since the last batch
  absl::Time next_scrub_ = absl::InfinitePast();                // the housekeeper's
  std::clock_t processor_time_when_memory_returned_ = 0;        // likewise; the process's
  bool has_run_ = false;                                        // likewise; anything, before that
  std::thread housekeeper_;
};

}  // namespace mnemosyne
