// mnemosyne.v1.AdminService over an Engine. Its calls are made as MemoryService's are, and counted with them.
//
// Thread-safe.
#pragma once

#include "mnemosyne/v1/admin_service.grpc.pb.h"
#include "server/call.h"

namespace mnemosyne {

class AdminService final : public v1::AdminService::CallbackService {
 public:
  explicit AdminService(const CallEnvironment& environment) : environment_(environment) {}

  grpc::ServerUnaryReactor* CreateBackup(grpc::CallbackServerContext* context, const v1::CreateBackupRequest* request,
                                         v1::CreateBackupResponse* response) override;

 private:
  const CallEnvironment environment_;
};

}  // namespace mnemosyne
