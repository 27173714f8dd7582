// Client's calls that move sessions whole: exports, imports, backups.
#include <utility>

#include "client/client_impl.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

constexpr size_t kPartBytes = size_t{256} << 10;  // well below what a server reads as one message

}  // namespace

absl::Status Client::ExportSession(absl::string_view session_id,
                                   const std::function<absl::Status(absl::string_view)>& sink) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  v1::ExportSessionRequest request;
  request.set_session_id(std::string(session_id));
  Impl::Call call(impl_.get(), absl::InfiniteFuture());
  const auto reader = impl_->stub().ExportSession(call.context(), request);
  v1::ExportSessionResponse response;
  absl::Status sunk;
  while (sunk.ok() && reader->Read(&response)) sunk = sink(response.data());
  if (!sunk.ok()) call.context()->TryCancel();
  const absl::Status status = FromWire(reader->Finish());
  return sunk.ok() ? status : sunk;
}

absl::StatusOr<SessionInfo> Client::ImportSession(absl::string_view session_id,
                                                  const std::function<absl::StatusOr<std::string>()>& source) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  v1::ImportSessionRequest request;
  request.set_session_id(std::string(session_id));
  v1::ImportSessionResponse response;
  Impl::Call call(impl_.get(), absl::InfiniteFuture());
  const auto writer = impl_->stub().ImportSession(call.context(), &response);
  bool taken = true;
  while (taken) {
    absl::StatusOr<std::string> bytes = source();
    if (!bytes.ok()) {
      call.context()->TryCancel();
      (void)writer->Finish();
      return bytes.status();
    }
    if (bytes->empty()) break;
    for (absl::string_view left = *bytes; taken && !left.empty(); left.remove_prefix(request.data().size())) {
      request.set_data(std::string(left.substr(0, kPartBytes)));
      taken = writer->Write(request);
      request.clear_session_id();
    }
  }
  writer->WritesDone();
  RETURN_IF_ERROR(FromWire(writer->Finish()));  // also why a write was not taken
  return FromWire(response.session());
}

absl::StatusOr<BackupInfo> Client::CreateBackup() {
  v1::CreateBackupResponse response;
  Impl::Call call(impl_.get());
  RETURN_IF_ERROR(FromWire(impl_->admin_stub().CreateBackup(call.context(), {}, &response)));
  return FromWire(response);
}

}  // namespace mnemosyne::client
