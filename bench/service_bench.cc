#include "bench/service_bench.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "bench/server_process.h"
#include "client/client.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/model.h"
#include "core/model/parameters.h"
#include "core/model/safetensors.h"

namespace mnemosyne {

namespace {

using Json = nlohmann::json;
using client::Client;
using client::StreamWriter;

// The q-th of `values`, q in [0, 1].
double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}
double Median(const std::vector<double>& values) { return Quantile(values, 0.5); }

// The first error of `work(i)` for i < count, each in a thread of its own.
template <typename Work>
absl::Status InThreads(int count, const Work& work) {
  std::vector<absl::Status> statuses(count);
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&, i] { statuses[i] = work(i); });
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

double SecondsSince(absl::Time begin) { return absl::ToDoubleSeconds(absl::Now() - begin); }

class ServiceBench {
 public:
  ServiceBench(const ServiceBenchOptions& options, std::unique_ptr<Model> model, ResultFile* results)
      : options_(options), model_(std::move(model)), results_(results) {}

  absl::Status Start();
  absl::Status Ingest();
  absl::Status Log();
  absl::Status Appends();
  absl::Status Offsets();
  absl::Status Queries();
  absl::Status States();
  absl::Status Crowd();

 private:
  // A server over an empty folder, or over the one that the last had.
  absl::Status Launch(const std::vector<std::string>& flags, bool keep_data = false);
  void Stop() {
    client_ = nullptr;
    server_.reset();
  }
  absl::Status LaunchWith(int workers) { return Launch({absl::StrCat("--workers=", workers)}); }

  std::vector<int32_t> RandomTokens(int64_t count) {  // from any thread
    std::mt19937_64 random(next_seed_++);
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % model_->config().vocab_size);
    return tokens;
  }
  // Tokens a second of `threads` threads that step `sessions` states of their own, no server; whole blocks of `tokens`,
  // one at least.
  double BareIngest(int threads, int sessions, int64_t tokens);
  int64_t WholeBlocks(int64_t tokens) const {
    const int64_t block = model_->config().block_tokens();
    return std::max<int64_t>(1, tokens / block) * block;
  }
  // The same over gRPC, durable acknowledgements and all, until every block is memorized.
  absl::StatusOr<double> ServedIngest(int sessions, int64_t tokens, const std::string& prefix, int64_t append_tokens);
  absl::Status StreamTo(const std::string& session, int64_t tokens);
  // With the database's write buffers (16 MiB, and 48 of all) empty, whatever was written before.
  absl::StatusOr<int64_t> ResidentWithoutBuffers();
  // From the call to the first token, milliseconds.
  absl::StatusOr<double> FirstToken(const std::string& session, int32_t prompt_tokens);
  // `ratio`: to `of`, null when there is none.
  absl::Status Tell(const std::string& what, double value, const char* unit, const std::string& of = "",
                    double ratio = 0);

  const ServiceBenchOptions options_;
  const std::unique_ptr<Model> model_;
  ResultFile* const results_;
  std::atomic<uint64_t> next_seed_ = 1;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<Client> client_;
};

absl::Status ServiceBench::Tell(const std::string& what, double value, const char* unit, const std::string& of,
                                double ratio) {
  Json measured = {{"value", value}, {"unit", unit}};
  std::printf("%-78s %12.6g %-12s", what.c_str(), value, unit);
  if (!of.empty()) {
    std::printf(" %6.3f of %s", ratio, of.c_str());
    measured["ratio"] = ratio;
    measured["of"] = of;
  }
  std::printf("\n");
  std::fflush(stdout);
  return results_->Add({{"what", what}, {"model", options_.model}}, measured);
}

absl::Status ServiceBench::Launch(const std::vector<std::string>& flags, bool keep_data) {
  Stop();
  const std::string folder = options_.scratch + "/mnemo-bench";
  if (!keep_data) std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  std::vector<std::string> all = {"--models=model=" + options_.model, "--max_queries=1024"};
  all.insert(all.end(), flags.begin(), flags.end());
  ASSIGN_OR_RETURN(ServerProcess server, ServerProcess::Start(options_.mnemosyned, folder, all));
  server_ = std::make_unique<ServerProcess>(std::move(server));
  ASSIGN_OR_RETURN(client_, Client::Connect(server_->address(), {}));
  return client_->ListModels().status();
}

