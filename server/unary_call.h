// A unary call: its body runs on a thread that may wait, and fills the response.
#pragma once

#include <functional>
#include <utility>

#include "server/call.h"

namespace mnemosyne {

class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  static UnaryCall* Start(const CallEnvironment& environment, grpc::CallbackServerContext* context, const char* method,
                          std::function<absl::Status()> body) {
    auto* call = new UnaryCall(environment, context, method);  // deletes itself in OnDone
    const bool taken = environment.blocking.Schedule([call, body = std::move(body)] {
      call->End(call->context_->IsCancelled() ? absl::CancelledError("the client is gone") : body());
    });
    if (!taken) call->End(Busy());
    return call;
  }

  void OnDone() override { delete this; }

 private:
  UnaryCall(const CallEnvironment& environment, grpc::CallbackServerContext* context, const char* method)
      : environment_(environment),
        context_(context),
        method_(method),
        registration_(environment.registry.Add(nullptr)) {}
  ~UnaryCall() override { environment_.registry.Remove(registration_); }

  // Nothing of the call may be touched after this.
  void End(const absl::Status& status) { Finish(LastStatus(environment_, method_, status, context_)); }

  const CallEnvironment environment_;
  grpc::CallbackServerContext* const context_;
  const char* const method_;
  const uint64_t registration_;
};

}  // namespace mnemosyne
