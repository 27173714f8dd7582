// Streams that nobody would write: however long, every stored number stays finite, none is subnormal (they are many
// times slower), a memory grows no further than its max_grad_norm allows, or the step is refused and the state before
// it stands. Others' sessions do not notice. The long form also measures the processor's time a token beside ordinary
// text's, and fails when it is three times as much.
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/model/model.h"
#include "tests/core/engine/engine_fixture.h"
#include "tests/torture/torture.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

enum class StreamKind {
  kOrdinary,     // this repository's documents
  kZeros,        // one byte, again and again
  kLetters,      // another
  kRandomBytes,  //
  kBinary,       // this program
  kAlternating,  // the first id and the last, in turn
  kRuns,         // the same, a chunk of each in turn: every gradient of a chunk points the same way
  kRandomIds,    // special ids among them
  kUnicode,      // every scalar value in order
};
constexpr StreamKind kHostile[] = {StreamKind::kZeros,     StreamKind::kLetters,     StreamKind::kRandomBytes,
                                   StreamKind::kBinary,    StreamKind::kAlternating, StreamKind::kRuns,
                                   StreamKind::kRandomIds, StreamKind::kUnicode};
constexpr int64_t kUnicodeBytes = 4382592;  // of all scalar values as UTF-8

const char* Name(StreamKind kind) {
  constexpr const char* kNames[] = {"ordinary",    "zeros", "letters",    "random bytes", "binary",
                                    "alternating", "runs",  "random ids", "unicode"};
  return kNames[static_cast<int>(kind)];
}

std::string SourceFolder() {
  const char* given = std::getenv("MNEMOSYNE_SOURCE_DIR");
  return given != nullptr ? given : ".";
}

const std::string& OrdinaryText() {
  static const std::string* const text = [] {
    auto* all = new std::string;
    for (const char* name : {"architecture", "client", "glossary", "server", "training"}) {
      const auto page = ReadFile(absl::StrCat(SourceFolder(), "/docs/", name, ".md"));
      EXPECT_TRUE(page.ok()) << page.status();
      if (page.ok()) *all += *page;
    }
    return all;
  }();
  return *text;
}

const std::string& Binary() {
  static const std::string* const bytes = [] {
    const auto program = ReadFile("/proc/self/exe");
    EXPECT_TRUE(program.ok()) << program.status();
    return new std::string(program.ok() ? *program : "");
  }();
  return *bytes;
}

std::string Utf8(uint32_t c) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
}

// An endless stream of a model's tokens. Of Unicode `tokens` see an even part, or all when they are enough.
class TokenStream {
 public:
  TokenStream(StreamKind kind, const ModelConfig& config, const Tokenizer* tokenizer, uint64_t seed, int64_t tokens)
      : kind_(kind),
        vocab_size_(config.vocab_size),
        chunk_(config.memory.chunk),
        tokenizer_(config.tokenizer.kind == TokenizerKind::kNone ? nullptr : tokenizer),
        code_step_(std::max<int64_t>(1, kUnicodeBytes / std::max<int64_t>(1, tokens))),
        random_(seed) {}

  std::vector<int32_t> Next(int64_t count) {
    std::vector<int32_t> out;
    for (; static_cast<int64_t>(out.size()) < count; ++position_) {
      if (kind_ == StreamKind::kRandomIds) {
        out.push_back(random_() % vocab_size_);
      } else if (kind_ == StreamKind::kAlternating) {
        out.push_back(position_ % 2 == 0 ? 0 : vocab_size_ - 1);
      } else if (kind_ == StreamKind::kRuns) {
        out.push_back(position_ / chunk_ % 2 == 0 ? 0 : vocab_size_ - 1);
      } else {
        AddText(&out);
      }
    }
    waiting_tokens_.insert(waiting_tokens_.end(), out.begin() + count, out.end());
    out.resize(count);
    return out;
  }