absl::Status ServiceBench::Start() {
  std::vector<double> milliseconds;
  for (int i = 0; i < options_.repeats; ++i) {
    RETURN_IF_ERROR(LaunchWith(options_.workers));
    milliseconds.push_back(absl::ToDoubleMilliseconds(server_->time_to_serving()));
  }
  return Tell("process start to serving", Median(milliseconds), "ms");
}

double ServiceBench::BareIngest(int threads, int sessions, int64_t asked) {
  const int64_t tokens = WholeBlocks(asked);
  const int64_t block = model_->config().block_tokens();
  std::vector<StatePtr> states(sessions, model_->InitialState());
  const std::vector<int32_t> text = RandomTokens(tokens);
  const absl::Time begin = absl::Now();
  InThreads(threads, [&](int thread) {
    EnterWorkerThread();
    for (int64_t from = 0; from + block <= tokens; from += block) {
      for (int s = thread; s < sessions; s += threads) {
        states[s] = model_->StepBlocks({{states[s], absl::MakeConstSpan(text).subspan(from, block)}})[0].state;
      }
    }
    return absl::OkStatus();
  }).IgnoreError();
  return static_cast<double>(sessions * tokens) / SecondsSince(begin);
}

absl::StatusOr<double> ServiceBench::ServedIngest(int sessions, int64_t tokens, const std::string& prefix,
                                                  int64_t append_tokens) {
  std::vector<std::unique_ptr<StreamWriter>> writers(sessions);
  for (int s = 0; s < sessions; ++s) {
    ASSIGN_OR_RETURN(writers[s], client_->OpenStream(absl::StrCat(prefix, s), {}));
  }
  const std::vector<int32_t> text = RandomTokens(tokens);
  const absl::Time begin = absl::Now();
  for (int64_t at = 0; at < tokens; at += append_tokens) {
    const std::vector<int32_t> part(text.begin() + at, text.begin() + std::min(tokens, at + append_tokens));
    for (const auto& writer : writers) RETURN_IF_ERROR(writer->AppendTokens(part));
  }
  for (const auto& writer : writers) RETURN_IF_ERROR(writer->Flush());
  const double seconds = SecondsSince(begin);
  for (const auto& writer : writers) RETURN_IF_ERROR(writer->Close());
  for (int s = 0; s < sessions; ++s) RETURN_IF_ERROR(client_->DeleteSession(absl::StrCat(prefix, s)));
  return static_cast<double>(sessions * tokens) / seconds;
}

absl::Status ServiceBench::Ingest() {
  const int64_t block = model_->config().block_tokens(), tokens = WholeBlocks(options_.session_tokens);
  const int workers = options_.workers;
  std::vector<double> alone, together, two_to_one;
  for (int i = 0; i < options_.repeats; ++i) {
    RETURN_IF_ERROR(LaunchWith(1));
    ASSIGN_OR_RETURN(const double one, ServedIngest(16, tokens, "one", tokens));
    RETURN_IF_ERROR(LaunchWith(workers));
    ASSIGN_OR_RETURN(const double all, ServedIngest(16, tokens, "all", tokens));
    alone.push_back(one);
    together.push_back(all);
    two_to_one.push_back(all / one);
  }
  RETURN_IF_ERROR(Tell("ingest of 16 sessions, 1 worker", Median(alone), "tokens/s"));
  RETURN_IF_ERROR(Tell(absl::StrCat("ingest of 16 sessions, ", workers, " workers"), Median(together), "tokens/s",
                       "1 worker", Median(two_to_one)));

  std::vector<double> bare, served, share;
  RETURN_IF_ERROR(LaunchWith(workers));
  ASSIGN_OR_RETURN(double warm, ServedIngest(64, block, "warm", block));
  for (int i = 0; i < options_.repeats; ++i) {
    const double before = BareIngest(workers, 64, tokens);
    ASSIGN_OR_RETURN(warm, ServedIngest(64, tokens, absl::StrCat("r", i, "-"), tokens));
    const double after = BareIngest(workers, 64, tokens);
    bare.push_back((before + after) / 2);
    served.push_back(warm);
    share.push_back(served.back() / bare.back());
  }
  RETURN_IF_ERROR(
      Tell(absl::StrCat("64 states stepped by ", workers, " threads, no server"), Median(bare), "tokens/s"));
  return Tell("64 sessions streamed over gRPC, durable", Median(served), "tokens/s", "no server", Median(share));
}

