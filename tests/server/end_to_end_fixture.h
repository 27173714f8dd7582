// The real engine behind a real server, spoken to over gRPC, with two small models: of bytes, and of token ids.
#pragma once

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/engine/engine.h"
#include "core/model/config.h"
#include "core/model/parameters.h"
#include "core/model/safetensors.h"
#include "gtest/gtest.h"
#include "tests/server/service_fixture.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {

inline constexpr int32_t kTitanVocabulary = 40;  // of tests/golden/04-swa-lmm

// A model of bytes with random weights that neither explode nor vanish.
inline void WriteBytesModel(const std::string& folder) {
  ModelConfig config;
  config.vocab_size = 258;
  config.dim = 32;
  config.blocks = {BlockKind::kSwa, BlockKind::kLmm};
  config.heads = 2;
  config.ff_dim = 48;
  config.window = 16;
  config.memory = {.heads = 2, .head_dim = 8, .depth = 2, .hidden = 16, .chunk = 8, .conv = 2};
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<NamedTensor> tensors;
  for (const ParameterShape& one : ParameterShapes(config)) {
    int64_t elements = 1;
    for (const int64_t size : one.shape) elements *= size;
    const bool is_norm = one.name.find("norm") != std::string::npos;
    const float scale = one.shape.size() > 1 ? 1.0f / std::sqrt(static_cast<float>(one.shape.back())) : 0.1f;
    std::vector<float> values(elements);
    for (float& value : values) value = is_norm ? 1.0f + 0.1f * normal(random) : scale * normal(random);
    tensors.push_back({.name = one.name, .shape = one.shape, .values = std::move(values)});
  }
  std::filesystem::create_directories(folder);
  ASSERT_OK(WriteFileAtomically(folder + "/config.json", FormatModelConfig(config)));
  ASSERT_OK(WriteFileAtomically(folder + "/model.safetensors", FormatSafetensors(tensors)));
}

class EndToEndTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* source = std::getenv("MNEMOSYNE_SOURCE_DIR");
    ASSERT_NE(source, nullptr) << "ctest sets MNEMOSYNE_SOURCE_DIR";
    WriteBytesModel(folder_.File("bytes"));
    options_.data_path = folder_.File("data");
    options_.models = {{"bytes", folder_.File("bytes")}, {"titan", absl::StrCat(source, "/tests/golden/04-swa-lmm")}};
    options_.workers = 2;
    options_.max_append_bytes = 4096;
    options_.max_prompt_tokens = 256;
    Start();
  }
  void Start() {
    absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Start(options_);
    ASSERT_OK(engine);
    engine_ = *std::move(engine);
    absl::StatusOr<std::unique_ptr<Server>> server =
        Server::Start({.listen = "127.0.0.1:0", .metrics_address = ""}, *engine_);
    ASSERT_OK(server);
    server_ = *std::move(server);
    stub_ = StubFor(server_->port());
  }
  // With other options, over the same data.
  void StartWith(const Engine::Options& options) {
    Stop();
    options_ = options;
    Start();
  }
  void Stop() {
    server_ = nullptr;
    engine_ = nullptr;
  }

  // Streams the requests after an open, flushes, and gives the last ack.
  v1::Ack Tell(const std::string& id, const std::vector<v1::StreamRequest>& requests, const std::string& model = "") {
    TestStream stream(*stub_);
    v1::StreamRequest open = OpenRequest(id, /*create=*/true);
    open.mutable_open()->set_model(model);
    stream.Write(open);
    EXPECT_TRUE(stream.Read().has_opened());
    for (const v1::StreamRequest& request : requests) stream.Write(request);
    stream.Write(FlushRequest());
    stream.WritesDone();
    v1::Ack last;
    bool flushed = false;
    for (v1::StreamResponse response = stream.Read(); response.has_ack(); response = stream.Read()) {
      last = response.ack();
      flushed = flushed || last.flushed();
    }
    EXPECT_TRUE(flushed);
    EXPECT_OK(stream.Finish());
    return last;
  }
  // The status of a stream that opens `id` and sends the requests.
  absl::Status StreamStatus(const std::string& id, const std::vector<v1::StreamRequest>& requests,
                            const std::string& model = "") {
    TestStream stream(*stub_);
    v1::StreamRequest open = OpenRequest(id, /*create=*/true);
    open.mutable_open()->set_model(model);
    stream.Write(open);
    for (const v1::StreamRequest& request : requests) stream.Write(request);
    stream.WritesDone();
    return stream.Finish();
  }
  v1::Session Session(const std::string& id) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id(id);
    v1::GetSessionResponse response;
    EXPECT_OK(FromGrpc(stub_->GetSession(&context, request, &response)));
    return response.session();
  }
  static v1::QueryRequest Question(const std::string& id, const std::string& text = "what was it?") {
    v1::QueryRequest request;
    request.set_session_id(id);
    request.set_text(text);
    request.set_max_tokens(12);
    return request;
  }
  absl::Status QueryStatus(const v1::QueryRequest& request) { return Ask(*stub_, request).status; }

  static std::string Story(int bytes) {
    std::mt19937 random(bytes);
    std::string out;
    while (out.size() < bytes) out.push_back(static_cast<char>('a' + random() % 26));
    return out;
  }

  TempFolder folder_;
  Engine::Options options_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::MemoryService::Stub> stub_;
};

}  // namespace mnemosyne
