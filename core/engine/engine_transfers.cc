// Sessions that leave the engine or come to it whole: exports, imports, backups.
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/base/tenant.h"
#include "core/engine/engine_impl.h"
#include "core/engine/input_checks.h"
#include "core/session/export_stream.h"

namespace mnemosyne {

namespace {

// One of the exports and imports that may be under way, for as long as it lives.
class TransferSeat {
 public:
  static absl::StatusOr<std::unique_ptr<TransferSeat>> Take(std::atomic<int64_t>* taken, int64_t most) {
    std::unique_ptr<TransferSeat> seat = absl::WrapUnique(new TransferSeat(taken));
    if (seat->number_ <= most) return seat;
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", most, " exports and imports under way, the maximum (--max_transfers)"));
  }
  ~TransferSeat() { *taken_ -= 1; }

 private:
  explicit TransferSeat(std::atomic<int64_t>* taken) : taken_(taken), number_(*taken += 1) {}

  std::atomic<int64_t>* const taken_;
  const int64_t number_;
};

// Holds the state and a view of the log, not the session: who resets or deletes it need not wait.
class SessionExportImpl final : public SessionExport {
 public:
  SessionExportImpl(std::unique_ptr<TransferSeat> seat, SessionInfo info, SnapshotHeader header, std::string state,
                    uint64_t log_begin, uint64_t log_end, std::unique_ptr<LogReader> log, std::string begin,
                    ExportWriter writer)
      : seat_(std::move(seat)),
        info_(std::move(info)),
        state_(std::move(state)),
        next_index_(log_begin),
        log_end_(log_end),
        log_(std::move(log)),
        ready_(std::move(begin)),
        writer_(writer) {
    if (header.offset == 0) {
      state_.clear();
      return;
    }
    header.state_bytes = state_.size();
    ready_ += writer_.Header(header);
  }
  const SessionInfo& session() const override { return info_; }

  absl::StatusOr<std::string> Next() override {
    while (static_cast<int64_t>(ready_.size()) < kMaxExportPartBytes && !ended_) RETURN_IF_ERROR(Continue());
    std::string part = ready_.substr(0, kMaxExportPartBytes);
    ready_.erase(0, part.size());
    return part;
  }

 private:
  absl::Status Continue() {
    if (written_ < state_.size()) {
      const absl::string_view part = absl::string_view(state_).substr(written_, kMaxExportPartBytes);
      written_ += part.size();
      ready_ += writer_.StatePart(part);
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::optional<LogRecord> record, log_->Next());
    if (record && record->index < log_end_) {
      ready_ += writer_.Record(*record);
      next_index_ = record->index + 1;
      return absl::OkStatus();
    }
    if (next_index_ != log_end_) {
      return absl::AbortedError(absl::StrCat("session '", info_.id, "' was changed while it was exported; try again"));
    }
    ready_ += writer_.End();
    ended_ = true;
    return absl::OkStatus();
  }

  const std::unique_ptr<TransferSeat> seat_;
  const SessionInfo info_;
  std::string state_;
  size_t written_ = 0;   // bytes of it
  uint64_t next_index_;  // after the last record written
  const uint64_t log_end_;
  const std::unique_ptr<LogReader> log_;
  std::string ready_;
  ExportWriter writer_;
  bool ended_ = false;
};

}  // namespace

// Writes a stream's records as they come, under a number that no session has yet; the session's own record, written
// last, makes it one.
class EngineImpl::Import final : public SessionImport, private ExportVisitor {
 public:
  Import(std::unique_ptr<TransferSeat> seat, EngineImpl* engine, std::string id)
      : seat_(std::move(seat)), engine_(engine), id_(std::move(id)) {}
  ~Import() override {
    if (metadata_.number != 0 && !finished_) engine_->storage_->AbandonImport(metadata_.number).IgnoreError();
  }

  absl::Status Add(absl::string_view bytes) override {
    RETURN_IF_ERROR(engine_->CheckTakingWork());
    return reader_.Add(bytes, *this);
  }

  absl::StatusOr<SessionInfo> Finish() override {
    RETURN_IF_ERROR(reader_.CheckEnded());
    RETURN_IF_ERROR(WriteRecords());
    RETURN_IF_ERROR(engine_->sessions_->FinishImport(metadata_));
    finished_ = true;
    absl::StatusOr<SessionInfo> info = engine_->GetSession(metadata_.id);
    // Its parts are good, together they make no session.
    if (!info.ok()) engine_->sessions_->RemoveUnused(metadata_.id).status().IgnoreError();
    return info;
  }

 private:
  absl::Status OnSession(SessionMetadata metadata) override {
    const bool is_named = !SessionNameOf(id_).empty();
    metadata.id = is_named ? id_ : absl::StrCat(id_, SessionNameOf(metadata.id));
    RETURN_IF_ERROR(CheckSessionId(metadata.id));
    RETURN_IF_ERROR(CheckLabels(metadata.labels));
    // Under whatever name the model is loaded here: the fingerprint says that it is the same.
    for (const auto& [name, model] : engine_->models_) {
      if (model->fingerprint() != metadata.fingerprint) continue;
      if (model_ == nullptr || name == metadata.model) {
        model_ = model.get();
        model_name_ = name;
      }
    }
    if (model_ == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("the session's model '", metadata.model, "' with fingerprint ",
                                                        metadata.fingerprint, " is not loaded"));
    }
    metadata.model = model_name_;
    metadata.settings.max_backlog_tokens =
        std::min(metadata.settings.max_backlog_tokens, engine_->options_.max_backlog_tokens);
    metadata.settings.max_log_bytes = std::min(metadata.settings.max_log_bytes, engine_->options_.max_log_bytes);
    RETURN_IF_ERROR(CheckSettings(metadata.settings, model_->config().block_tokens(), engine_->options_));
    RETURN_IF_ERROR(engine_->sessions_->CheckNewId(metadata.id));
    metadata.own_first = metadata.log_begin;
    metadata.update_time = absl::Now();
    metadata.number = engine_->storage_->NextSessionNumber();
    RETURN_IF_ERROR(engine_->storage_->BeginImport(metadata.number));
    metadata_ = std::move(metadata);
    next_index_ = metadata_.log_begin;
    return absl::OkStatus();
  }