// What the log costs: ingest with its fsyncs against ingest without, and the share of the processor that its thread
// takes.
absl::Status ServiceBench::Log() {
  constexpr int64_t kAppend = 64;  // tokens: many records, as of clients that stream what they read
  const int64_t tokens = WholeBlocks(options_.session_tokens);
  const std::string workers = absl::StrCat("--workers=", options_.workers);
  std::vector<double> synced, unsynced, kept, share;
  for (int i = 0; i < options_.repeats; ++i) {
    RETURN_IF_ERROR(Launch({workers}));
    const double before = server_->cpu_seconds(""), before_log = server_->cpu_seconds("mn-log");
    ASSIGN_OR_RETURN(const double with, ServedIngest(16, tokens, "synced", kAppend));
    share.push_back((server_->cpu_seconds("mn-log") - before_log) / (server_->cpu_seconds("") - before));
    RETURN_IF_ERROR(Launch({workers, "--sync_writes=false"}));
    ASSIGN_OR_RETURN(const double without, ServedIngest(16, tokens, "unsynced", kAppend));
    synced.push_back(with);
    unsynced.push_back(without);
    kept.push_back(with / without);
  }
  RETURN_IF_ERROR(Tell("16 sessions in appends of 64 tokens, not fsynced", Median(unsynced), "tokens/s"));
  RETURN_IF_ERROR(
      Tell("16 sessions in appends of 64 tokens, fsynced", Median(synced), "tokens/s", "not fsynced", Median(kept)));
  return Tell("the log's thread, of the server's processor time", 100 * Median(share), "%");
}

absl::Status ServiceBench::Appends() {
  constexpr int kSessions = 64, kAppends = 2000;
  RETURN_IF_ERROR(LaunchWith(options_.workers));
  std::vector<double> fsyncs, appends;
  const std::vector<int32_t> text = RandomTokens(kAppends);
  for (int i = 0; i < options_.repeats; ++i) {
    const std::string path = options_.scratch + "/mnemo-bench/fsyncs";
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0) return absl::InternalError(absl::StrCat("cannot write '", path, "'"));
    constexpr int kSyncs = 200;
    absl::Time begin = absl::Now();
    bool written = true;
    for (int s = 0; s < kSyncs; ++s) written = written && write(file, "0123456789", 10) == 10 && fdatasync(file) == 0;
    fsyncs.push_back(kSyncs / SecondsSince(begin));
    close(file);
    if (!written) return absl::InternalError(absl::StrCat("cannot write '", path, "'"));

    std::vector<std::unique_ptr<StreamWriter>> writers(kSessions);
    for (int s = 0; s < kSessions; ++s) {
      ASSIGN_OR_RETURN(writers[s], client_->OpenStream(absl::StrCat("a", i, "-", s), {}));
    }
    begin = absl::Now();
    RETURN_IF_ERROR(InThreads(8, [&](int thread) -> absl::Status {
      for (const int32_t& token : text) {
        for (int s = thread; s < kSessions; s += 8) RETURN_IF_ERROR(writers[s]->AppendTokens({token}));
      }
      for (int s = thread; s < kSessions; s += 8) {
        RETURN_IF_ERROR(writers[s]->Await(client::DeliveryLevel::kDurable));
      }
      return absl::OkStatus();
    }));
    appends.push_back(kSessions * kAppends / SecondsSince(begin));
    for (const auto& writer : writers) RETURN_IF_ERROR(writer->Flush());
  }
  RETURN_IF_ERROR(Tell("fdatasync of a plain file, one after another", Median(fsyncs), "a second"));
  return Tell("appends of one token, 64 sessions, durable", Median(appends), "a second", "fsyncs a second",
              Median(appends) / Median(fsyncs));
}

