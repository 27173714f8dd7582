#include "server/memory_service.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/tenant.h"
#include "server/page_token.h"
#include "server/query_call.h"
#include "server/stream_call.h"
#include "server/transfer_calls.h"
#include "server/unary_call.h"

namespace mnemosyne {
namespace {

absl::Status ListSessionsOf(Engine& engine, const std::string& tenant, const v1::ListSessionsRequest& request,
                            v1::ListSessionsResponse* response) {
  ASSIGN_OR_RETURN(const int page_size, PageSizeOf(request.page_size()));
  const std::map<std::string, std::string> labels = LabelsOf(request.labels());
  std::string list = absl::StrCat("sessions\n", tenant);
  for (const auto& [key, value] : labels) absl::StrAppend(&list, "\n", key.size(), ":", key, "=", value);
  ASSIGN_OR_RETURN(const std::string start, PageStart(list, request.page_token()));
  const SessionPage page = engine.ListSessions(labels, start, page_size, tenant);
  for (const SessionInfo& session : page.sessions) ToProto(session, response->add_sessions());
  if (!page.next_id.empty()) response->set_next_page_token(PageToken(list, page.next_id));
  return absl::OkStatus();
}

absl::Status ListModelsOf(const Engine& engine, const v1::ListModelsRequest& request,
                          v1::ListModelsResponse* response) {
  ASSIGN_OR_RETURN(const int page_size, PageSizeOf(request.page_size()));
  ASSIGN_OR_RETURN(const std::string start, PageStart("models", request.page_token()));
  std::vector<const ModelInfo*> models;
  for (const ModelInfo& model : engine.models()) {
    if (model.name >= start) models.push_back(&model);
  }
  std::sort(models.begin(), models.end(), [](const ModelInfo* a, const ModelInfo* b) { return a->name < b->name; });
  for (const ModelInfo* model : models) {
    if (response->models_size() == page_size) {
      response->set_next_page_token(PageToken("models", model->name));
      break;
    }
    ToProto(*model, response->add_models());
  }
  return absl::OkStatus();
}

}  // namespace

MemoryService::MemoryService(Engine& engine, Metrics& metrics, const AccessControl& access, AuditLog* audit_log,
                             const Options& options)
    : blocking_(options.blocking_threads, options.max_blocking_waiting),
      tenant_uses_(engine, /*is_needed=*/!access.is_open()),
      environment_{.engine = engine,
                   .blocking = blocking_,
                   .registry = registry_,
                   .metrics = metrics,
                   .access = access,
                   .tenant_uses = tenant_uses_,
                   .audit_log = audit_log,
                   .slow_call = options.slow_call} {}

MemoryService::~MemoryService() { registry_.AwaitNone(); }

grpc::ServerBidiReactor<v1::StreamRequest, v1::StreamResponse>* MemoryService::Stream(
    grpc::CallbackServerContext* context) {
  return StreamCall::Start(environment_, context);
}

grpc::ServerWriteReactor<v1::QueryResponse>* MemoryService::Query(grpc::CallbackServerContext* context,
                                                                  const v1::QueryRequest* request) {
  return QueryCall::Start(environment_, context, *request);
}

grpc::ServerUnaryReactor* MemoryService::Reset(grpc::CallbackServerContext* context, const v1::ResetRequest* request,
                                               v1::ResetResponse* response) {
  return UnaryCall::Start(
      environment_, context, "Reset", Role::kWrite, [this, request, response](CallScope& call) -> absl::Status {
        ASSIGN_OR_RETURN(const std::string id, call.SessionId(request->session_id()));
        ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.Reset(id, request->offset()));
        ToProto(session, response->mutable_session());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* MemoryService::CreateSession(grpc::CallbackServerContext* context,
                                                       const v1::CreateSessionRequest* request,
                                                       v1::CreateSessionResponse* response) {
  return UnaryCall::Start(
      environment_, context, "CreateSession", Role::kWrite, [this, request, response](CallScope& call) -> absl::Status {
        ASSIGN_OR_RETURN(const std::string id, call.NewSessionId(request->session_id()));
        RETURN_IF_ERROR(call.CheckStoredBytes());
        SessionOptions options = {.model = request->model(), .labels = LabelsOf(request->labels())};
        ASSIGN_OR_RETURN(options.settings,
                         SettingsOf(request->settings(), environment_.engine.options().default_settings));
        ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.CreateSession(id, options));
        call.NoteSession(session.id);
        ToProto(session, response->mutable_session());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* MemoryService::ForkSession(grpc::CallbackServerContext* context,
                                                     const v1::ForkSessionRequest* request,
                                                     v1::ForkSessionResponse* response) {
  return UnaryCall::Start(
      environment_, context, "ForkSession", Role::kWrite, [this, request, response](CallScope& call) -> absl::Status {
        ASSIGN_OR_RETURN(const std::string id, call.SessionId(request->session_id()));
        ASSIGN_OR_RETURN(const std::string fork_id, call.NewSessionId(request->fork_id()));
        RETURN_IF_ERROR(call.CheckStoredBytes());
        ForkOptions options = {.source_id = id, .fork_id = fork_id};
        if (request->has_offset()) options.offset = request->offset();
        if (!request->labels().empty()) options.labels = LabelsOf(request->labels());
        if (request->has_settings()) {
          ASSIGN_OR_RETURN(options.settings,
                           SettingsOf(request->settings(), environment_.engine.options().default_settings));
        }
        ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.ForkSession(options));
        ToProto(session, response->mutable_session());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* MemoryService::EraseSpan(grpc::CallbackServerContext* context,
                                                   const v1::EraseSpanRequest* request,
                                                   v1::EraseSpanResponse* response) {
  return UnaryCall::Start(
      environment_, context, "EraseSpan", Role::kWrite, [this, request, response](CallScope& call) -> absl::Status {
        ASSIGN_OR_RETURN(const std::string id, call.SessionId(request->session_id()));
        ASSIGN_OR_RETURN(const ErasedSpan erased,
                         environment_.engine.EraseSpan(id, request->begin_offset(), request->end_offset()));
        ToProto(erased.session, response->mutable_session());
        for (const std::string& other : erased.still_in) response->add_still_in(std::string(SessionNameOf(other)));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<v1::ExportSessionResponse>* MemoryService::ExportSession(
    grpc::CallbackServerContext* context, const v1::ExportSessionRequest* request) {
  return ExportCall::Start(environment_, context, *request);
}

grpc::ServerReadReactor<v1::ImportSessionRequest>* MemoryService::ImportSession(grpc::CallbackServerContext* context,
                                                                                v1::ImportSessionResponse* response) {
  return ImportCall::Start(environment_, context, response);
}

grpc::ServerUnaryReactor* MemoryService::UpdateSession(grpc::CallbackServerContext* context,
                                                       const v1::UpdateSessionRequest* request,
                                                       v1::UpdateSessionResponse* response) {
  return UnaryCall::Start(
      environment_, context, "UpdateSession", Role::kWrite, [this, request, response](CallScope& call) -> absl::Status {
        ASSIGN_OR_RETURN(const std::string id, call.SessionId(request->session_id()));
        ASSIGN_OR_RETURN(const SessionInfo now, environment_.engine.GetSession(id));
        ASSIGN_OR_RETURN(const SessionUpdate update,
                         UpdateOf(*request, now.settings, environment_.engine.options().default_settings));
        ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.UpdateSession(id, update));
        ToProto(session, response->mutable_session());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* MemoryService::GetSession(grpc::CallbackServerContext* context,
                                                    const v1::GetSessionRequest* request,
                                                    v1::GetSessionResponse* response) {
  return UnaryCall::Start(environment_, context, "GetSession", Role::kRead,
                          [this, request, response](CallScope& call) -> absl::Status {
                            ASSIGN_OR_RETURN(const std::string id, call.SessionId(request->session_id()));
                            ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.GetSession(id));
                            ToProto(session, response->mutable_session());
                            return absl::OkStatus();
                          });
}

grpc::ServerUnaryReactor* MemoryService::ListSessions(grpc::CallbackServerContext* context,
                                                      const v1::ListSessionsRequest* request,
                                                      v1::ListSessionsResponse* response) {
  return UnaryCall::Start(environment_, context, "ListSessions", Role::kRead,
                          [this, request, response](CallScope& call) {
                            return ListSessionsOf(environment_.engine, call.caller().tenant, *request, response);
                          });
}

grpc::ServerUnaryReactor* MemoryService::DeleteSession(grpc::CallbackServerContext* context,
                                                       const v1::DeleteSessionRequest* request,
                                                       v1::DeleteSessionResponse*) {
  return UnaryCall::Start(environment_, context, "DeleteSession", Role::kWrite,
                          [this, request](CallScope& call) -> absl::Status {
                            ASSIGN_OR_RETURN(const std::string id, call.SessionId(request->session_id()));
                            return environment_.engine.DeleteSession(id);
                          });
}

grpc::ServerUnaryReactor* MemoryService::ListModels(grpc::CallbackServerContext* context,
                                                    const v1::ListModelsRequest* request,
                                                    v1::ListModelsResponse* response) {
  return UnaryCall::Start(environment_, context, "ListModels", Role::kRead, [this, request, response](CallScope&) {
    return ListModelsOf(environment_.engine, *request, response);
  });
}

}  // namespace mnemosyne
