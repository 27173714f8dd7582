// Between the wire's messages and the client's values. Internal to client/.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/client.h"
#include "client/stream_writer.h"
#include "mnemosyne/v1/admin_service.pb.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"

namespace mnemosyne::client {

// How long the server asked to wait before a call like this one; zero where it did not. After Finish.
absl::Duration RetryAfter(const grpc::ClientContext& context);
absl::Status FromWire(const grpc::Status& status);
Watermarks FromWire(const v1::Watermarks& watermarks);
SessionInfo FromWire(const v1::Session& session);
ModelInfo FromWire(const v1::Model& model);
QuerySummary FromWire(const v1::Summary& summary);
BackupInfo FromWire(const v1::CreateBackupResponse& backup);
void ToWire(const SessionSettings& settings, v1::SessionSettings* out);  // what is set

// INVALID_ARGUMENT, naming `what`, when the text is not UTF-8: the wire could not carry it.
absl::Status CheckUtf8(absl::string_view what, absl::string_view text);
absl::Status CheckLabels(const Labels& labels);
absl::Status SetLabels(const Labels& labels, google::protobuf::Map<std::string, std::string>* out);  // checks them too

// Shared, so that a writer may outlive its client.
using SharedStub = std::shared_ptr<v1::MemoryService::Stub>;

}  // namespace mnemosyne::client
