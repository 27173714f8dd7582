// One Query RPC: the engine's pieces out as deltas, then the summary.
//
// One write is in flight; the pieces that come in the meantime are merged into the next delta. A slow reader does not
// slow the decoding down: what it has not read yet waits here, at most max_tokens (65536) tokens of the answer, under
// 2 MiB. Threads and lifetime are as in StreamCall.
#pragma once

#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"
#include "server/call.h"

namespace mnemosyne {

class QueryCall final : public grpc::ServerWriteReactor<v1::QueryResponse>,
                        public std::enable_shared_from_this<QueryCall> {
 public:
  // The result belongs to itself: gRPC takes it and ends it by OnDone. `request` lives until then.
  static QueryCall* Start(const CallEnvironment& environment, grpc::CallbackServerContext* context,
                          const v1::QueryRequest& request);
  ~QueryCall() override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  class Observer;

  QueryCall(const CallEnvironment& environment, grpc::CallbackServerContext* context);

  // What is asked, if the caller may ask it; takes one of its tenant's queries.
  absl::StatusOr<QueryOptions> Admit(const v1::QueryRequest& request);
  void StartQuery(const QueryOptions& options);  // may wait for a disk
  void End(const absl::Status& status);
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // writes what is due, or finishes

  const CallEnvironment environment_;
  CallScope scope_;
  const absl::Time arrival_;
  std::shared_ptr<QueryCall> self_;  // until OnDone
  uint64_t registration_ = 0;
  std::shared_ptr<TenantMeter> meter_;  // of whose queries this is one; null: none

  v1::QueryResponse response_;  // of the write in flight

  absl::Mutex mutex_;  // guards everything below
  std::shared_ptr<QueryHandle> handle_ ABSL_GUARDED_BY(mutex_);
  v1::Delta delta_ ABSL_GUARDED_BY(mutex_);  // not written yet
  bool delta_due_ ABSL_GUARDED_BY(mutex_) = false;
  bool token_seen_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<QuerySummary> summary_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> last_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called: nothing may be started any more
};

}  // namespace mnemosyne
