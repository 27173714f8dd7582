// Client's calls about sessions as such: made, changed, looked at, deleted.
#include <utility>

#include "client/client_impl.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

constexpr int kPageSize = 1000;

}  // namespace

absl::StatusOr<SessionInfo> Client::CreateSession(absl::string_view session_id, absl::string_view model,
                                                  const Labels& labels, const SessionSettings& settings) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  RETURN_IF_ERROR(CheckUtf8("model's name", model));
  v1::CreateSessionRequest request;
  request.set_session_id(std::string(session_id));
  request.set_model(std::string(model));
  RETURN_IF_ERROR(SetLabels(labels, request.mutable_labels()));
  ToWire(settings, request.mutable_settings());
  v1::CreateSessionResponse response;
  Impl::Call call(impl_.get());
  RETURN_IF_ERROR(FromWire(impl_->stub().CreateSession(call.context(), request, &response)));
  return FromWire(response.session());
}

absl::StatusOr<SessionInfo> Client::UpdateSession(absl::string_view session_id, const SessionUpdate& update) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  v1::UpdateSessionRequest request;
  request.set_session_id(std::string(session_id));
  const SessionSettings& settings = update.settings;
  ToWire(settings, request.mutable_settings());
  google::protobuf::FieldMask& mask = *request.mutable_update_mask();
  if (update.labels) {
    RETURN_IF_ERROR(SetLabels(*update.labels, request.mutable_labels()));
    mask.add_paths("labels");
  }
  if (settings.retention) mask.add_paths("settings.retention");
  if (settings.ttl) mask.add_paths("settings.ttl");
  if (settings.idle_ttl) mask.add_paths("settings.idle_ttl");
  if (settings.max_backlog_tokens) mask.add_paths("settings.max_backlog_tokens");
  if (settings.max_log_bytes) mask.add_paths("settings.max_log_bytes");
  v1::UpdateSessionResponse response;
  Impl::Call call(impl_.get());
  RETURN_IF_ERROR(FromWire(impl_->stub().UpdateSession(call.context(), request, &response)));
  return FromWire(response.session());
}

absl::StatusOr<SessionInfo> Client::ForkSession(absl::string_view session_id, absl::string_view fork_id,
                                                const ForkOptions& options) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  RETURN_IF_ERROR(CheckUtf8("fork's id", fork_id));
  v1::ForkSessionRequest request;
  request.set_session_id(std::string(session_id));
  request.set_fork_id(std::string(fork_id));
  if (options.offset) request.set_offset(*options.offset);
  RETURN_IF_ERROR(SetLabels(options.labels, request.mutable_labels()));
  if (!options.settings.empty()) ToWire(options.settings, request.mutable_settings());
  v1::ForkSessionResponse response;
  Impl::Call call(impl_.get());
  RETURN_IF_ERROR(FromWire(impl_->stub().ForkSession(call.context(), request, &response)));
  return FromWire(response.session());
}

absl::StatusOr<ErasedSpan> Client::EraseSpan(absl::string_view session_id, int64_t begin, int64_t end) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  v1::EraseSpanRequest request;
  request.set_session_id(std::string(session_id));
  request.set_begin_offset(begin);
  request.set_end_offset(end);
  v1::EraseSpanResponse response;
  Impl::Call call(impl_.get());
  RETURN_IF_ERROR(FromWire(impl_->stub().EraseSpan(call.context(), request, &response)));
  return ErasedSpan{FromWire(response.session()), {response.still_in().begin(), response.still_in().end()}};
}

absl::StatusOr<SessionInfo> Client::GetSession(absl::string_view session_id) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  v1::GetSessionRequest request;
  request.set_session_id(std::string(session_id));
  v1::GetSessionResponse response;
  Impl::Call call(impl_.get());
  RETURN_IF_ERROR(FromWire(impl_->stub().GetSession(call.context(), request, &response)));
  return FromWire(response.session());
}

absl::StatusOr<std::vector<SessionInfo>> Client::ListSessions(const Labels& labels) {
  std::vector<SessionInfo> sessions;
  v1::ListSessionsRequest request;
  request.set_page_size(kPageSize);
  RETURN_IF_ERROR(SetLabels(labels, request.mutable_labels()));
  do {
    v1::ListSessionsResponse response;
    Impl::Call call(impl_.get());
    RETURN_IF_ERROR(FromWire(impl_->stub().ListSessions(call.context(), request, &response)));
    for (const v1::Session& session : response.sessions()) sessions.push_back(FromWire(session));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return sessions;
}

absl::Status Client::DeleteSession(absl::string_view session_id) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  v1::DeleteSessionRequest request;
  request.set_session_id(std::string(session_id));
  v1::DeleteSessionResponse response;
  Impl::Call call(impl_.get());
  return FromWire(impl_->stub().DeleteSession(call.context(), request, &response));
}

absl::StatusOr<SessionInfo> Client::Reset(absl::string_view session_id, int64_t offset) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  v1::ResetRequest request;
  request.set_session_id(std::string(session_id));
  request.set_offset(offset);
  v1::ResetResponse response;
  Impl::Call call(impl_.get());
  RETURN_IF_ERROR(FromWire(impl_->stub().Reset(call.context(), request, &response)));
  return FromWire(response.session());
}

}  // namespace mnemosyne::client