  int64_t MaxStateBytes() const override { return 2 * model_->state_bytes() + (1 << 20); }

  absl::Status OnSnapshot(SnapshotHeader header, std::string state) override {
    const absl::StatusOr<StatePtr> decoded = model_->DecodeState(state);
    RETURN_IF_ERROR(decoded.status());
    if (StateOffset(**decoded) != header.offset || header.fingerprint != metadata_.fingerprint ||
        header.replay_index < metadata_.log_begin) {
      return absl::DataLossError(
          absl::StrCat("the state is not what its header says: offset ", StateOffset(**decoded)));
    }
    header.session_number = metadata_.number;
    header.epoch = metadata_.epoch;
    // The exported session may have one of an earlier offset: the stream has this one.
    if (metadata_.log_begin > 0) metadata_.earliest_offset = header.offset;
    return engine_->storage_->PutSnapshot(header, state);
  }

  absl::Status OnRecord(LogRecord record) override {
    if (record.index != next_index_) {
      return absl::DataLossError(absl::StrCat("log record ", record.index, " comes where ", next_index_, " should"));
    }
    const int64_t bytes = record.payload.size(), max_log_bytes = engine_->options_.max_log_bytes;
    log_bytes_ += bytes;
    if (log_bytes_ > max_log_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the session has more than ", max_log_bytes, " bytes in its log, the maximum"));
    }
    next_index_ += 1;
    record.session_number = metadata_.number;
    record.epoch = metadata_.epoch;
    waiting_bytes_ += bytes;
    waiting_.push_back(std::move(record));
    constexpr int64_t kBatchBytes = int64_t{4} << 20;
    return waiting_bytes_ >= kBatchBytes ? WriteRecords() : absl::OkStatus();
  }

  absl::Status WriteRecords() {
    if (waiting_.empty()) return absl::OkStatus();
    const absl::Status status = engine_->storage_->AppendLog(waiting_);
    waiting_.clear();
    waiting_bytes_ = 0;
    return status;
  }

  const std::unique_ptr<TransferSeat> seat_;
  EngineImpl* const engine_;
  const std::string id_;
  ExportReader reader_;
  const Model* model_ = nullptr;
  std::string model_name_;
  SessionMetadata metadata_;  // number 0: not begun
  uint64_t next_index_ = 0;
  int64_t log_bytes_ = 0, waiting_bytes_ = 0;
  std::vector<LogRecord> waiting_;
  bool finished_ = false;
};

absl::StatusOr<std::unique_ptr<SessionExport>> EngineImpl::ExportSession(const std::string& id) {
  RETURN_IF_ERROR(CheckSessionId(id));
  ASSIGN_OR_RETURN(auto seat, TransferSeat::Take(&transfers_, options_.max_transfers));
  ASSIGN_OR_RETURN(const SessionHandle handle, sessions_->Acquire(id));
  RETURN_IF_ERROR(AwaitDurable(*handle));
  SessionMetadata metadata;
  SnapshotHeader header;
  StatePtr state;
  uint64_t log_end = 0;
  std::unique_ptr<LogReader> log;
  RETURN_IF_ERROR(sessions_->ReadPast(id, [&](const SessionMetadata& now) -> absl::Status {
    metadata = now;
    std::tie(header, state) = handle->Checkpoint();  // not before: a trimmed log begins behind an older one
    ASSIGN_OR_RETURN(log_end, History(storage_.get(), metadata, &handle->model()).LogEnd());
    ASSIGN_OR_RETURN(log, storage_->ReadLog(metadata, metadata.log_begin));
    return sessions_->CheckNotTrimmedSince(metadata);
  }));
  ExportWriter writer;
  metadata.id = std::string(SessionNameOf(metadata.id));  // whose it is, is said by who imports it
  std::string begin = writer.Session(metadata);
  return std::make_unique<SessionExportImpl>(std::move(seat), Describe(handle), header,
                                             handle->model().EncodeState(*state), metadata.log_begin, log_end,
                                             std::move(log), std::move(begin), writer);
}

absl::StatusOr<std::unique_ptr<SessionImport>> EngineImpl::ImportSession(const std::string& id) {
  const bool is_named = !SessionNameOf(id).empty();
  if (is_named) RETURN_IF_ERROR(CheckSessionId(id));
  RETURN_IF_ERROR(CheckTakingWork());
  if (is_named) RETURN_IF_ERROR(sessions_->CheckNewId(id));
  ASSIGN_OR_RETURN(auto seat, TransferSeat::Take(&transfers_, options_.max_transfers));
  return std::make_unique<Import>(std::move(seat), this, id);
}

absl::StatusOr<BackupInfo> EngineImpl::CreateBackup() {
  RETURN_IF_ERROR(CheckTakingWork());
  if (options_.backup_path.empty()) {
    return absl::FailedPreconditionError("the server has no place for backups (backup_path)");
  }
  ASSIGN_OR_RETURN(const StorageBackup backup, storage_->CreateBackup(options_.backup_path));
  return BackupInfo{backup.id, backup.bytes, backup.time};
}

}  // namespace mnemosyne