absl::Status ServiceBench::StreamTo(const std::string& session, int64_t tokens) {
  ASSIGN_OR_RETURN(const auto writer, client_->OpenStream(session, {}));
  constexpr int64_t kPiece = 16384;
  for (int64_t at = writer->opened().session.watermarks.accepted; at < tokens; at += kPiece) {
    RETURN_IF_ERROR(writer->AppendTokens(RandomTokens(std::min(kPiece, tokens - at))));
  }
  RETURN_IF_ERROR(writer->Flush());
  return writer->Close();
}

absl::StatusOr<double> ServiceBench::FirstToken(const std::string& session, int32_t prompt_tokens) {
  client::QueryOptions options;
  options.max_tokens = 1;
  const std::vector<int32_t> prompt = RandomTokens(prompt_tokens);
  const absl::Time begin = absl::Now();
  absl::Time first = absl::InfiniteFuture();
  RETURN_IF_ERROR(client_
                      ->QueryTokens(session, prompt, options,
                                    [&](const client::QueryDelta&) { first = std::min(first, absl::Now()); })
                      .status());
  // An answer that ends at once brings none.
  return absl::ToDoubleMilliseconds(std::min(first, absl::Now()) - begin);
}

absl::StatusOr<int64_t> ServiceBench::ResidentWithoutBuffers() {
  RETURN_IF_ERROR(client_->CreateBackup().status());  // writes them out
  absl::SleepFor(absl::Seconds(3));                   // what the C library holds free goes back every second
  return server_->resident_bytes();
}

absl::Status ServiceBench::Offsets() {
  // Whole blocks, so that no question has pending tokens to read before it.
  const int64_t near_offset = WholeBlocks(10000), far_offset = WholeBlocks(options_.far_offset),
                window = WholeBlocks(4096);
  RETURN_IF_ERROR(Launch({absl::StrCat("--workers=", options_.workers),
                          absl::StrCat("--backup_path=", options_.scratch, "/mnemo-bench/backups")}));
  for (const char* session : {"near", "far"}) RETURN_IF_ERROR(StreamTo(session, near_offset));
  ASSIGN_OR_RETURN(const int64_t near_bytes, ResidentWithoutBuffers());
  RETURN_IF_ERROR(StreamTo("far", far_offset));
  const int64_t buffered_bytes = server_->resident_bytes();
  ASSIGN_OR_RETURN(const int64_t far_bytes, ResidentWithoutBuffers());
  std::vector<double> near, far, speeds, near_query, far_query;
  int64_t near_at = near_offset, far_at = far_offset;
  for (int i = 0; i < 4 * options_.repeats; ++i) {
    absl::Time begin = absl::Now();
    RETURN_IF_ERROR(StreamTo("near", near_at += window));
    near.push_back(static_cast<double>(window) / SecondsSince(begin));
    begin = absl::Now();
    RETURN_IF_ERROR(StreamTo("far", far_at += window));
    far.push_back(static_cast<double>(window) / SecondsSince(begin));
    speeds.push_back(far.back() / near.back());
    for (int q = 0; q < 10; ++q) {
      ASSIGN_OR_RETURN(near_query.emplace_back(), FirstToken("near", 32));
      ASSIGN_OR_RETURN(far_query.emplace_back(), FirstToken("far", 32));
    }
  }
  const std::string at = absl::StrCat("at offset ", far_offset), of = absl::StrCat("at offset ", near_offset);
  RETURN_IF_ERROR(Tell("ingest of one session " + of, Median(near), "tokens/s"));
  RETURN_IF_ERROR(Tell("ingest of one session " + at, Median(far), "tokens/s", of, Median(speeds)));
  RETURN_IF_ERROR(Tell("query to first token " + of, Median(near_query), "ms"));
  RETURN_IF_ERROR(
      Tell("query to first token " + at, Median(far_query), "ms", of, Median(far_query) / Median(near_query)));
  const auto mebibytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1048576; };
  RETURN_IF_ERROR(Tell("resident, two sessions " + of, mebibytes(near_bytes), "MiB"));
  RETURN_IF_ERROR(Tell("resident, one of them " + at, mebibytes(far_bytes), "MiB", of,
                       static_cast<double>(far_bytes) / static_cast<double>(near_bytes)));
  return Tell("the same, and the database's write buffers as they were", mebibytes(buffered_bytes), "MiB");
}