 private:
  void AddText(std::vector<int32_t>* out) {
    out->insert(out->end(), waiting_tokens_.begin(), waiting_tokens_.end());
    waiting_tokens_.clear();
    const std::string more = Bytes();
    if (tokenizer_ == nullptr) {
      for (const unsigned char byte : more) out->push_back(byte % vocab_size_);
      return;
    }
    text_ += more;
    while (const std::optional<size_t> piece = tokenizer_->NextPiece(text_)) {
      const auto tokens = tokenizer_->Encode(text_.substr(0, *piece));
      out->insert(out->end(), tokens->begin(), tokens->end());
      text_.erase(0, *piece);
    }
  }
  std::string Bytes() {
    switch (kind_) {
      case StreamKind::kOrdinary:
        return {OrdinaryText()[position_ % OrdinaryText().size()]};
      case StreamKind::kZeros:
        return {'\0'};
      case StreamKind::kLetters:
        return {'a'};
      case StreamKind::kBinary:
        return {Binary()[position_ % Binary().size()]};
      case StreamKind::kUnicode: {
        uint32_t code = position_ * code_step_ % 0x10f800;
        if (code >= 0xd800) code += 0x800;  // no surrogates
        return Utf8(code);
      }
      default:
        return {static_cast<char>(random_() % 256)};
    }
  }

  const StreamKind kind_;
  const int64_t vocab_size_, chunk_;
  const Tokenizer* const tokenizer_;
  const int64_t code_step_;
  std::mt19937_64 random_;
  int64_t position_ = 0;
  std::string text_;                     // not yet tokenized
  std::vector<int32_t> waiting_tokens_;  // not yet given out
};

// What a state's bytes hold (docs/formats/state.md). By bits: with denormals flushed a comparison does not see them.
struct StateScan {
  float weights = 0, velocity = 0, tail = 0, window = 0;  // the largest absolute values
  double weight_norm = 0, velocity_norm = 0;              // the largest of a head's layer
  int64_t not_finite = 0, subnormal = 0;
};

void ScanTensor(absl::string_view name, int64_t heads, absl::string_view values, StateScan* scan) {
  uint32_t largest = 0;
  double largest_norm = 0, sum = 0;
  const int64_t count = values.size() / sizeof(float), a_head = std::max<int64_t>(1, count / heads);
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values.data() + i * sizeof(float), sizeof(bits));
    bits &= 0x7fffffff;
    largest = std::max(largest, bits);
    scan->not_finite += bits >= 0x7f800000;
    scan->subnormal += bits > 0 && bits < 0x00800000;
    const double value = std::bit_cast<float>(bits);
    sum += value * value;
    if ((i + 1) % a_head == 0) {
      largest_norm = std::max(largest_norm, std::sqrt(sum));
      sum = 0;
    }
  }
  const float value = std::bit_cast<float>(largest);
  if (absl::StrContains(name, ".memory.M.")) {
    scan->weights = std::max(scan->weights, value);
    scan->weight_norm = std::max(scan->weight_norm, largest_norm);
  } else if (absl::StrContains(name, ".memory.S.")) {
    scan->velocity = std::max(scan->velocity, value);
    scan->velocity_norm = std::max(scan->velocity_norm, largest_norm);
  } else if (absl::StrContains(name, ".conv_tail")) {
    scan->tail = std::max(scan->tail, value);
  } else {
    scan->window = std::max(scan->window, value);
  }
}

StateScan Scan(const std::string& bytes) {
  StateScan scan;
  ByteReader in(bytes);
  EXPECT_OK(in.Raw(8));
  EXPECT_OK(in.U32());
  EXPECT_OK(in.Sized());
  EXPECT_OK(in.I64());
  const uint32_t tensors = *in.U32();
  for (uint32_t i = 0; i < tensors; ++i) {
    const absl::string_view name = *in.Sized();
    int64_t elements = 1, heads = 1;
    for (uint32_t dimensions = *in.U32(), d = 0; d < dimensions; ++d) {
      const int64_t size = *in.I64();
      if (d == 0) heads = size;
      elements *= size;
    }
    ScanTensor(name, heads, *in.Raw(elements * sizeof(float)), &scan);
  }
  EXPECT_OK(in.U64());
  EXPECT_OK(in.ExpectEnd());
  return scan;
}

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

