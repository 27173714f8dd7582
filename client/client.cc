#include "client/client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/channel.h"
#include "client/client_impl.h"
#include "client/stream_core.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

constexpr int kPageSize = 1000;

}  // namespace

absl::StatusOr<QuerySummary> Client::Impl::Query(v1::QueryRequest* request, absl::string_view session_id,
                                                 const QueryOptions& options,
                                                 const std::function<void(const QueryDelta&)>& on_delta) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  request->set_session_id(std::string(session_id));
  if (options.max_tokens) request->set_max_tokens(*options.max_tokens);
  if (options.temperature) request->set_temperature(*options.temperature);
  if (options.top_k) request->set_top_k(*options.top_k);
  if (options.top_p) request->set_top_p(*options.top_p);
  if (options.seed) request->set_seed(*options.seed);
  for (const std::string& stop : options.stop) {
    RETURN_IF_ERROR(CheckUtf8("stop string", stop));
    request->add_stop(stop);
  }
  request->set_remember(options.remember);
  request->set_raw_prompt(options.raw_prompt);
  if (options.as_of_offset) request->set_as_of_offset(*options.as_of_offset);

  Call call(this, options.deadline);
  std::unique_ptr<grpc::ClientReader<v1::QueryResponse>> reader = stub_->Query(call.context(), *request);
  absl::optional<QuerySummary> summary;
  v1::QueryResponse response;
  while (reader->Read(&response)) {
    if (response.has_summary()) {
      summary = FromWire(response.summary());
    } else if (on_delta != nullptr) {
      const v1::Delta& delta = response.delta();
      on_delta({.text = delta.text(),
                .token_ids = {delta.token_ids().begin(), delta.token_ids().end()},
                .log_probabilities = {delta.log_probabilities().begin(), delta.log_probabilities().end()}});
    }
  }
  RETURN_IF_ERROR(FromWire(reader->Finish()));
  if (!summary) return absl::InternalError("the server ended an answer without its summary");
  return *summary;
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& target, const Options& options) {
  if (options.token.find_first_of("\r\n") != std::string::npos) {
    return absl::InvalidArgumentError("the token has more than one line");
  }
  std::shared_ptr<grpc::Channel> channel = MakeChannel(target, options);
  if (!channel->WaitForConnected(absl::ToChronoTime(absl::Now() + options.connect_timeout))) {
    return absl::UnavailableError(
        absl::StrCat("no connection to '", target, "' within ", absl::FormatDuration(options.connect_timeout)));
  }
  return std::unique_ptr<Client>(new Client(std::make_unique<Impl>(std::move(channel), options)));
}

absl::StatusOr<std::vector<ModelInfo>> Client::ListModels() {
  std::vector<ModelInfo> models;
  v1::ListModelsRequest request;
  request.set_page_size(kPageSize);
  do {
    v1::ListModelsResponse response;
    Impl::Call call(impl_.get());
    RETURN_IF_ERROR(FromWire(impl_->stub().ListModels(call.context(), request, &response)));
    for (const v1::Model& model : response.models()) models.push_back(FromWire(model));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return models;
}

absl::StatusOr<QuerySummary> Client::Query(absl::string_view session_id, absl::string_view prompt,
                                           const QueryOptions& options,
                                           const std::function<void(const QueryDelta&)>& on_delta) {
  RETURN_IF_ERROR(CheckUtf8("question", prompt));
  v1::QueryRequest request;
  request.set_text(std::string(prompt));
  return impl_->Query(&request, session_id, options, on_delta);
}

absl::StatusOr<QuerySummary> Client::QueryTokens(absl::string_view session_id, absl::Span<const int32_t> prompt,
                                                 const QueryOptions& options,
                                                 const std::function<void(const QueryDelta&)>& on_delta) {
  v1::QueryRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(prompt.begin(), prompt.end());
  return impl_->Query(&request, session_id, options, on_delta);
}

absl::StatusOr<std::unique_ptr<StreamWriter>> Client::OpenStream(absl::string_view session_id,
                                                                 const StreamOptions& options) {
  RETURN_IF_ERROR(CheckUtf8("session id", session_id));
  RETURN_IF_ERROR(CheckUtf8("model's name", options.model));
  RETURN_IF_ERROR(CheckLabels(options.labels));
  if (options.max_unacknowledged_bytes < 1 || options.max_message_bytes < 1) {
    return absl::InvalidArgumentError("max_unacknowledged_bytes and max_message_bytes must be at least 1");
  }
  auto core = std::make_unique<StreamWriter::Core>(impl_->shared_stub(), std::string(session_id), options);
  RETURN_IF_ERROR(core->Start());
  return std::unique_ptr<StreamWriter>(new StreamWriter(std::move(core)));
}

void Client::Cancel() { impl_->Cancel(); }

}  // namespace mnemosyne::client