absl::Status ServiceBench::Queries() {
  constexpr int kSessions = 64, kAsked = 200, kPrompt = 32, kAnswer = 64;
  RETURN_IF_ERROR(LaunchWith(options_.workers));
  for (int s = 0; s < kSessions; ++s) RETURN_IF_ERROR(StreamTo(absl::StrCat("q", s), 256));
  const auto ask = [&](std::vector<double>* times) -> absl::Status {
    for (int i = 0; i < kAsked; ++i) {
      ASSIGN_OR_RETURN(times->emplace_back(), FirstToken(absl::StrCat("q", i % kSessions), kPrompt));
    }
    return absl::OkStatus();
  };
  std::vector<double> idle, loaded;
  RETURN_IF_ERROR(ask(&idle));
  std::atomic<bool> enough = false;
  absl::Status stream_status;
  std::thread load([&] {
    for (int round = 0; !enough && stream_status.ok(); ++round) {
      stream_status = ServedIngest(16, 4096, absl::StrCat("load", round, "-"), 4096).status();
    }
  });
  absl::SleepFor(absl::Seconds(1));
  const absl::Status asked = ask(&loaded);
  enough = true;
  load.join();
  RETURN_IF_ERROR(asked);
  RETURN_IF_ERROR(stream_status);
  const double idle_p99 = Quantile(idle, 0.99);
  RETURN_IF_ERROR(Tell("query to first token, idle, p50", Median(idle), "ms"));
  RETURN_IF_ERROR(Tell("query to first token, idle, p99", idle_p99, "ms"));
  RETURN_IF_ERROR(Tell("query to first token, ingest of 16 sessions, p50", Median(loaded), "ms", "idle p50",
                       Median(loaded) / Median(idle)));
  RETURN_IF_ERROR(Tell("query to first token, ingest of 16 sessions, p99", Quantile(loaded, 0.99), "ms", "idle p99",
                       Quantile(loaded, 0.99) / idle_p99));

  const auto decode = [&](int queries) -> absl::StatusOr<double> {
    std::vector<int64_t> answered(queries);
    client::QueryOptions decoding;
    decoding.max_tokens = kAnswer;
    decoding.temperature = 100;  // few answers of such tokens end early
    std::vector<int32_t> prompt = RandomTokens(2);
    const absl::Time begin = absl::Now();
    RETURN_IF_ERROR(InThreads(queries, [&](int i) -> absl::Status {
      client::QueryOptions mine = decoding;
      mine.seed = i;
      for (int again = 0; again < (queries == 1 ? 8 : 1); ++again) {
        ASSIGN_OR_RETURN(const client::QuerySummary summary,
                         client_->QueryTokens(absl::StrCat("q", i), prompt, mine, {}));
        answered[i] += summary.answer_tokens;
      }
      return absl::OkStatus();
    }));
    int64_t tokens = 0;
    for (const int64_t count : answered) tokens += count;
    return static_cast<double>(tokens) / SecondsSince(begin);
  };
  std::vector<double> one, eight, many;
  for (int i = 0; i < options_.repeats; ++i) {
    ASSIGN_OR_RETURN(one.emplace_back(), decode(1));
    ASSIGN_OR_RETURN(eight.emplace_back(), decode(8));
    ASSIGN_OR_RETURN(many.emplace_back(), decode(64));
  }
  RETURN_IF_ERROR(Tell("decoding, 1 query", Median(one), "tokens/s"));
  RETURN_IF_ERROR(
      Tell("decoding, 8 queries at once", Median(eight), "tokens/s", "1 query", Median(eight) / Median(one)));
  return Tell("decoding, 64 queries at once", Median(many), "tokens/s", "1 query", Median(many) / Median(one));
}