struct Report {
  int64_t tokens = 0;                                     // stepped
  std::optional<int64_t> refused_at;                      //
  float weights = 0, velocity = 0, tail = 0, window = 0;  // the largest absolute values
  float early = 0, late = 0;                              // of weights: in the first half, in the second
  float surprise = 0;                                     // the largest mean of a block
  int64_t scans = 0, not_finite = 0, subnormal = 0, out_of_bound = 0;
  std::optional<double> slowdown;  // a token's time over an ordinary one's
};

// A session at the model's level.
class ModelSession {
 public:
  ModelSession(const Model& model, TokenStream stream)
      : model_(model), stream_(std::move(stream)), state_(model.InitialState()) {}
  BlockResult Step() {
    tokens_ = stream_.Next(model_.config().block_tokens());
    BlockResult result = model_.StepBlocks({{state_, tokens_}})[0];
    if (result.status.ok()) state_ = result.state;
    return result;
  }
  const StatePtr& state() const { return state_; }
  const std::vector<int32_t>& last_tokens() const { return tokens_; }

 private:
  const Model& model_;
  TokenStream stream_;
  StatePtr state_;
  std::vector<int32_t> tokens_;
};

// Every token moves a head's velocity by at most theta_max x max_grad_norm, and the velocity moves the weights.
bool IsWithinBound(const ModelConfig& config, const StateScan& initial, const StateScan& now, int64_t tokens) {
  const double step = config.memory.theta_max * config.memory.max_grad_norm, count = tokens, slack = 1.001;
  const double velocity = config.memory.momentum ? step * count : step;
  const double weights = initial.weight_norm + (config.memory.momentum ? step * count * (count + 1) / 2 : step * count);
  return now.velocity_norm <= velocity * slack && now.weight_norm <= weights * slack;
}

// A refusal leaves the state as it was, and is no accident: it comes again.
void CheckRefusal(const Model& model, const ModelSession& session, const std::string& before,
                  const BlockResult& result) {
  EXPECT_EQ(result.status.code(), absl::StatusCode::kFailedPrecondition) << result.status;
  EXPECT_THAT(std::string(result.status.message()), HasSubstr("not finite"));
  EXPECT_EQ(result.state, nullptr);
  EXPECT_TRUE(model.EncodeState(*session.state()) == before);
  EXPECT_EQ(model.StepBlocks({{session.state(), session.last_tokens()}})[0].status, result.status);
}

void CheckAnswer(const Model& model, const ModelSession& session) {
  const auto fork = model.NewFork(session.state());
  const absl::Status status = fork->Feed({1, 0, 1});
  if (status.ok()) {
    EXPECT_TRUE(std::all_of(fork->logits().begin(), fork->logits().end(), [](float x) { return std::isfinite(x); }));
  } else {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  }
}

