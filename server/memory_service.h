// mnemosyne.v1.MemoryService over an Engine: translates, guards and counts.
//
//   MemoryService service(engine, metrics, {});
//   grpc::ServerBuilder().RegisterService(&service)...
//
// Thread-safe. The engine's calls that may wait for a disk run on threads of its own (BlockingCalls); when too many
// wait, a call is answered UNAVAILABLE at once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "core/engine/engine.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"
#include "server/call.h"

namespace mnemosyne {

class MemoryService final : public v1::MemoryService::CallbackService {
 public:
  struct Options {
    int blocking_threads = 8;
    int max_blocking_waiting = 1024;
    absl::Duration slow_call = absl::InfiniteDuration();  // one that takes longer is told in the log
  };
  // All outlive it. `audit_log` may be null.
  MemoryService(Engine& engine, Metrics& metrics, const AccessControl& access, AuditLog* audit_log,
                const Options& options);
  ~MemoryService() override;  // after the gRPC server's shutdown; waits for the last call

  // Ends every stream, now and from now on, with `status`.
  void EndStreams(const absl::Status& status) { registry_.EndAll(status); }
  int64_t calls() const { return registry_.count(); }
  std::map<std::string, TenantUse, std::less<>> tenant_uses() const { return tenant_uses_.All(); }
  const CallEnvironment& environment() const { return environment_; }

  grpc::ServerBidiReactor<v1::StreamRequest, v1::StreamResponse>* Stream(grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<v1::QueryResponse>* Query(grpc::CallbackServerContext* context,
                                                     const v1::QueryRequest* request) override;
  grpc::ServerUnaryReactor* Reset(grpc::CallbackServerContext* context, const v1::ResetRequest* request,
                                  v1::ResetResponse* response) override;
  grpc::ServerUnaryReactor* ForkSession(grpc::CallbackServerContext* context, const v1::ForkSessionRequest* request,
                                        v1::ForkSessionResponse* response) override;
  grpc::ServerUnaryReactor* EraseSpan(grpc::CallbackServerContext* context, const v1::EraseSpanRequest* request,
                                      v1::EraseSpanResponse* response) override;
  grpc::ServerWriteReactor<v1::ExportSessionResponse>* ExportSession(grpc::CallbackServerContext* context,
                                                                     const v1::ExportSessionRequest* request) override;
  grpc::ServerReadReactor<v1::ImportSessionRequest>* ImportSession(grpc::CallbackServerContext* context,
                                                                   v1::ImportSessionResponse* response) override;
  grpc::ServerUnaryReactor* UpdateSession(grpc::CallbackServerContext* context, const v1::UpdateSessionRequest* request,
                                          v1::UpdateSessionResponse* response) override;
  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* context, const v1::CreateSessionRequest* request,
                                          v1::CreateSessionResponse* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context, const v1::GetSessionRequest* request,
                                       v1::GetSessionResponse* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context, const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context, const v1::DeleteSessionRequest* request,
                                          v1::DeleteSessionResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  CallRegistry registry_;
  BlockingCalls blocking_;  // after registry_: its tasks end calls
  TenantUses tenant_uses_;
  const CallEnvironment environment_;
};

}  // namespace mnemosyne