// A model of width 512 with eight memories, weights drawn at random: its states are larger than a core's caches.
absl::Status WriteWideModel(const std::string& folder, std::mt19937_64& random) {
  ModelConfig config;
  config.vocab_size = 258;
  config.dim = 512;
  config.blocks.assign(8, BlockKind::kLmm);
  config.heads = 8;
  config.ff_dim = 512;
  config.memory = {.heads = 8, .head_dim = 64, .depth = 2, .hidden = 128, .chunk = 64, .conv = 4, .max_grad_norm = 1};
  std::vector<NamedTensor> tensors;
  std::normal_distribution<float> normal;
  for (const ParameterShape& one : ParameterShapes(config)) {
    int64_t elements = 1;
    for (const int64_t size : one.shape) elements *= size;
    const float scale = 1.0f / std::sqrt(static_cast<float>(one.shape.back()));
    std::vector<float> values(elements);
    for (float& value : values) value = scale * normal(random);
    tensors.push_back({.name = one.name, .shape = one.shape, .values = std::move(values)});
  }
  std::filesystem::create_directories(folder);
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/config.json", FormatModelConfig(config)));
  return WriteFileAtomically(folder + "/model.safetensors", FormatSafetensors(tensors));
}

absl::Status ServiceBench::States() {
  const std::string folder = options_.scratch + "/mnemo-bench/wide";
  std::mt19937_64 random(1);
  RETURN_IF_ERROR(WriteWideModel(folder, random));
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Load(folder, {}));
  const std::vector<int32_t> block(model->config().block_tokens(), 1);
  const BlockResult step = model->StepBlocks({{model->InitialState(), block}})[0];
  RETURN_IF_ERROR(step.status);
  const std::string bytes = model->EncodeState(*step.state);
  const auto size = static_cast<double>(bytes.size());
  std::string copy = bytes;
  absl::Status status;
  const auto speed = [&](const auto& work) {  // bytes a second
    const absl::Time begin = absl::Now();
    for (int i = 0; i < 10; ++i) work();
    return 10 * size / SecondsSince(begin);
  };
  const auto copy_once = [&] { std::memcpy(copy.data(), bytes.data(), bytes.size()); };
  const std::vector<std::pair<std::string, std::function<void()>>> ways = {
      {"to its bytes, checksummed",
       [&] {
         if (model->EncodeState(*step.state).size() != bytes.size()) status.Update(absl::InternalError("another size"));
       }},
      {"from its bytes, checked", [&] { status.Update(model->DecodeState(bytes).status()); }},
      {"forked", [&] { model->NewFork(step.state); }}};
  for (const auto& [what, work] : ways) {
    std::vector<double> speeds, shares;
    for (int i = 0; i < options_.repeats; ++i) {
      const double before = speed(copy_once);
      speeds.push_back(speed(work));
      shares.push_back(speeds.back() / ((before + speed(copy_once)) / 2));
    }
    RETURN_IF_ERROR(status);
    RETURN_IF_ERROR(Tell(absl::StrCat("a state of ", bytes.size() >> 20, " MiB, ", what), Median(speeds) / 1e9, "GB/s",
                         "memcpy", Median(shares)));
  }
  return absl::OkStatus();
}

