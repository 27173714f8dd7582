// Between the wire's messages and the engine's types. Pure functions.
//
// A request that says something the contract forbids is INVALID_ARGUMENT naming the field and its limit; what only the
// engine can know (vocabulary, sizes, sessions) is left to it.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/engine/engine.h"
#include "grpcpp/support/status.h"
#include "mnemosyne/v1/admin_service.pb.h"
#include "mnemosyne/v1/memory_service.pb.h"

namespace mnemosyne {

// The same code; the message as valid UTF-8 of at most 1 KiB, as it travels in a header.
grpc::Status ToGrpcStatus(const absl::Status& status);

void ToProto(const Watermarks& watermarks, v1::Watermarks* out);
void ToProto(const SessionInfo& session, v1::Session* out);  // without its tenant
void ToProto(const ModelInfo& model, v1::Model* out);
void ToProto(const QuerySummary& summary, v1::Summary* out);
void ToProto(const SessionSettings& settings, v1::SessionSettings* out);
void ToProto(const BackupInfo& backup, v1::CreateBackupResponse* out);

std::map<std::string, std::string> LabelsOf(const google::protobuf::Map<std::string, std::string>& labels);
// What is not set is as in `defaults`. INVALID_ARGUMENT: a duration that is none.
absl::StatusOr<SessionSettings> SettingsOf(const v1::SessionSettings& settings, const SessionSettings& defaults);
// `now`: the session's settings. A field that the mask names and that is not set goes back to `defaults`.
absl::StatusOr<SessionUpdate> UpdateOf(const v1::UpdateSessionRequest& request, const SessionSettings& now,
                                       const SessionSettings& defaults);

absl::StatusOr<Content> ContentOf(const v1::Append& append);
absl::StatusOr<QueryOptions> QueryOptionsOf(const v1::QueryRequest& request);

// How many a List call returns: 0 is 100, above 1000 is 1000.
absl::StatusOr<int> PageSizeOf(int32_t page_size);

}  // namespace mnemosyne
