#include "server/transfer_calls.h"

#include <utility>

#include "absl/memory/memory.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

namespace {

absl::Status ClientGone() { return absl::CancelledError("the client cancelled the call or is gone"); }

// A draining server ends the call.
template <typename Call>
CallRegistry::End EndOf(const std::shared_ptr<Call>& call, void (Call::*end)(const absl::Status&)) {
  return [weak = std::weak_ptr<Call>(call), end](const absl::Status& status) {
    if (const std::shared_ptr<Call> live = weak.lock()) (live.get()->*end)(status);
  };
}

}  // namespace

// ---- ExportCall

ExportCall* ExportCall::Start(const CallEnvironment& environment, grpc::CallbackServerContext* context,
                              const v1::ExportSessionRequest& request) {
  std::shared_ptr<ExportCall> call = absl::WrapUnique(new ExportCall(environment, context));
  call->self_ = call;
  call->registration_ = environment.registry.Add(EndOf(call, &ExportCall::End));
  const auto refuse = [&call](const absl::Status& status) {
    {
      absl::MutexLock lock(&call->mutex_);  // whoever drains may be ending it too
      call->busy_ = false;
    }
    call->End(status);
  };
  const absl::StatusOr<std::string> id = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(call->scope_.Admit(Role::kRead));
    return call->scope_.SessionId(request.session_id());
  }();
  if (!id.ok()) {
    refuse(id.status());
  } else if (!environment.blocking.Schedule([call, id = *id] { call->Begin(id); })) {
    refuse(Busy());
  }
  return call.get();
}

ExportCall::~ExportCall() {
  export_ = nullptr;
  environment_.registry.Remove(registration_);
}

void ExportCall::Begin(const std::string& session_id) {
  absl::StatusOr<std::unique_ptr<SessionExport>> out = environment_.engine.ExportSession(session_id);
  if (out.ok()) {
    export_ = *std::move(out);
    return SendNext();
  }
  absl::MutexLock lock(&mutex_);
  if (!last_) last_ = out.status();
  busy_ = false;
  FinishIfIdle();
}

void ExportCall::SendNext() {
  absl::StatusOr<std::string> part = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(scope_.CheckStillAdmitted(Role::kRead));
    return export_->Next();
  }();
  absl::MutexLock lock(&mutex_);
  if (!last_ && !part.ok()) last_ = part.status();
  if (!last_ && part->empty()) last_ = absl::OkStatus();
  if (last_) {
    busy_ = false;
    return FinishIfIdle();
  }
  response_.set_data(*std::move(part));
  StartWrite(&response_);
}

void ExportCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  if (!ok && !last_) last_ = ClientGone();
  if (last_) {
    busy_ = false;
    return FinishIfIdle();
  }
  environment_.blocking.Continue([call = shared_from_this()] { call->SendNext(); });
}

void ExportCall::End(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!last_) last_ = status;
  FinishIfIdle();
}

void ExportCall::FinishIfIdle() {
  if (busy_ || finished_) return;
  finished_ = true;
  Finish(scope_.Last(*last_));
}

void ExportCall::OnCancel() { End(ClientGone()); }
void ExportCall::OnDone() { const std::shared_ptr<ExportCall> last_reference = std::move(self_); }

// ---- ImportCall

ImportCall* ImportCall::Start(const CallEnvironment& environment, grpc::CallbackServerContext* context,
                              v1::ImportSessionResponse* response) {
  std::shared_ptr<ImportCall> call = absl::WrapUnique(new ImportCall(environment, context, response));
  call->self_ = call;
  call->registration_ = environment.registry.Add(EndOf(call, &ImportCall::End));
  if (const absl::Status admitted = call->scope_.Admit(Role::kWrite); !admitted.ok()) {
    call->End(admitted);
  } else {
    absl::MutexLock lock(&call->mutex_);  // whoever drains may have ended it
    if (!call->finished_) call->StartRead(&call->request_);
  }
  return call.get();
}

ImportCall::~ImportCall() {
  import_ = nullptr;  // leaves nothing of what was not finished
  if (meter_ != nullptr) meter_->AddImporting(-imported_bytes_);
  environment_.registry.Remove(registration_);
}

void ImportCall::OnReadDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  if (last_) return FinishIfIdle();
  busy_ = true;
  const std::shared_ptr<ImportCall> call = shared_from_this();
  environment_.blocking.Continue(ok ? std::function<void()>([call] { call->Take(); })
                                    : std::function<void()>([call] { call->FinishImport(); }));
}

absl::Status ImportCall::Add() {
  RETURN_IF_ERROR(scope_.CheckStillAdmitted(Role::kWrite));
  if (import_ == nullptr) {
    ASSIGN_OR_RETURN(const std::string id, scope_.NewSessionId(request_.session_id()));
    ASSIGN_OR_RETURN(import_, environment_.engine.ImportSession(id));
  } else if (!request_.session_id().empty()) {
    return absl::InvalidArgumentError("session_id is set in another than the first request");
  }
  if (meter_ == nullptr) meter_ = scope_.caller().meter;
  if (meter_ != nullptr) {  // no session has them yet, and the disk does
    meter_->AddImporting(static_cast<int64_t>(request_.data().size()));
    imported_bytes_ += static_cast<int64_t>(request_.data().size());
  }
  RETURN_IF_ERROR(scope_.CheckStoredBytes());
  return import_->Add(request_.data());
}

void ImportCall::Take() {
  const absl::Status added = Add();
  absl::MutexLock lock(&mutex_);
  busy_ = false;
  if (!added.ok() && !last_) last_ = added;
  if (last_) return FinishIfIdle();
  StartRead(&request_);
}

void ImportCall::FinishImport() {
  absl::Status status = absl::InvalidArgumentError("the import has no request");
  if (context_->IsCancelled()) {
    status = ClientGone();
  } else if (import_ != nullptr) {
    status = scope_.CheckStillAdmitted(Role::kWrite);
    const absl::StatusOr<SessionInfo> session = status.ok() ? import_->Finish() : status;
    status = session.status();
    if (session.ok()) {
      scope_.NoteSession(session->id);
      ToProto(*session, response_->mutable_session());
    }
  }
  absl::MutexLock lock(&mutex_);
  if (!last_) last_ = status;
  busy_ = false;
  FinishIfIdle();
}

void ImportCall::End(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!last_) last_ = status;
  FinishIfIdle();
}

void ImportCall::FinishIfIdle() {
  if (busy_ || finished_) return;
  finished_ = true;
  Finish(scope_.Last(*last_));
}

void ImportCall::OnCancel() { End(ClientGone()); }
void ImportCall::OnDone() { const std::shared_ptr<ImportCall> last_reference = std::move(self_); }

}  // namespace mnemosyne