absl::Status ServiceBench::Crowd() {
  const int64_t block = model_->config().block_tokens(), state = model_->state_bytes();
  const auto name = [](int64_t s) { return absl::StrCat("c", s); };
  // First with room for all: what one session costs.
  const int64_t fit = options_.crowd / 10;
  RETURN_IF_ERROR(
      Launch({absl::StrCat("--workers=", options_.workers), absl::StrCat("--max_resident_bytes=", fit * state)}));
  RETURN_IF_ERROR(StreamTo(name(0), block));
  const int64_t before = server_->resident_bytes();
  for (int64_t s = 1; s < fit; ++s) RETURN_IF_ERROR(StreamTo(name(s), block));
  const auto grown = static_cast<double>(server_->resident_bytes() - before);
  RETURN_IF_ERROR(Tell("resident, a server with one session", static_cast<double>(before) / 1048576.0, "MiB"));
  RETURN_IF_ERROR(Tell(absl::StrCat("resident, each of ", fit - 1, " more"),
                       grown / static_cast<double>(fit - 1) / 1048576.0, "MiB", "its state",
                       grown / static_cast<double>((fit - 1) * state)));

  // Then ten times as many, in turn: each comes back from the disk for one block.
  const auto rounds = [&](int64_t first, int64_t tokens) -> absl::StatusOr<double> {
    const absl::Time begin = absl::Now();
    RETURN_IF_ERROR(InThreads(8, [&](int thread) -> absl::Status {
      for (int64_t s = first + thread; s < options_.crowd; s += 8) RETURN_IF_ERROR(StreamTo(name(s), tokens));
      return absl::OkStatus();
    }));
    return static_cast<double>((options_.crowd - first) * block) / SecondsSince(begin);
  };
  RETURN_IF_ERROR(rounds(fit, block).status());
  const double bare = BareIngest(options_.workers, 16, options_.session_tokens);
  ASSIGN_OR_RETURN(const double turns, rounds(0, 2 * block));
  RETURN_IF_ERROR(Tell(absl::StrCat(options_.crowd, " sessions in turn, a block each, memory for ", fit), turns,
                       "tokens/s", "no server", turns / bare));
  std::vector<double> reloads;
  for (int64_t s = 0; s < std::min<int64_t>(50, options_.crowd - fit); ++s) {
    const absl::Time begin = absl::Now();
    RETURN_IF_ERROR(client_->GetSession(name(s)).status());
    reloads.push_back(1e3 * SecondsSince(begin));
  }
  RETURN_IF_ERROR(Tell("a session's return from the disk", Median(reloads), "ms"));
  const double alone = BareIngest(1, 4, options_.session_tokens);
  RETURN_IF_ERROR(Tell("tokens that are replayed in the same time", Median(reloads) / 1e3 * alone, "tokens"));

  server_->Kill();
  RETURN_IF_ERROR(Launch({absl::StrCat("--workers=", options_.workers)}, /*keep_data=*/true));
  return Tell(absl::StrCat("start over ", options_.crowd, " sessions after kill -9, to serving"),
              absl::ToDoubleMilliseconds(server_->time_to_serving()), "ms");
}

}  // namespace

absl::Status RunServiceBench(const ServiceBenchOptions& options, ResultFile* results) {
  using Part = absl::Status (ServiceBench::*)();
  const std::vector<std::pair<std::string, Part>> parts = {
      {"start", &ServiceBench::Start},     {"ingest", &ServiceBench::Ingest},   {"log", &ServiceBench::Log},
      {"appends", &ServiceBench::Appends}, {"offsets", &ServiceBench::Offsets}, {"queries", &ServiceBench::Queries},
      {"states", &ServiceBench::States},   {"crowd", &ServiceBench::Crowd}};
  std::vector<std::string> known;
  for (const auto& [name, part] : parts) known.push_back(name);
  for (const std::string& name : options.parts) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no part '", name, "'; there are ", absl::StrJoin(known, ", ")));
    }
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Model> model, Model::Load(options.model, {}));
  ServiceBench bench(options, std::move(model), results);
  for (const auto& [name, part] : parts) {
    if (std::find(options.parts.begin(), options.parts.end(), name) == options.parts.end()) continue;
    RETURN_IF_ERROR((bench.*part)());
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
