// The inside of Client: its stubs, and the calls under way, which Cancel reaches. Internal to client/.
//
// Thread-safe.
#pragma once

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "client/client.h"
#include "client/wire.h"
#include "mnemosyne/v1/admin_service.grpc.pb.h"

namespace mnemosyne::client {

class Client::Impl {
 public:
  Impl(std::shared_ptr<grpc::Channel> channel, const Options& options)
      : options_(options),
        channel_(std::move(channel)),
        stub_(v1::MemoryService::NewStub(channel_)),
        admin_stub_(v1::AdminService::NewStub(channel_)) {}

  // One call's context, which Cancel can reach.
  class Call {
   public:
    Call(Impl* impl, absl::Time deadline) : impl_(impl) {
      if (deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(deadline));
      absl::MutexLock lock(&impl_->mutex_);
      impl_->calls_.insert(&context_);
      if (impl_->cancelled_) context_.TryCancel();
    }
    explicit Call(Impl* impl) : Call(impl, absl::Now() + impl->options_.call_timeout) {}
    ~Call() {
      absl::MutexLock lock(&impl_->mutex_);
      impl_->calls_.erase(&context_);
    }
    grpc::ClientContext* context() { return &context_; }

   private:
    Impl* const impl_;
    grpc::ClientContext context_;
  };

  void Cancel() {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : calls_) context->TryCancel();
  }

  v1::MemoryService::Stub& stub() { return *stub_; }
  v1::AdminService::Stub& admin_stub() { return *admin_stub_; }
  const SharedStub& shared_stub() { return stub_; }

  absl::StatusOr<QuerySummary> Query(v1::QueryRequest* request, absl::string_view session_id,
                                     const QueryOptions& options,
                                     const std::function<void(const QueryDelta&)>& on_delta);

 private:
  const Options options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const SharedStub stub_;
  const std::unique_ptr<v1::AdminService::Stub> admin_stub_;
  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::client
