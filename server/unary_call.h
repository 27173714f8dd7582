// A unary call: its body runs on a thread that may wait, and fills the response.
#pragma once

#include <functional>
#include <utility>

#include "server/call.h"

namespace mnemosyne {

class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  using Body = std::function<absl::Status(CallScope&)>;

  static UnaryCall* Start(const CallEnvironment& environment, grpc::CallbackServerContext* context, const char* method,
                          Role role, Body body) {
    auto* call = new UnaryCall(environment, context, method);  // deletes itself in OnDone
    if (const absl::Status admitted = call->scope_.Admit(role); !admitted.ok()) {
      call->End(admitted);
      return call;
    }
    const bool taken = environment.blocking.Schedule([call, body = std::move(body)] {
      call->End(call->context_->IsCancelled() ? absl::CancelledError("the client is gone") : body(call->scope_));
    });
    if (!taken) call->End(Busy());
    return call;
  }

  void OnDone() override { delete this; }

 private:
  UnaryCall(const CallEnvironment& environment, grpc::CallbackServerContext* context, const char* method)
      : environment_(environment),
        context_(context),
        scope_(environment, method, context),
        registration_(environment.registry.Add(nullptr)) {}
  ~UnaryCall() override { environment_.registry.Remove(registration_); }

  // Nothing of the call may be touched after this.
  void End(const absl::Status& status) { Finish(scope_.Last(status)); }

  const CallEnvironment environment_;
  grpc::CallbackServerContext* const context_;
  CallScope scope_;
  const uint64_t registration_;
};

}  // namespace mnemosyne
