// The ExportSession and ImportSession RPCs: a session's bytes out, or in, a part at a time.
//
// One part is under way: a slow client costs one part's memory. What waits for the disk runs on the blocking threads.
// Threads and lifetime are as in StreamCall.
#pragma once

#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"
#include "server/call.h"

namespace mnemosyne {

class ExportCall final : public grpc::ServerWriteReactor<v1::ExportSessionResponse>,
                         public std::enable_shared_from_this<ExportCall> {
 public:
  static ExportCall* Start(const CallEnvironment& environment, grpc::CallbackServerContext* context,
                           const v1::ExportSessionRequest& request);
  ~ExportCall() override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  ExportCall(const CallEnvironment& environment, grpc::CallbackServerContext* context)
      : environment_(environment), scope_(environment, "ExportSession", context, /*lasts=*/true) {}
  void Begin(const std::string& session_id);
  void SendNext();
  void End(const absl::Status& status);
  void FinishIfIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CallEnvironment environment_;
  CallScope scope_;
  std::shared_ptr<ExportCall> self_;  // until OnDone
  uint64_t registration_ = 0;
  std::unique_ptr<SessionExport> export_;  // of the part under way
  v1::ExportSessionResponse response_;     // of the part under way

  absl::Mutex mutex_;  // guards everything below
  std::optional<absl::Status> last_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = true;  // a part is being made or written
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

class ImportCall final : public grpc::ServerReadReactor<v1::ImportSessionRequest>,
                         public std::enable_shared_from_this<ImportCall> {
 public:
  static ImportCall* Start(const CallEnvironment& environment, grpc::CallbackServerContext* context,
                           v1::ImportSessionResponse* response);
  ~ImportCall() override;

  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  ImportCall(const CallEnvironment& environment, grpc::CallbackServerContext* context,
             v1::ImportSessionResponse* response)
      : environment_(environment),
        scope_(environment, "ImportSession", context, /*lasts=*/true),
        context_(context),
        response_(response) {}
  void Take();          // what was read
  void FinishImport();  // all of it was
  absl::Status Add();
  void End(const absl::Status& status);
  void FinishIfIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CallEnvironment environment_;
  CallScope scope_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone
  v1::ImportSessionResponse* const response_;
  std::shared_ptr<ImportCall> self_;  // until OnDone
  uint64_t registration_ = 0;
  std::unique_ptr<SessionImport> import_;  // of the part under way; null before the first
  std::shared_ptr<TenantMeter> meter_;     // of the part under way; null: of no tenant
  int64_t imported_bytes_ = 0;             // counted there
  v1::ImportSessionRequest request_;       // of the part under way

  absl::Mutex mutex_;  // guards everything below
  std::optional<absl::Status> last_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;  // a part is being taken
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mnemosyne
