// What every call of the service is given.
#pragma once

#include <string>

#include "core/engine/engine.h"
#include "grpcpp/grpcpp.h"
#include "server/blocking_calls.h"
#include "server/call_registry.h"
#include "server/conversions.h"
#include "server/metrics.h"

namespace mnemosyne {

// Trailing metadata of every UNAVAILABLE: milliseconds to wait before the call is tried again.
inline constexpr char kRetryAfterKey[] = "retry-after-ms";
inline constexpr char kRetryAfterMilliseconds[] = "500";

// All outlive the calls: CallRegistry::AwaitNone sees to it.
struct CallEnvironment {
  Engine& engine;
  BlockingCalls& blocking;
  CallRegistry& registry;
  Metrics& metrics;
};

// The status a call is finished with: counted, and with the retry hint where there is one. Right before Finish, once.
inline grpc::Status LastStatus(const CallEnvironment& environment, const char* method, const absl::Status& status,
                               grpc::CallbackServerContext* context) {
  environment.metrics.CountRpc(method, status.code());
  if (absl::IsUnavailable(status)) context->AddTrailingMetadata(kRetryAfterKey, kRetryAfterMilliseconds);
  return ToGrpcStatus(status);
}

inline absl::Status Busy() {
  return absl::UnavailableError("the server has as many calls waiting as it may have; try again later");
}

}  // namespace mnemosyne