Report Drive(const Model& model, StreamKind kind, uint64_t seed, int64_t tokens, bool timed) {
  const ModelConfig& config = model.config();
  ModelSession hostile(model, TokenStream(kind, config, &model.tokenizer(), seed, tokens));
  ModelSession ordinary(model, TokenStream(StreamKind::kOrdinary, config, &model.tokenizer(), seed, tokens));
  const StateScan initial = Scan(model.EncodeState(*model.InitialState()));
  const bool bounded = config.memory.max_grad_norm > 0;
  constexpr int kBlocksAtOnce = 16;
  Report report;
  std::vector<double> slowdowns;
  for (int64_t turn = 0; report.tokens < tokens && !report.refused_at; ++turn) {
    double seconds = 0;
    for (int i = 0; i < kBlocksAtOnce && report.tokens < tokens && !report.refused_at; ++i) {
      const std::string before = bounded ? "" : model.EncodeState(*hostile.state());
      const double begin = timed ? ThreadSeconds() : 0;
      const BlockResult result = hostile.Step();
      if (timed) seconds += ThreadSeconds() - begin;
      if (!result.status.ok()) {
        report.refused_at = report.tokens;
        CheckRefusal(model, hostile, bounded ? model.EncodeState(*hostile.state()) : before, result);
        break;
      }
      report.tokens += config.block_tokens();
      report.surprise = std::max(report.surprise, result.mean_surprise);
      EXPECT_TRUE(std::isfinite(result.mean_surprise));
    }
    if (timed && turn % (tokens > 100000 ? 16 : 2) == 0 && !report.refused_at) {
      double ordinary_seconds = 0;
      bool is_refused = false;  // also of an ordinary stream, by a model without a max_grad_norm
      for (int i = 0; i < kBlocksAtOnce && !is_refused; ++i) {
        const double begin = ThreadSeconds();
        is_refused = !ordinary.Step().status.ok();
        ordinary_seconds += ThreadSeconds() - begin;
      }
      if (!is_refused) slowdowns.push_back(seconds / ordinary_seconds);
    }
    // Every state at first, then ever fewer.
    if (report.tokens >= tokens || report.refused_at || turn < 16 || turn % 16 == 0) {
      const StateScan scan = Scan(model.EncodeState(*hostile.state()));
      report.scans += 1;
      report.weights = std::max(report.weights, scan.weights);
      report.velocity = std::max(report.velocity, scan.velocity);
      report.tail = std::max(report.tail, scan.tail);
      report.window = std::max(report.window, scan.window);
      float& half = report.tokens * 2 <= tokens ? report.early : report.late;
      half = std::max(half, scan.weights);
      report.not_finite += scan.not_finite;
      report.subnormal += scan.subnormal;
      report.out_of_bound += bounded && !IsWithinBound(config, initial, scan, report.tokens);
    }
  }
  CheckAnswer(model, hostile);
  EXPECT_EQ(report.not_finite, 0);
  EXPECT_EQ(report.subnormal, 0);
  EXPECT_EQ(report.out_of_bound, 0);
  if (slowdowns.size() >= 8) {
    std::nth_element(slowdowns.begin(), slowdowns.begin() + slowdowns.size() / 2, slowdowns.end());
    report.slowdown = slowdowns[slowdowns.size() / 2];
    EXPECT_LT(*report.slowdown, 3);
  }
  return report;
}

std::vector<Engine::ModelSource> ShippedModels() {
  std::vector<Engine::ModelSource> models;
  for (const auto& entry : std::filesystem::directory_iterator(SourceFolder() + "/models")) {
    if (std::filesystem::exists(entry.path() / "model.safetensors")) {
      models.push_back({entry.path().filename(), entry.path()});
    }
  }
  std::sort(models.begin(), models.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return models;
}

class HostileStreams : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    EnterWorkerThread();
  }
};

TEST_F(HostileStreams, ShippedModelsStayBounded) {
  const uint64_t seed = TestSeed();
  const std::vector<Engine::ModelSource> shipped = ShippedModels();
  ASSERT_FALSE(shipped.empty());
  for (const Engine::ModelSource& source : shipped) {
    const auto model = Model::Load(source.folder, {});
    ASSERT_OK(model);
    std::printf("%-8s %-12s %9s %8s %8s %8s %8s %8s %8s %8s %8s\n", "model", "stream", "tokens", "|M|", "early", "late",
                "|S|", "|tail|", "|window|", "surprise", "slower");
    for (const StreamKind kind : kHostile) {
      SCOPED_TRACE(absl::StrCat(source.name, ", ", Name(kind)));
      int64_t tokens = 3000;
      if (IsLongForm()) tokens = kind == StreamKind::kUnicode ? kUnicodeBytes : 1000000;
      const Report report = Drive(**model, kind, seed, tokens, IsLongForm());
      EXPECT_FALSE(report.refused_at.has_value());
      std::printf("%-8s %-12s %9lld %8.3g %8.3g %8.3g %8.3g %8.3g %8.3g %8.3g %8.3g\n", source.name.c_str(), Name(kind),
                  static_cast<long long>(report.tokens), report.weights, report.early, report.late, report.velocity,
                  report.tail, report.window, report.surprise, report.slowdown.value_or(0));
      std::fflush(stdout);
    }
  }
}

