// An Engine that does what the test says: it keeps no sessions, and its results come when the test sends them.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/engine/engine.h"

namespace mnemosyne {

class FakeEngine final : public Engine {
 public:
  struct Accepted {
    uint64_t sequence = 0;
    Content content;
  };

  FakeEngine() {
    ModelInfo model;
    model.name = "recall";
    model.fingerprint = std::string(32, 'f');
    model.config.tokenizer.kind = TokenizerKind::kBytes;
    models_.push_back(model);
    model.name = "another";
    models_.push_back(model);
    options_.max_append_bytes = 4096;
    options_.max_prompt_tokens = 1024;
  }

  // What the test says and sees.

  void FailWith(absl::Status status) {  // every call that names a session, until OK again
    absl::MutexLock lock(&mutex_);
    failure_ = std::move(status);
  }
  void FailFlushWith(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    flush_failure_ = std::move(status);
  }
  void SetRoom(int appends) {  // that many are taken, then there is no room
    absl::MutexLock lock(&mutex_);
    room_ = appends;
  }
  void AddSession(const std::string& id) {
    absl::MutexLock lock(&mutex_);
    sessions_.insert(id);
  }
  void SetExportPart(std::string part) {  // what an export is a hundred of; the session's id, until it is set
    absl::MutexLock lock(&mutex_);
    export_part_ = std::move(part);
  }
  std::shared_ptr<WriterObserver> writer_observer() const {  // the newest writer's; null once it is destroyed
    absl::MutexLock lock(&mutex_);
    return writer_observer_;
  }
  std::shared_ptr<QueryObserver> query_observer() const {
    absl::MutexLock lock(&mutex_);
    return query_observer_;
  }
  QueryOptions last_query() const {
    absl::MutexLock lock(&mutex_);
    return last_query_;
  }
  SessionSettings last_settings() const {
    absl::MutexLock lock(&mutex_);
    return last_settings_;
  }
  ForkOptions last_fork() const {
    absl::MutexLock lock(&mutex_);
    return last_fork_;
  }
  SessionUpdate last_update() const {
    absl::MutexLock lock(&mutex_);
    return last_update_;
  }
  bool HasSession(const std::string& id) const {
    absl::MutexLock lock(&mutex_);
    return sessions_.contains(id);
  }
  std::vector<Accepted> accepted() const {
    absl::MutexLock lock(&mutex_);
    return accepted_;
  }
  int refusals() const {
    absl::MutexLock lock(&mutex_);
    return refusals_;
  }
  void AwaitAccepted(size_t count) {
    Await([this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return accepted_.size() >= count; });
  }
  void AwaitRefusals(int count) {
    Await([this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return refusals_ >= count; });
  }
  void AwaitFlushes(int count) {
    Await([this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return flushes_ >= count; });
  }
  void AwaitWriters(int live) {
    Await([this, live]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return live_writers_ == live; });
  }
  void AwaitQueries(int live) {
    Await([this, live]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return live_queries_ == live; });
  }
  void AwaitTransfers(int live) {  // exports and imports
    Await([this, live]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return live_transfers_ == live; });
  }
  void AwaitImported(size_t bytes) {  // by any import
    Await([this, bytes]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return imported_bytes_ >= bytes; });
  }

  // Engine.

  const Options& options() const override { return options_; }
  const std::vector<ModelInfo>& models() const override { return models_; }
  std::string blas() const override { return "none"; }

  absl::StatusOr<SessionInfo> CreateSession(const std::string& id, const SessionOptions& options) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    last_settings_ = options.settings;
    const std::string made = id.empty() ? absl::StrCat("made-", sessions_.size()) : id;
    if (!sessions_.insert(made).second) return absl::AlreadyExistsError(absl::StrCat("session '", made, "' exists"));
    SessionInfo info = Info(made);
    if (!options.model.empty()) info.model = options.model;
    info.labels = options.labels;
    info.settings = options.settings;
    return info;
  }
  absl::StatusOr<SessionInfo> UpdateSession(const std::string& id, const SessionUpdate& update) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!sessions_.contains(id)) return Missing(id);
    SessionInfo info = Info(id);
    last_update_ = update;
    if (update.labels) info.labels = *update.labels;
    if (update.settings) info.settings = last_settings_ = *update.settings;
    return info;
  }
  absl::StatusOr<SessionInfo> GetSession(const std::string& id) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!sessions_.contains(id)) return Missing(id);
    return Info(id);
  }
  SessionPage ListSessions(const std::map<std::string, std::string>&, const std::string& from_id, int page_size,
                           absl::string_view tenant) override {
    absl::MutexLock lock(&mutex_);
    SessionPage page;
    for (auto it = sessions_.lower_bound(from_id); it != sessions_.end(); ++it) {
      if (TenantOf(*it) != tenant) continue;
      if (page.sessions.size() == page_size) {
        page.next_id = *it;
        break;
      }
      page.sessions.push_back(Info(*it));
    }
    return page;
  }
  std::map<std::string, TenantUse> UseByTenant() const override { return {}; }
  std::vector<SessionInfo> ResidentSessions(int64_t) const override {
    absl::MutexLock lock(&mutex_);
    std::vector<SessionInfo> all;
    for (const std::string& id : sessions_) all.push_back(Info(id));
    return all;
  }
  std::vector<SurprisePoint> SurpriseOf(const std::string&) const override { return {{64, 90.0f}, {128, 60.5f}}; }
  absl::Status DeleteSession(const std::string& id) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    return sessions_.erase(id) == 1 ? absl::OkStatus() : Missing(id);
  }
  absl::StatusOr<SessionInfo> Reset(const std::string& id, int64_t offset) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!sessions_.contains(id)) return Missing(id);
    SessionInfo info = Info(id);
    if (offset < 0 || offset > info.watermarks.accepted) {
      return absl::OutOfRangeError(absl::StrCat("offset ", offset, " is beyond ", info.watermarks.accepted));
    }
    info.epoch = 2;
    info.watermarks.accepted = offset;
    return info;
  }

  absl::StatusOr<SessionInfo> ForkSession(const ForkOptions& options) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!sessions_.contains(options.source_id)) return Missing(options.source_id);
    last_fork_ = options;
    if (!sessions_.insert(options.fork_id).second) return absl::AlreadyExistsError("the fork's id is taken");
    SessionInfo info = Info(options.fork_id);
    if (options.offset) info.watermarks.accepted = *options.offset;
    if (options.labels) info.labels = *options.labels;
    return info;
  }
  absl::StatusOr<ErasedSpan> EraseSpan(const std::string& id, int64_t begin, int64_t end) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!sessions_.contains(id)) return Missing(id);
    ErasedSpan erased = {Info(id), {"a fork"}};
    erased.session.watermarks.accepted -= end - begin;
    return erased;
  }
  // An export is the session's id, many times over; an import takes exactly that.
  absl::StatusOr<std::unique_ptr<SessionExport>> ExportSession(const std::string& id) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!sessions_.contains(id)) return Missing(id);
    return std::make_unique<FakeExport>(this, Info(id), export_part_.empty() ? id : export_part_);
  }
  absl::StatusOr<std::unique_ptr<SessionImport>> ImportSession(const std::string& id) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (sessions_.contains(id)) return absl::AlreadyExistsError(absl::StrCat("session '", id, "' exists"));
    return std::make_unique<FakeImport>(this, id);
  }
  absl::StatusOr<BackupInfo> CreateBackup() override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    return BackupInfo{7, 4096, absl::FromUnixSeconds(1700000000)};
  }

  absl::StatusOr<std::unique_ptr<Writer>> OpenWriter(const std::string& id, const WriterOptions& options,
                                                     std::shared_ptr<WriterObserver> observer) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    const bool missing = !sessions_.contains(id);
    if (missing && !options.create_if_missing) return Missing(id);
    if (live_writers_ > 0 && !options.take_over) {
      return absl::AbortedError(absl::StrCat("session '", id, "' has a writer"));
    }
    sessions_.insert(id);
    ++live_writers_;
    writer_observer_ = observer;
    return std::make_unique<FakeWriter>(this, Info(id), missing, std::move(observer));
  }

  absl::StatusOr<std::unique_ptr<QueryHandle>> StartQuery(const QueryOptions& options,
                                                          std::shared_ptr<QueryObserver> observer) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!sessions_.contains(options.session_id)) return Missing(options.session_id);
    ++live_queries_;
    last_query_ = options;
    query_observer_ = std::move(observer);
    return std::make_unique<FakeQuery>(this);
  }

  EngineStats stats() const override {
    EngineStats stats;
    stats.sessions = 3;
    stats.resident_bytes = 4096;
    stats.tokens_memorized_total = 77;
    stats.expired_sessions_total = 5;
    Distribution commit(StageSecondsBounds());
    commit.Add(1.5);
    stats.commit = commit.counts();
    return stats;
  }
  absl::Status Drain(absl::Time) override {
    std::shared_ptr<WriterObserver> observer;
    {
      absl::MutexLock lock(&mutex_);
      failure_ = absl::UnavailableError("the server is draining");
      observer = writer_observer_;
    }
    if (observer != nullptr) observer->OnLost(absl::UnavailableError("the server is draining"));
    return absl::OkStatus();
  }

 private:
  class FakeWriter final : public Writer {
   public:
    FakeWriter(FakeEngine* engine, SessionInfo opened, bool created, std::shared_ptr<WriterObserver> observer)
        : engine_(engine), opened_(std::move(opened)), created_(created), observer_(std::move(observer)) {}
    ~FakeWriter() override {
      absl::MutexLock lock(&engine_->mutex_);
      --engine_->live_writers_;
      if (engine_->writer_observer_ == observer_) engine_->writer_observer_ = nullptr;
    }
    const SessionInfo& opened() const override { return opened_; }
    bool created() const override { return created_; }
    absl::Status Append(uint64_t sequence, Content content) override {
      absl::MutexLock lock(&engine_->mutex_);
      const uint64_t expected = opened_.next_sequence + taken_;
      if (sequence < expected) return absl::OkStatus();
      if (sequence > expected) {
        return absl::OutOfRangeError(absl::StrCat("sequence ", sequence, " is skipped to; ", expected, " is expected"));
      }
      if (engine_->room_ == 0) {
        ++engine_->refusals_;
        return NoRoomError("no room");
      }
      --engine_->room_;
      ++taken_;
      engine_->accepted_.push_back({sequence, std::move(content)});
      return absl::OkStatus();
    }
    absl::Status Flush() override {
      absl::MutexLock lock(&engine_->mutex_);
      if (!engine_->flush_failure_.ok()) return engine_->flush_failure_;
      ++engine_->flushes_;
      return absl::OkStatus();
    }

   private:
    FakeEngine* const engine_;
    const SessionInfo opened_;
    const bool created_;
    const std::shared_ptr<WriterObserver> observer_;
    uint64_t taken_ = 0;
  };

  class FakeExport final : public SessionExport {
   public:
    FakeExport(FakeEngine* engine, SessionInfo info, std::string part)
        : engine_(engine), info_(std::move(info)), part_(std::move(part)) {
      engine_->mutex_.AssertHeld();
      ++engine_->live_transfers_;
    }
    ~FakeExport() override {
      absl::MutexLock lock(&engine_->mutex_);
      --engine_->live_transfers_;
    }
    const SessionInfo& session() const override { return info_; }
    absl::StatusOr<std::string> Next() override {
      absl::MutexLock lock(&engine_->mutex_);
      if (!engine_->failure_.ok()) return engine_->failure_;
      return parts_-- > 0 ? part_ : std::string();
    }

   private:
    FakeEngine* const engine_;
    const SessionInfo info_;
    const std::string part_;
    int parts_ = 100;
  };

  class FakeImport final : public SessionImport {
   public:
    FakeImport(FakeEngine* engine, std::string id) : engine_(engine), id_(std::move(id)) {
      engine_->mutex_.AssertHeld();
      ++engine_->live_transfers_;
    }
    ~FakeImport() override {
      absl::MutexLock lock(&engine_->mutex_);
      --engine_->live_transfers_;
    }
    absl::Status Add(absl::string_view bytes) override {
      bytes_.append(bytes.data(), bytes.size());
      absl::MutexLock lock(&engine_->mutex_);
      engine_->imported_bytes_ += bytes.size();
      return bytes == "broken" ? absl::DataLossError("it is broken") : absl::OkStatus();
    }
    absl::StatusOr<SessionInfo> Finish() override {
      if (bytes_.size() < 10) return absl::DataLossError("truncated");
      absl::MutexLock lock(&engine_->mutex_);
      engine_->sessions_.insert(id_);
      SessionInfo info = Info(id_);
      info.watermarks.accepted_bytes = bytes_.size();
      return info;
    }

   private:
    FakeEngine* const engine_;
    const std::string id_;
    std::string bytes_;
  };

  class FakeQuery final : public QueryHandle {
   public:
    explicit FakeQuery(FakeEngine* engine) : engine_(engine) {}
    ~FakeQuery() override {
      absl::MutexLock lock(&engine_->mutex_);
      --engine_->live_queries_;
      engine_->query_observer_ = nullptr;
    }

   private:
    FakeEngine* const engine_;
  };

  template <typename Condition>
  void Await(const Condition& condition) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&condition));
  }
  static absl::Status Missing(const std::string& id) {
    return absl::NotFoundError(absl::StrCat("session '", id, "' does not exist"));
  }
  // Every session had 4 appends of 10 tokens when it was opened.
  static SessionInfo Info(const std::string& id) {
    SessionInfo info;
    info.id = id;
    info.model = "recall";
    info.next_sequence = 5;
    info.watermarks = {.accepted = 40, .durable = 40, .memorized = 0, .accepted_bytes = 40};
    info.pending_tokens = 40;
    info.create_time = info.update_time = absl::FromUnixSeconds(1700000000);
    return info;
  }

  Options options_;
  std::vector<ModelInfo> models_;
  mutable absl::Mutex mutex_;  // guards everything below
  absl::Status failure_ ABSL_GUARDED_BY(mutex_), flush_failure_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> sessions_ ABSL_GUARDED_BY(mutex_);
  int room_ ABSL_GUARDED_BY(mutex_) = 1000000;
  int refusals_ ABSL_GUARDED_BY(mutex_) = 0, flushes_ ABSL_GUARDED_BY(mutex_) = 0;
  int live_writers_ ABSL_GUARDED_BY(mutex_) = 0, live_queries_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Accepted> accepted_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<WriterObserver> writer_observer_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<QueryObserver> query_observer_ ABSL_GUARDED_BY(mutex_);
  QueryOptions last_query_ ABSL_GUARDED_BY(mutex_);
  SessionSettings last_settings_ ABSL_GUARDED_BY(mutex_);
  ForkOptions last_fork_ ABSL_GUARDED_BY(mutex_);
  SessionUpdate last_update_ ABSL_GUARDED_BY(mutex_);
  std::string export_part_ ABSL_GUARDED_BY(mutex_);
  int live_transfers_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t imported_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne
