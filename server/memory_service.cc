#include "server/memory_service.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/query_call.h"
#include "server/stream_call.h"

namespace mnemosyne {
namespace {

// A unary call: `body` runs on a thread that may wait, and fills the response.
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

std::map<std::string, std::string> LabelsOf(const google::protobuf::Map<std::string, std::string>& labels) {
  return {labels.begin(), labels.end()};
}

absl::Status NeedSession(const std::string& session_id) {
  return session_id.empty() ? absl::InvalidArgumentError("session_id is empty") : absl::OkStatus();
}

absl::Status ListSessionsOf(Engine& engine, const v1::ListSessionsRequest& request,
                            v1::ListSessionsResponse* response) {
  ASSIGN_OR_RETURN(const int page_size, PageSizeOf(request.page_size()));
  const std::map<std::string, std::string> labels = LabelsOf(request.labels());
  std::string list = "sessions";
  for (const auto& [key, value] : labels) absl::StrAppend(&list, "\n", key.size(), ":", key, "=", value);
  ASSIGN_OR_RETURN(const std::string start, PageStart(list, request.page_token()));
  const SessionPage page = engine.ListSessions(labels, start, page_size);
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

MemoryService::MemoryService(Engine& engine, Metrics& metrics, const Options& options)
    : blocking_(options.blocking_threads, options.max_blocking_waiting),
      environment_{.engine = engine, .blocking = blocking_, .registry = registry_, .metrics = metrics} {}

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
  return UnaryCall::Start(environment_, context, "Reset", [this, request, response]() -> absl::Status {
    RETURN_IF_ERROR(NeedSession(request->session_id()));
    ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.Reset(request->session_id(), request->offset()));
    ToProto(session, response->mutable_session());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* MemoryService::CreateSession(grpc::CallbackServerContext* context,
                                                       const v1::CreateSessionRequest* request,
                                                       v1::CreateSessionResponse* response) {
  return UnaryCall::Start(environment_, context, "CreateSession", [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(
        const SessionInfo session,
        environment_.engine.CreateSession(request->session_id(), request->model(), LabelsOf(request->labels())));
    ToProto(session, response->mutable_session());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* MemoryService::GetSession(grpc::CallbackServerContext* context,
                                                    const v1::GetSessionRequest* request,
                                                    v1::GetSessionResponse* response) {
  return UnaryCall::Start(environment_, context, "GetSession", [this, request, response]() -> absl::Status {
    RETURN_IF_ERROR(NeedSession(request->session_id()));
    ASSIGN_OR_RETURN(const SessionInfo session, environment_.engine.GetSession(request->session_id()));
    ToProto(session, response->mutable_session());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* MemoryService::ListSessions(grpc::CallbackServerContext* context,
                                                      const v1::ListSessionsRequest* request,
                                                      v1::ListSessionsResponse* response) {
  return UnaryCall::Start(environment_, context, "ListSessions", [this, request, response] {
    return ListSessionsOf(environment_.engine, *request, response);
  });
}

grpc::ServerUnaryReactor* MemoryService::DeleteSession(grpc::CallbackServerContext* context,
                                                       const v1::DeleteSessionRequest* request,
                                                       v1::DeleteSessionResponse*) {
  return UnaryCall::Start(environment_, context, "DeleteSession", [this, request]() -> absl::Status {
    RETURN_IF_ERROR(NeedSession(request->session_id()));
    return environment_.engine.DeleteSession(request->session_id());
  });
}

grpc::ServerUnaryReactor* MemoryService::ListModels(grpc::CallbackServerContext* context,
                                                    const v1::ListModelsRequest* request,
                                                    v1::ListModelsResponse* response) {
  return UnaryCall::Start(environment_, context, "ListModels",
                          [this, request, response] { return ListModelsOf(environment_.engine, *request, response); });
}

}  // namespace mnemosyne