TEST_F(HostileStreams, RandomModelsStayBoundedOrRefuse) {
  const uint64_t seed = TestSeed();
  const int64_t models = Cases(8, 100);
  const int64_t tokens = IsLongForm() ? 20000 : 1500;
  struct Totals {
    int64_t runs = 0, tokens = 0, refused = 0;
    float weights = 0, velocity = 0, tail = 0, window = 0, surprise = 0;
    std::vector<double> slowdowns;
  };
  std::map<StreamKind, Totals> totals;
  for (int64_t i = 0; i < models; ++i) {
    std::mt19937_64 random(seed + i);
    const bool bounded = (seed + i) % 4 != 0;
    ModelConfig config = RandomConfig(random, bounded);
    if (!bounded) config.memory.theta_max *= 5;
    const float value_scale = (seed + i) % 8 == 1 ? 1e20f : 1;
    WriteRandomModel(folder_.File("random"), config, random(), value_scale, /*gate_bias_scale=*/4);
    const auto model = Model::Load(folder_.File("random"), {});
    ASSERT_OK(model);
    for (const StreamKind kind : kHostile) {
      SCOPED_TRACE(absl::StrCat(Name(kind), ", ", Repeat(seed + i), FormatModelConfig(config)));
      const Report report = Drive(**model, kind, random(), tokens, IsLongForm());
      // With bounded gradients nothing can go wrong, but for values whose square is not finite.
      if (bounded && value_scale == 1) {
        EXPECT_FALSE(report.refused_at.has_value());
      }
      Totals& total = totals[kind];
      total.runs += 1;
      total.tokens += report.tokens;
      total.refused += report.refused_at.has_value();
      if (report.slowdown) total.slowdowns.push_back(*report.slowdown);
      if (!bounded || value_scale != 1) continue;
      total.weights = std::max(total.weights, report.weights);
      total.velocity = std::max(total.velocity, report.velocity);
      total.tail = std::max(total.tail, report.tail);
      total.window = std::max(total.window, report.window);
      total.surprise = std::max(total.surprise, report.surprise);
    }
    if ((i + 1) % 10 == 0) {
      std::printf("%lld models\n", static_cast<long long>(i + 1));
      std::fflush(stdout);
    }
  }
  std::printf("the largest values are of bounded models\n%-12s %5s %9s %8s %8s %8s %8s %8s %8s %8s %8s\n", "stream",
              "runs", "tokens", "refused", "|M|", "|S|", "|tail|", "|window|", "surprise", "slower", "slowest");
  int64_t refused = 0;
  for (auto& [kind, total] : totals) {
    std::sort(total.slowdowns.begin(), total.slowdowns.end());
    const bool timed = !total.slowdowns.empty();
    std::printf("%-12s %5lld %9lld %8lld %8.3g %8.3g %8.3g %8.3g %8.3g %8.3g %8.3g\n", Name(kind),
                static_cast<long long>(total.runs), static_cast<long long>(total.tokens),
                static_cast<long long>(total.refused), total.weights, total.velocity, total.tail, total.window,
                total.surprise, timed ? total.slowdowns[total.slowdowns.size() / 2] : 0,
                timed ? total.slowdowns.back() : 0);
    refused += total.refused;
  }
  if (models >= 8) {
    EXPECT_GT(refused, 0);
  }
}

