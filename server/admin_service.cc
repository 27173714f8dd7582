#include "server/admin_service.h"

#include "core/base/status_macros.h"
#include "server/unary_call.h"

namespace mnemosyne {

grpc::ServerUnaryReactor* AdminService::CreateBackup(grpc::CallbackServerContext* context,
                                                     const v1::CreateBackupRequest*,
                                                     v1::CreateBackupResponse* response) {
  return UnaryCall::Start(environment_, context, "CreateBackup", Role::kAdmin,
                          [this, response](CallScope&) -> absl::Status {
                            ASSIGN_OR_RETURN(const BackupInfo backup, environment_.engine.CreateBackup());
                            ToProto(backup, response);
                            return absl::OkStatus();
                          });
}

}  // namespace mnemosyne
