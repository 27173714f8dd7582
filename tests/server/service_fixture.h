// Short ways to speak to a Server over the wire: requests made in a line, a stream that gives its status at the end.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"
#include "server/server.h"

namespace mnemosyne {

inline absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

inline std::unique_ptr<v1::MemoryService::Stub> StubFor(int port) {
  return v1::MemoryService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
}

inline v1::StreamRequest OpenRequest(const std::string& id, bool create = false, bool take_over = false) {
  v1::StreamRequest request;
  request.mutable_open()->set_session_id(id);
  request.mutable_open()->set_create_if_missing(create);
  request.mutable_open()->set_take_over(take_over);
  return request;
}

inline v1::StreamRequest TextRequest(uint64_t sequence, const std::string& text) {
  v1::StreamRequest request;
  request.mutable_append()->set_sequence(sequence);
  request.mutable_append()->set_text(text);
  return request;
}

inline v1::StreamRequest TokensRequest(uint64_t sequence, const std::vector<int32_t>& tokens) {
  v1::StreamRequest request;
  request.mutable_append()->set_sequence(sequence);
  request.mutable_append()->mutable_token_ids()->mutable_ids()->Add(tokens.begin(), tokens.end());
  return request;
}

inline v1::StreamRequest FlushRequest() {
  v1::StreamRequest request;
  request.mutable_flush();
  return request;
}

// Everything that ExportSession sends.
inline absl::StatusOr<std::string> Exported(v1::MemoryService::Stub& stub, const std::string& id) {
  grpc::ClientContext context;
  v1::ExportSessionRequest request;
  request.set_session_id(id);
  const auto reader = stub.ExportSession(&context, request);
  std::string bytes;
  v1::ExportSessionResponse response;
  while (reader->Read(&response)) bytes += response.data();
  const absl::Status status = FromGrpc(reader->Finish());
  if (!status.ok()) return status;
  return bytes;
}

// Sends the requests to ImportSession as they are.
inline absl::StatusOr<v1::Session> Import(v1::MemoryService::Stub& stub,
                                          const std::vector<v1::ImportSessionRequest>& requests) {
  grpc::ClientContext context;
  v1::ImportSessionResponse response;
  const auto writer = stub.ImportSession(&context, &response);
  for (const v1::ImportSessionRequest& request : requests) {
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  const absl::Status status = FromGrpc(writer->Finish());
  if (!status.ok()) return status;
  return response.session();
}

inline v1::ImportSessionRequest ImportRequest(const std::string& id, const std::string& data) {
  v1::ImportSessionRequest request;
  request.set_session_id(id);
  request.set_data(data);
  return request;
}

// A stream of one client.
class TestStream {
 public:
  explicit TestStream(v1::MemoryService::Stub& stub) : stream_(stub.Stream(&context_)) {}
  ~TestStream() { Cancel(); }

  bool Write(const v1::StreamRequest& request) { return stream_->Write(request); }
  void WritesDone() { stream_->WritesDone(); }
  void TryCancel() { context_.TryCancel(); }  // from any thread
  void Cancel() {
    if (finished_) return;
    context_.TryCancel();
    (void)Finish();  // whichever way it ends
  }
  v1::StreamResponse Read() {  // an empty message at the end
    v1::StreamResponse response;
    if (!stream_->Read(&response)) response.Clear();
    return response;
  }
  // The stream's end; acks on the way are dropped.
  absl::Status Finish() {
    finished_ = true;
    v1::StreamResponse dropped;
    while (stream_->Read(&dropped)) {
    }
    return FromGrpc(stream_->Finish());
  }
  std::string TrailingMetadata(const std::string& key) const {
    const auto found = context_.GetServerTrailingMetadata().find(key);
    if (found == context_.GetServerTrailingMetadata().end()) return "";
    return std::string(found->second.data(), found->second.size());
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> stream_;
  bool finished_ = false;
};

inline absl::StatusOr<v1::EraseSpanResponse> EraseSpan(v1::MemoryService::Stub& stub, const std::string& id,
                                                       int64_t begin, int64_t end) {
  grpc::ClientContext context;
  v1::EraseSpanRequest request;
  request.set_session_id(id);
  request.set_begin_offset(begin);
  request.set_end_offset(end);
  v1::EraseSpanResponse response;
  const absl::Status status = FromGrpc(stub.EraseSpan(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

struct Answer {
  absl::Status status;
  std::string text;
  std::vector<int32_t> tokens;
  v1::Summary summary;
};

inline Answer Ask(v1::MemoryService::Stub& stub, const v1::QueryRequest& request) {
  grpc::ClientContext context;
  const auto reader = stub.Query(&context, request);
  Answer answer;
  v1::QueryResponse response;
  while (reader->Read(&response)) {
    EXPECT_FALSE(answer.summary.answer_tokens() > 0) << "a message after the summary";
    answer.text += response.delta().text();
    answer.tokens.insert(answer.tokens.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
    if (response.has_summary()) answer.summary = response.summary();
  }
  answer.status = FromGrpc(reader->Finish());
  return answer;
}

}  // namespace mnemosyne