TEST_F(HostileStreams, OtherSessionsDoNotNotice) {
  const uint64_t seed = TestSeed();
  ModelConfig wild = SmallConfig();
  wild.memory.max_grad_norm = 0;
  wild.memory.theta_max = 10;
  WriteRandomModel(folder_.File("wild"), wild, seed, /*memory_value_scale=*/1e10f);
  std::vector<Engine::ModelSource> models = {{"small", folder_.File("model")}, {"wild", folder_.File("wild")}};
  for (const Engine::ModelSource& shipped : ShippedModels()) models.push_back(shipped);
  const int64_t companion_tokens = IsLongForm() ? 50000 : 1500, hostile_tokens = companion_tokens;

  // Appends a stream to a session until it is all memorized, or the session stops.
  const auto stream = [](Engine& engine, const std::string& id, const ModelInfo& model, TokenStream tokens,
                         int64_t count) {
    auto observer = std::make_shared<RecordingWriter>();
    auto writer = engine.OpenWriter(id, {.create_if_missing = true, .creation = {.model = model.name}}, observer);
    ASSERT_OK(writer);
    uint64_t sequence = 1;
    for (int64_t done = 0; done < count; done += 500) {
      const Content content = {.kind = ContentKind::kTokenIds,
                               .tokens = tokens.Next(std::min<int64_t>(500, count - done))};
      absl::Status status;
      while (IsNoRoom(status = (*writer)->Append(sequence, content))) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      if (absl::IsFailedPrecondition(status)) return;  // the session stopped
      ASSERT_OK(status);
      sequence += 1;
    }
    if (!(*writer)->Flush().ok()) return;
    while (!observer->WaitFlushed(1) && engine.GetSession(id)->failure.empty() && !testing::Test::HasFailure()) {
    }
  };

  std::vector<std::map<std::string, std::string>> digests, states;
  int64_t stopped = 0, hostile_sessions = 0;
  for (const bool with_neighbours : {false, true}) {
    Engine::Options options = Options(with_neighbours ? "crowded" : "calm");
    options.models = models;
    auto engine = Start(options);
    std::vector<std::thread> threads;
    std::vector<std::string> companions, neighbours;
    for (const ModelInfo& model : engine->models()) {
      if (model.name != "wild") {
        for (int i = 0; i < 2; ++i) {
          companions.push_back(absl::StrCat("companion-", model.name, i));
          const StreamKind kind = i == 0 ? StreamKind::kOrdinary : StreamKind::kRandomBytes;
          threads.emplace_back([&, id = companions.back(), kind] {
            stream(*engine, id, model, TokenStream(kind, model.config, nullptr, 5, companion_tokens), companion_tokens);
          });
        }
      }
      for (const StreamKind kind : kHostile) {
        if (!with_neighbours) break;
        neighbours.push_back(absl::StrCat("hostile-", model.name, static_cast<int>(kind)));
        threads.emplace_back([&, id = neighbours.back(), kind] {
          stream(*engine, id, model, TokenStream(kind, model.config, nullptr, seed, hostile_tokens), hostile_tokens);
        });
      }
    }
    for (std::thread& thread : threads) thread.join();
    if (HasFailure()) return;
    std::map<std::string, std::string>& answers = digests.emplace_back();
    for (const std::string& id : companions) answers[id] = Ask(*engine, id);
    for (const std::string& id : neighbours) {
      const auto info = engine->GetSession(id);
      ASSERT_OK(info);
      hostile_sessions += 1;
      if (info->failure.empty()) {
        EXPECT_EQ(info->watermarks.accepted, hostile_tokens);
        Ask(*engine, id);
        continue;
      }
      stopped += 1;
      EXPECT_EQ(info->model, "wild");
      EXPECT_THAT(info->failure, HasSubstr("not finite"));
      EXPECT_GT(info->watermarks.accepted, info->watermarks.memorized);  // its tokens stay
      EXPECT_EQ(engine->StartQuery({.session_id = id, .prompt = Text("?")}, std::make_shared<RecordingQuery>())
                    .status()
                    .code(),
                absl::StatusCode::kFailedPrecondition);
    }
    EXPECT_EQ(engine->stats().failed_steps_total > 0, with_neighbours);
    ASSERT_OK(engine->Drain(absl::Now() + kPatience));
    engine = nullptr;
    std::map<std::string, std::string>& stored = states.emplace_back();
    const auto all = StoredStates(options);
    for (const std::string& id : companions) {
      ASSERT_TRUE(all.contains(id));
      stored[id] = all.at(id);
    }
  }
  EXPECT_EQ(digests[0], digests[1]);
  for (const auto& [id, state] : states[0]) EXPECT_TRUE(states[1].at(id) == state) << id;
  EXPECT_GT(stopped, 0);
  std::printf("%zu companions beside %lld hostile sessions, of which %lld stopped\n", digests[0].size(),
              static_cast<long long>(hostile_sessions), static_cast<long long>(stopped));
}

}  // namespace
}  // namespace mnemosyne
