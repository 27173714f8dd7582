#include "server/query_call.h"

#include <chrono>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace mnemosyne {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace

class QueryCall::Observer final : public QueryObserver {
 public:
  explicit Observer(std::weak_ptr<QueryCall> call) : call_(std::move(call)) {}

  void OnPiece(const QueryPiece& piece) override {
    const std::shared_ptr<QueryCall> call = call_.lock();
    if (call == nullptr) return;
    absl::MutexLock lock(&call->mutex_);
    call->delta_.mutable_text()->append(piece.text);
    call->delta_.mutable_token_ids()->Add(piece.tokens.begin(), piece.tokens.end());
    call->delta_.mutable_log_probabilities()->Add(piece.log_probabilities.begin(), piece.log_probabilities.end());
    call->delta_due_ = true;
    if (!call->token_seen_ && !piece.tokens.empty()) {
      call->token_seen_ = true;
      call->environment_.metrics.ObserveTimeToFirstToken(absl::Now() - call->arrival_);
    }
    call->Advance();
  }

  void OnDone(const absl::StatusOr<QuerySummary>& summary) override {
    const std::shared_ptr<QueryCall> call = call_.lock();
    if (call == nullptr) return;
    absl::MutexLock lock(&call->mutex_);
    if (call->last_.has_value()) return;
    if (summary.ok()) {
      call->summary_ = *summary;
      call->scope_.NoteStage("queue", summary->queue_time);
      call->scope_.NoteStage("first_token", summary->time_to_first_token);
      call->scope_.NoteStage("answer", summary->total_time);
      call->environment_.metrics.ObserveQuery(absl::Now() - call->arrival_);
      if (summary->answer_tokens > 1) {
        call->environment_.metrics.ObserveAnswerToken((summary->total_time - summary->time_to_first_token) /
                                                      (summary->answer_tokens - 1));
      }
    }
    call->last_ = summary.status();  // the handle goes in OnDone of the call: not on this thread
    call->Advance();
  }

 private:
  const std::weak_ptr<QueryCall> call_;
};

QueryCall* QueryCall::Start(const CallEnvironment& environment, grpc::CallbackServerContext* context,
                            const v1::QueryRequest& request) {
  std::shared_ptr<QueryCall> call = absl::WrapUnique(new QueryCall(environment, context));
  call->self_ = call;
  call->registration_ = environment.registry.Add(nullptr);
  absl::StatusOr<QueryOptions> options = call->Admit(request);
  if (!options.ok()) {
    call->End(options.status());
    return call.get();
  }
  options->deadline = DeadlineOf(*context);
  if (!environment.blocking.Schedule([call, options = *options] { call->StartQuery(options); })) call->End(Busy());
  return call.get();
}

QueryCall::QueryCall(const CallEnvironment& environment, grpc::CallbackServerContext* context)
    : environment_(environment), scope_(environment, "Query", context), arrival_(absl::Now()) {}

QueryCall::~QueryCall() {
  std::shared_ptr<QueryHandle> handle;
  {
    absl::MutexLock lock(&mutex_);
    handle = std::move(handle_);
  }
  handle.reset();
  environment_.registry.Remove(registration_);
}

absl::StatusOr<QueryOptions> QueryCall::Admit(const v1::QueryRequest& request) {
  RETURN_IF_ERROR(scope_.Admit(request.remember() ? Role::kWrite : Role::kRead));
  ASSIGN_OR_RETURN(QueryOptions options, QueryOptionsOf(request));
  ASSIGN_OR_RETURN(options.session_id, scope_.SessionId(request.session_id()));
  if (options.remember) RETURN_IF_ERROR(scope_.CheckStoredBytes());
  const Caller caller = scope_.caller();
  if (caller.meter == nullptr) return options;
  const int64_t most = scope_.quotas().max_queries;
  if (!caller.meter->BeginQuery(most)) {
    return QuotaError(absl::StrCat("tenant '", caller.tenant, "' has ", most,
                                   " queries under way, its maximum (max_queries of the tenant)"),
                      absl::Milliseconds(500));
  }
  meter_ = caller.meter;
  return options;
}

void QueryCall::StartQuery(const QueryOptions& options) {
  {
    absl::MutexLock lock(&mutex_);
    if (last_.has_value()) return;  // cancelled while it waited for a thread
  }
  absl::StatusOr<std::unique_ptr<QueryHandle>> handle =
      environment_.engine.StartQuery(options, std::make_shared<Observer>(weak_from_this()));
  if (!handle.ok()) return End(handle.status());
  std::shared_ptr<QueryHandle> held = *std::move(handle);  // destroyed without the lock: it may wait for the observer
  absl::MutexLock lock(&mutex_);
  if (!last_.has_value()) handle_ = std::move(held);
}

void QueryCall::End(const absl::Status& status) {
  std::shared_ptr<QueryHandle> handle;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  if (!last_.has_value()) last_ = status;
  handle = std::move(handle_);
  Advance();
}

void QueryCall::Advance() {
  if (finished_ || write_in_flight_) return;
  if (!cancelled_ && (delta_due_ || summary_.has_value())) {
    response_.Clear();
    if (delta_due_) {
      *response_.mutable_delta() = std::move(delta_);
      delta_.Clear();
      delta_due_ = false;
    } else {
      ToProto(*summary_, response_.mutable_summary());
      summary_.reset();
    }
    write_in_flight_ = true;
    return StartWrite(&response_);
  }
  if (!last_.has_value()) return;
  finished_ = true;
  if (meter_ != nullptr) meter_->EndQuery();  // before the client can ask the next one
  Finish(scope_.Last(*last_));
}

void QueryCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  write_in_flight_ = false;
  if (!ok) {
    cancelled_ = true;
    if (!last_.has_value()) last_ = absl::CancelledError("the client is gone");
  }
  Advance();
}

void QueryCall::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
  }
  End(absl::CancelledError("the client cancelled the query, is gone, or its deadline passed"));
}

void QueryCall::OnDone() {
  std::shared_ptr<QueryHandle> handle;
  {
    absl::MutexLock lock(&mutex_);
    finished_ = true;
    handle = std::move(handle_);
  }
  handle.reset();
  const std::shared_ptr<QueryCall> last_reference = std::move(self_);
}

}  // namespace mnemosyne
