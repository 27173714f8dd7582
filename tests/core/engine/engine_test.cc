// The engine's promises on a small random model: the same state however a stream is cut, whoever shares the machine and
// whatever was killed; exactly once; queries that never write; bad input refused with nothing lost.
#include "core/engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "core/storage/storage.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

uint64_t TestSeed() {
  const char* given = std::getenv("MNEMOSYNE_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("seed %llu (repeat with MNEMOSYNE_TEST_SEED)\n", static_cast<unsigned long long>(seed));
  return seed;
}

class RecordingWriter final : public WriterObserver {
 public:
  void OnProgress(const Progress& progress) override {
    absl::MutexLock lock(&mutex_);
    last_ = progress;
    flushed_ += progress.flushed;
  }
  void OnRoom() override {
    absl::MutexLock lock(&mutex_);
    rooms_ += 1;
  }
  void OnLost(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    lost_ = status;
  }
  bool WaitFlushed(int count) {
    absl::MutexLock lock(&mutex_);
    const auto due = [&] { return flushed_ >= count || !lost_.ok(); };
    return mutex_.AwaitWithTimeout(absl::Condition(&due), kPatience) && flushed_ >= count;
  }
  bool WaitRooms(int count) {
    absl::MutexLock lock(&mutex_);
    const auto due = [&] { return rooms_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&due), kPatience);
  }
  absl::Status WaitLost() {
    absl::MutexLock lock(&mutex_);
    const auto due = [&] { return !lost_.ok(); };
    mutex_.AwaitWithTimeout(absl::Condition(&due), kPatience);
    return lost_;
  }
  Progress last() {
    absl::MutexLock lock(&mutex_);
    return last_;
  }

 private:
  absl::Mutex mutex_;
  Progress last_;
  int flushed_ = 0, rooms_ = 0;
  absl::Status lost_;
};

class RecordingQuery final : public QueryObserver {
 public:
  void OnPiece(const QueryPiece& piece) override {
    answer_.insert(answer_.end(), piece.tokens.begin(), piece.tokens.end());
    log_probabilities_.insert(log_probabilities_.end(), piece.log_probabilities.begin(), piece.log_probabilities.end());
  }
  void OnDone(const absl::StatusOr<QuerySummary>& summary) override {
    summary_ = summary;
    done_.Notify();
  }
  absl::StatusOr<QuerySummary> Wait() {
    if (!done_.WaitForNotificationWithTimeout(kPatience)) return absl::DeadlineExceededError("no end");
    return summary_;
  }
  // The bits of every probability of the answer: a state that differs anywhere shows here.
  std::string Digest() const {
    std::string out(reinterpret_cast<const char*>(answer_.data()), answer_.size() * sizeof(int32_t));
    return out.append(reinterpret_cast<const char*>(log_probabilities_.data()),
                      log_probabilities_.size() * sizeof(float));
  }

 private:
  std::vector<int32_t> answer_;
  std::vector<float> log_probabilities_;
  absl::StatusOr<QuerySummary> summary_ = absl::UnknownError("not done");
  absl::Notification done_;
};

Content Text(std::string bytes) { return {.kind = ContentKind::kText, .bytes = std::move(bytes)}; }

std::string RandomText(int64_t bytes, std::mt19937_64& random) {
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += static_cast<char>(random() % 256);
  return text;
}

class EngineTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteRandomModel(folder_.path() + "/model", SmallConfig(), 7);
    ModelConfig ids_only = SmallConfig();
    ids_only.tokenizer.kind = TokenizerKind::kNone;
    ids_only.vocab_size = 40;
    WriteRandomModel(folder_.path() + "/ids", ids_only, 8);
  }
  Engine::Options Options(const std::string& data = "data") const {
    return {.data_path = folder_.path() + "/" + data,
            .models = {{"small", folder_.path() + "/model"}, {"ids", folder_.path() + "/ids"}},
            .workers = 2};
  }
  static std::unique_ptr<Engine> Start(const Engine::Options& options) {
    absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Start(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  // Streams text cut into pieces of the sizes given (the last size repeats) and flushes.
  static void StreamText(Engine& engine, const std::string& id, const std::string& text,
                         const std::vector<int64_t>& sizes) {
    auto observer = std::make_shared<RecordingWriter>();
    auto writer = engine.OpenWriter(id, {.create_if_missing = true}, observer);
    ASSERT_OK(writer);
    uint64_t sequence = (*writer)->opened().next_sequence;
    int rooms = 0;
    for (size_t done = 0, i = 0; done < text.size(); ++i) {
      const std::string piece = text.substr(done, sizes[std::min(i, sizes.size() - 1)]);
      for (;;) {
        const absl::Status status = (*writer)->Append(sequence, Text(piece));
        if (status.ok()) break;
        ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
        ASSERT_TRUE(observer->WaitRooms(++rooms));
      }
      sequence += 1;
      done += piece.size();
    }
    ASSERT_OK((*writer)->Flush());
    ASSERT_TRUE(observer->WaitFlushed(1));
    EXPECT_EQ(observer->last().watermarks.durable, observer->last().watermarks.accepted);
  }
  static std::string Ask(Engine& engine, const std::string& id, const std::string& question = "and then?") {
    auto observer = std::make_shared<RecordingQuery>();
    auto handle = engine.StartQuery({.session_id = id, .prompt = Text(question), .max_tokens = 24}, observer);
    EXPECT_TRUE(handle.ok()) << handle.status();
    const auto summary = observer->Wait();
    EXPECT_TRUE(summary.ok()) << summary.status();
    return observer->Digest();
  }
  // The session's newest snapshot, bit for bit; the engine must be gone.
  static std::string StoredState(const Engine::Options& options, const std::string& id) {
    auto storage = Storage::Open({.path = options.data_path});
    EXPECT_TRUE(storage.ok()) << storage.status();
    const auto sessions = (*storage)->LoadSessions();
    EXPECT_TRUE(sessions.ok()) << sessions.status();
    for (const SessionMetadata& one : *sessions) {
      if (one.id != id) continue;
      const auto offsets = (*storage)->ListSnapshots(one.number, one.epoch);
      EXPECT_FALSE(offsets->empty());
      return (*storage)->ReadSnapshot(one.number, one.epoch, offsets->front())->state;
    }
    ADD_FAILURE() << "no session " << id;
    return "";
  }

  TempFolder folder_;
};

TEST_F(EngineTest, StateDoesNotDependOnCutsNorOnCompanions) {
  std::mt19937_64 random(TestSeed());
  const std::string text = RandomText(1500, random);
  std::vector<std::string> digests, states;
  for (const int variant : {0, 1, 2, 3}) {
    Engine::Options options = Options("data" + std::to_string(variant));
    options.workers = variant == 1 ? 1 : 2;
    options.max_backlog_tokens = variant == 2 ? 100 : 65536;
    auto engine = Start(options);
    std::vector<std::thread> companions;
    if (variant == 3) {
      for (int i = 0; i < 5; ++i) {
        companions.emplace_back([&engine, i] {
          std::mt19937_64 own(i);
          StreamText(*engine, "companion" + std::to_string(i), RandomText(900 + 100 * i, own), {33});
        });
      }
    }
    std::vector<int64_t> sizes = {static_cast<int64_t>(text.size())};
    if (variant == 1) sizes = {1};
    if (variant >= 2) {
      sizes.clear();
      for (int i = 0; i < 60; ++i) sizes.push_back(1 + random() % 90);
    }
    StreamText(*engine, "book", text, sizes);
    digests.push_back(Ask(*engine, "book"));
    for (std::thread& companion : companions) companion.join();
    ASSERT_OK(engine->Drain(absl::Now() + kPatience));
    engine = nullptr;
    states.push_back(StoredState(options, "book"));
  }
  for (size_t i = 1; i < digests.size(); ++i) {
    EXPECT_EQ(digests[i], digests[0]) << i;
    EXPECT_EQ(states[i], states[0]) << i;
  }
}

TEST_F(EngineTest, AStopAtAnyPlaceLosesNothingAndChangesNothing) {
  std::mt19937_64 random(TestSeed());
  const std::string text = RandomText(2000, random);
  auto undisturbed = Start(Options("undisturbed"));
  StreamText(*undisturbed, "book", text, {100});
  const std::string expected = Ask(*undisturbed, "book");

  Engine::Options options = Options("stopped");
  options.snapshot_every_tokens = 192;
  auto engine = Start(options);
  for (size_t done = 0; done < text.size();) {
    const size_t size = std::min<size_t>(1 + random() % 700, text.size() - done);
    StreamText(*engine, "book", text.substr(done, size), {1 + static_cast<int64_t>(random() % 200)});
    done += size;
    if (random() % 3 == 0) {
      ASSERT_OK(engine->Drain(absl::Now() + kPatience));
    }
    engine = nullptr;  // without a drain: as a crash leaves it, the log and some snapshots
    engine = Start(options);
    const auto info = engine->GetSession("book");
    ASSERT_OK(info);
    EXPECT_EQ(info->watermarks.accepted, static_cast<int64_t>(done));
    EXPECT_EQ(info->watermarks.durable, static_cast<int64_t>(done));
    EXPECT_EQ(info->watermarks.accepted_bytes, static_cast<int64_t>(done));
  }
  EXPECT_EQ(Ask(*engine, "book"), expected);
}

TEST_F(EngineTest, ARepeatIsAcknowledgedAndAGapIsRefused) {
  auto engine = Start(Options());
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = *engine->OpenWriter("s", {.create_if_missing = true}, observer);
  EXPECT_TRUE(writer->created());
  EXPECT_EQ(writer->opened().next_sequence, 1);
  EXPECT_OK(writer->Append(1, Text("one ")));
  EXPECT_OK(writer->Append(1, Text("one ")));
  const absl::Status gap = writer->Append(3, Text("three "));
  EXPECT_EQ(gap.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(gap.message().find("expects sequence 2"), absl::string_view::npos) << gap;
  EXPECT_OK(writer->Append(2, Text("two ")));
  EXPECT_OK(writer->Append(1, Text("one ")));  // backward
  ASSERT_OK(writer->Flush());
  ASSERT_TRUE(observer->WaitFlushed(1));
  EXPECT_EQ(observer->last().watermarks.accepted, 8);
  EXPECT_EQ(observer->last().durable_sequence, 2);
  EXPECT_EQ(writer->Append(0, Text("zero")).code(), absl::StatusCode::kOutOfRange);
}

TEST_F(EngineTest, ASecondWriterIsRefusedOrTakesOver) {
  auto engine = Start(Options());
  auto first_observer = std::make_shared<RecordingWriter>(), second_observer = std::make_shared<RecordingWriter>();
  auto first = *engine->OpenWriter("s", {.create_if_missing = true}, first_observer);
  ASSERT_OK(first->Append(1, Text("mine")));
  EXPECT_EQ(engine->OpenWriter("s", {}, second_observer).status().code(), absl::StatusCode::kFailedPrecondition);
  auto second = engine->OpenWriter("s", {.take_over = true}, second_observer);
  ASSERT_OK(second);
  EXPECT_EQ((*second)->opened().next_sequence, 2);
  EXPECT_EQ(first_observer->WaitLost().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(first->Append(2, Text("mine again")).code(), absl::StatusCode::kAborted);
  EXPECT_OK((*second)->Append(2, Text("ours")));
  first = nullptr;  // gives back a seat it no longer has
  EXPECT_OK((*second)->Append(3, Text("ours")));
}

TEST_F(EngineTest, AQueryNeverWritesAndRememberDoes) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Options());
  StreamText(*engine, "s", RandomText(333, random), {50});
  const std::string before = Ask(*engine, "s");
  for (int i = 0; i < 5; ++i) Ask(*engine, "s", RandomText(90, random));
  EXPECT_EQ(Ask(*engine, "s"), before);
  EXPECT_EQ(engine->GetSession("s")->watermarks.accepted, 333);

  auto observer = std::make_shared<RecordingQuery>();
  auto handle =
      engine->StartQuery({.session_id = "s", .prompt = Text("what?"), .max_tokens = 5, .remember = true}, observer);
  ASSERT_OK(handle);
  const auto summary = observer->Wait();
  ASSERT_OK(summary);
  ASSERT_TRUE(summary->remembered_offset.has_value());
  EXPECT_GT(*summary->remembered_offset, 333 + 4);
  EXPECT_EQ(engine->GetSession("s")->watermarks.accepted, *summary->remembered_offset);
  EXPECT_EQ(engine->GetSession("s")->watermarks.durable, *summary->remembered_offset);
  EXPECT_EQ(engine->GetSession("s")->next_sequence, 8);  // seven appends of 50 bytes; the engine's own takes none
}

TEST_F(EngineTest, AQueryAnswersFromWhatWasAcceptedWhenItWasAsked) {
  std::mt19937_64 random(TestSeed());
  const std::string text = RandomText(1300, random);
  auto calm = Start(Options("calm"));
  StreamText(*calm, "s", text, {1300});
  const std::string expected = Ask(*calm, "s");

  auto engine = Start(Options());
  auto writer = *engine->OpenWriter("s", {.create_if_missing = true}, std::make_shared<RecordingWriter>());
  ASSERT_OK(writer->Append(1, Text(text)));
  auto observer = std::make_shared<RecordingQuery>();  // asked before any of it is memorized
  auto handle = engine->StartQuery({.session_id = "s", .prompt = Text("and then?"), .max_tokens = 24}, observer);
  ASSERT_OK(handle);
  ASSERT_OK(writer->Append(2, Text(RandomText(2000, random))));
  const auto summary = observer->Wait();
  ASSERT_OK(summary);
  EXPECT_EQ(summary->as_of_offset, 1300);
  EXPECT_EQ(observer->Digest(), expected);
}

TEST_F(EngineTest, EvictionAndReloadChangeNothing) {
  std::mt19937_64 random(TestSeed());
  Engine::Options options = Options();
  auto probe = Start(options);
  const int64_t state_bytes = probe->models()[0].state_bytes;
  probe = nullptr;
  options.max_resident_bytes = 2 * state_bytes;
  auto engine = Start(options);
  std::vector<std::string> texts, digests;
  for (int i = 0; i < 6; ++i) {
    texts.push_back(RandomText(200 + 77 * i, random));
    StreamText(*engine, "s" + std::to_string(i), texts[i], {64});
    digests.push_back(Ask(*engine, "s" + std::to_string(i)));
  }
  EXPECT_LE(engine->stats().resident_bytes, options.max_resident_bytes);
  EXPECT_GE(engine->stats().evictions_total, 4);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Ask(*engine, "s" + std::to_string(i)), digests[i]) << i;
}

TEST_F(EngineTest, ResetForgetsAndSequencesGoOn) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Options());
  ASSERT_OK(engine->CreateSession("empty", "", {}));
  const std::string empty = Ask(*engine, "empty");
  StreamText(*engine, "s", RandomText(500, random), {100});
  EXPECT_NE(Ask(*engine, "s"), empty);
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = engine->OpenWriter("s", {}, observer);
  ASSERT_OK(writer);
  const auto info = engine->Reset("s", 0);
  ASSERT_OK(info);
  EXPECT_EQ(info->epoch, 2);
  EXPECT_EQ(info->watermarks.accepted, 0);
  EXPECT_EQ(info->next_sequence, 6);
  EXPECT_EQ(observer->WaitLost().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Ask(*engine, "s"), empty);
  engine = nullptr;
  engine = Start(Options());
  EXPECT_EQ(engine->GetSession("s")->next_sequence, 6);
  EXPECT_EQ(Ask(*engine, "s"), empty);
}

TEST_F(EngineTest, ResetToAnEarlierOffsetIsTheSessionAsItWas) {
  std::mt19937_64 random(TestSeed());
  Engine::Options options = Options();
  options.snapshot_every_tokens = 128;
  auto engine = Start(options);
  const std::string text = RandomText(900, random);
  StreamText(*engine, "s", text, {70});
  EXPECT_EQ(engine->Reset("s", 901).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(engine->Reset("s", -1).status().code(), absl::StatusCode::kOutOfRange);
  for (const int64_t offset : {900, 777, 640, 64, 1}) {
    const auto info = engine->Reset("s", offset);
    ASSERT_OK(info);
    EXPECT_EQ(info->watermarks.accepted, offset);
    EXPECT_EQ(info->next_sequence, 14);  // 13 appends of at most 70 bytes
    const std::string other = "other" + std::to_string(offset);
    StreamText(*engine, other, text.substr(0, offset), {70});
    EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, other)) << offset;
  }
  engine = nullptr;
  engine = Start(options);
  EXPECT_EQ(engine->GetSession("s")->next_sequence, 14);
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "other1"));
}

TEST_F(EngineTest, ResetOfPiecesOfText) {
  std::mt19937_64 random(TestSeed());
  std::string text;
  for (int i = 0; i < 120; ++i) {
    for (const char* word : {"the garden ", "remembers ", "one number ", "and a window "}) {
      text += random() % 2 == 0 ? word : "river, ";
    }
    text += "\n";
  }
  ASSERT_OK(WriteFileAtomically(folder_.File("pieces.txt"), text));
  const std::string train = std::string(TRAIN_SENTENCEPIECE) + " " + folder_.File("pieces") +
                            " \"--model_type=bpe --vocab_size=32 --hard_vocab_limit=false\" < " +
                            folder_.File("pieces.txt");
  ASSERT_EQ(std::system(train.c_str()), 0) << train;
  const std::string vocabulary = *ReadFile(folder_.File("pieces.vocab"));
  ModelConfig config = SmallConfig();
  config.tokenizer = {.kind = TokenizerKind::kSentencePiece, .file = "pieces.model"};
  config.vocab_size = std::count(vocabulary.begin(), vocabulary.end(), '\n');
  WriteRandomModel(folder_.path() + "/pieces", config, 9);
  ASSERT_OK(WriteFileAtomically(folder_.path() + "/pieces/pieces.model", *ReadFile(folder_.File("pieces.model"))));

  Engine::Options options = Options();
  options.models = {{"pieces", folder_.path() + "/pieces"}};
  options.snapshot_every_tokens = 128;
  auto engine = Start(options);
  StreamText(*engine, "s", text, {97});
  const int64_t accepted = engine->GetSession("s")->watermarks.accepted;
  ASSERT_GT(accepted, 400);
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = engine->OpenWriter("s", {}, observer);
  ASSERT_OK(writer);

  // Backwards through the offsets: those between two pieces of text succeed, the others change nothing.
  int done = 0, refused = 0;
  for (int64_t offset = accepted - 1; offset > accepted - 40 && done < 3; --offset) {
    const auto info = engine->Reset("s", offset);
    if (info.ok()) {
      done += 1;
      EXPECT_EQ(info->watermarks.accepted, offset);
      EXPECT_EQ(engine->GetSession("s")->epoch, 1 + done);
      continue;
    }
    refused += 1;
    EXPECT_EQ(info.status().code(), absl::StatusCode::kInvalidArgument) << info.status();
    EXPECT_THAT(std::string(info.status().message()), testing::HasSubstr("lies inside a piece of text"));
    EXPECT_EQ(engine->GetSession("s")->epoch, 1 + done);
    if (done == 0) {
      EXPECT_OK((*writer)->Flush());  // it keeps its seat
    }
  }
  std::printf("%d resets done, %d refused\n", done, refused);
  EXPECT_GT(done, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(observer->WaitLost().code(), absl::StatusCode::kAborted);

  const int64_t kept = engine->GetSession("s")->watermarks.accepted;
  const std::string answer = Ask(*engine, "s");
  engine = nullptr;
  engine = Start(options);
  EXPECT_EQ(engine->GetSession("s")->watermarks.accepted, kept);
  EXPECT_EQ(Ask(*engine, "s"), answer);
}

TEST_F(EngineTest, ResetAndDeleteEndRunningQueries) {
  auto engine = Start(Options());
  for (int i = 0; i < 12; ++i) {
    StreamText(*engine, "s", std::string(400, static_cast<char>('a' + i)), {100});
    auto observer = std::make_shared<RecordingQuery>();
    auto handle =
        engine->StartQuery({.session_id = "s", .prompt = Text("?"), .max_tokens = 60000, .remember = true}, observer);
    ASSERT_OK(handle);
    absl::SleepFor(absl::Milliseconds(i));
    if (i % 2 == 0) {
      ASSERT_OK(engine->Reset("s", 0));
    } else {
      ASSERT_OK(engine->DeleteSession("s"));
    }
    EXPECT_EQ(observer->Wait().status().code(), i % 2 == 0 ? absl::StatusCode::kAborted : absl::StatusCode::kNotFound);
  }
}

TEST_F(EngineTest, ADeletedSessionsMemoryNeverComesBack) {
  Engine::Options options = Options();
  options.snapshot_every_tokens = 64;  // a snapshot is nearly always under way
  auto engine = Start(options);
  ASSERT_OK(engine->CreateSession("empty", "", {}));
  const std::string empty = Ask(*engine, "empty");
  ASSERT_OK(engine->DeleteSession("empty"));
  for (int i = 0; i < 10; ++i) {
    StreamText(*engine, "s", std::string(700, 'a'), {300});
    ASSERT_OK(engine->DeleteSession("s"));
    engine = nullptr;
    engine = Start(options);
    ASSERT_OK(engine->CreateSession("s", "", {}));
    engine = nullptr;
    engine = Start(options);
    EXPECT_EQ(Ask(*engine, "s"), empty);
    ASSERT_OK(engine->DeleteSession("s"));
  }
}

TEST_F(EngineTest, ATakeOverNeverMixesTwoWriters) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Options());
  StreamText(*engine, "s", "start", {5});
  for (int round = 0; round < 30; ++round) {
    auto old_writer = *engine->OpenWriter("s", {}, std::make_shared<RecordingWriter>());
    const uint64_t from = old_writer->opened().next_sequence;
    std::atomic<uint64_t> old_accepted = from - 1;
    std::thread appender([&] {
      for (uint64_t sequence = from; old_writer->Append(sequence, Text("old")).ok(); ++sequence)
        old_accepted = sequence;
    });
    absl::SleepFor(absl::Microseconds(random() % 2000));
    auto new_writer = engine->OpenWriter("s", {.take_over = true}, std::make_shared<RecordingWriter>());
    ASSERT_OK(new_writer);
    appender.join();
    EXPECT_EQ((*new_writer)->opened().next_sequence, old_accepted + 1);  // all that the old one was told, and no more
    const int64_t before = engine->GetSession("s")->watermarks.accepted;
    ASSERT_OK((*new_writer)->Append((*new_writer)->opened().next_sequence, Text("new!")));
    EXPECT_EQ(engine->GetSession("s")->watermarks.accepted, before + 4);
    while (engine->GetSession("s")->pending_tokens > 1000) absl::SleepFor(absl::Milliseconds(1));
  }
}

TEST_F(EngineTest, DeleteLeavesNothing) {
  auto engine = Start(Options());
  StreamText(*engine, "s", "some text", {4});
  ASSERT_OK(engine->DeleteSession("s"));
  EXPECT_EQ(engine->GetSession("s").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(engine->DeleteSession("s").code(), absl::StatusCode::kNotFound);
  engine = nullptr;
  engine = Start(Options());
  EXPECT_EQ(engine->GetSession("s").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(EngineTest, BadInputIsRefusedByNameAndNothingChanges) {
  Engine::Options options = Options();
  options.max_append_bytes = 100;
  options.max_prompt_tokens = 50;
  auto engine = Start(options);
  auto writer = *engine->OpenWriter("s", {.create_if_missing = true}, std::make_shared<RecordingWriter>());
  auto ids =
      *engine->OpenWriter("ids", {.create_if_missing = true, .model = "ids"}, std::make_shared<RecordingWriter>());
  const auto expect = [](const absl::Status& status, absl::StatusCode code, absl::string_view part) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
  };
  using Code = absl::StatusCode;
  expect(writer->Append(1, Text("")), Code::kInvalidArgument, "empty");
  expect(writer->Append(1, Text(std::string(101, 'x'))), Code::kInvalidArgument, "maximum is 100");
  expect(writer->Append(1, {.kind = ContentKind::kTokenIds, .tokens = {1, 258}}), Code::kInvalidArgument, "258");
  expect(writer->Append(1, {.kind = ContentKind::kTokenIds, .tokens = {-1}}), Code::kInvalidArgument, "-1");
  expect(ids->Append(1, Text("text")), Code::kInvalidArgument, "without a tokenizer");
  EXPECT_OK(ids->Append(1, {.kind = ContentKind::kTokenIds, .tokens = {39}}));
  expect(engine->OpenWriter("s", {.model = "nobody"}, nullptr).status(), Code::kNotFound, "nobody");
  expect(engine->OpenWriter("s", {.model = "ids"}, nullptr).status(), Code::kFailedPrecondition, "small");
  expect(engine->OpenWriter("none", {}, nullptr).status(), Code::kNotFound, "none");
  expect(engine->GetSession("no/slash").status(), Code::kInvalidArgument, "no/slash");
  expect(engine->CreateSession(std::string(129, 'a'), "", {}).status(), Code::kInvalidArgument, "128");
  expect(engine->CreateSession("s", "", {}).status(), Code::kAlreadyExists, "'s'");
  expect(engine->CreateSession("t", "", {{"", "x"}}).status(), Code::kInvalidArgument, "label");

  const auto ask = [&](const QueryOptions& query) {
    return engine->StartQuery(query, std::make_shared<RecordingQuery>()).status();
  };
  expect(ask({.session_id = "none", .prompt = Text("?")}), Code::kNotFound, "none");
  expect(ask({.session_id = "s", .prompt = Text("")}), Code::kInvalidArgument, "empty");
  expect(ask({.session_id = "s", .prompt = Text(std::string(51, '?'))}), Code::kInvalidArgument, "maximum is 50");
  expect(ask({.session_id = "s", .prompt = Text("?"), .max_tokens = 0}), Code::kInvalidArgument, "max_tokens is 0");
  expect(ask({.session_id = "s", .prompt = Text("?"), .max_tokens = 70000}), Code::kInvalidArgument, "65536");
  expect(ask({.session_id = "s", .prompt = Text("?"), .temperature = std::nanf("")}), Code::kInvalidArgument,
         "temperature");
  expect(ask({.session_id = "s", .prompt = Text("?"), .temperature = -1}), Code::kInvalidArgument, "temperature");
  expect(ask({.session_id = "s", .prompt = Text("?"), .top_p = 0}), Code::kInvalidArgument, "top_p");
  expect(ask({.session_id = "s", .prompt = Text("?"), .stop = {""}}), Code::kInvalidArgument, "stop");
  EXPECT_EQ(engine->GetSession("s")->watermarks.accepted, 0);
  EXPECT_OK(writer->Append(1, Text("fine")));
}

TEST_F(EngineTest, FoldersThatDoNotFitAreRefusedByName) {
  auto engine = Start(Options());
  StreamText(*engine, "s", "some text", {4});
  const auto locked = Engine::Start(Options());
  EXPECT_EQ(locked.status().code(), absl::StatusCode::kFailedPrecondition) << locked.status();
  engine = nullptr;

  WriteRandomModel(folder_.path() + "/model", SmallConfig(), 99);  // the same name, other weights
  const auto other = Engine::Start(Options());
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition) << other.status();
  EXPECT_NE(other.status().message().find("'small'"), absl::string_view::npos) << other.status();

  Engine::Options missing = Options();
  missing.models[0].folder = folder_.path() + "/nothing";
  EXPECT_EQ(Engine::Start(missing).status().code(), absl::StatusCode::kNotFound);
  ASSERT_OK(WriteFileAtomically(folder_.path() + "/model/model.safetensors", "broken"));
  const auto broken = Engine::Start(Options());
  EXPECT_FALSE(broken.ok());
  EXPECT_NE(broken.status().message().find("model.safetensors"), absl::string_view::npos) << broken.status();
}

TEST_F(EngineTest, AStepThatIsNotFiniteStopsTheSessionAndKeepsItsTokens) {
  // Steps and values so large that the memory overflows within a few chunks.
  ModelConfig config = SmallConfig();
  config.memory.max_grad_norm = 0;
  config.memory.theta_max = 10;
  WriteRandomModel(folder_.path() + "/wild", config, 3, /*memory_value_scale=*/1e20f);
  Engine::Options options = Options();
  options.models = {{"wild", folder_.path() + "/wild"}};
  auto engine = Start(options);
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = *engine->OpenWriter("s", {.create_if_missing = true}, observer);
  ASSERT_OK(writer->Append(1, Text(std::string(300, 'x'))));
  const absl::Status lost = observer->WaitLost();
  EXPECT_EQ(lost.code(), absl::StatusCode::kFailedPrecondition) << lost;
  for (int restart = 0; restart < 2; ++restart) {
    for (int i = 0; i < 500 && engine->GetSession("s")->failure.empty(); ++i) absl::SleepFor(absl::Milliseconds(10));
    const auto info = engine->GetSession("s");
    ASSERT_OK(info);
    EXPECT_NE(info->failure.find("not finite"), std::string::npos) << info->failure;
    EXPECT_EQ(info->watermarks.accepted, 300);
    EXPECT_EQ(engine->StartQuery({.session_id = "s", .prompt = Text("?")}, std::make_shared<RecordingQuery>())
                  .status()
                  .code(),
              absl::StatusCode::kFailedPrecondition);
    writer = nullptr;
    engine = nullptr;
    engine = Start(options);
  }
  EXPECT_OK(engine->Reset("s", 0));
}

TEST_F(EngineTest, AHandleThatGoesTakesItsQueryAndItsSeatWithIt) {
  auto engine = Start(Options());
  StreamText(*engine, "s", std::string(500, 'a'), {100});
  for (int i = 0; i < 20; ++i) {
    auto observer = std::make_shared<RecordingQuery>();
    auto handle = engine->StartQuery({.session_id = "s", .prompt = Text("?"), .max_tokens = 5000}, observer);
    ASSERT_OK(handle);
    if (i % 2 == 0) absl::SleepFor(absl::Milliseconds(i));
    handle->reset();
    auto writer = engine->OpenWriter("s", {}, std::make_shared<RecordingWriter>());
    ASSERT_OK(writer);
    ASSERT_OK((*writer)->Append((*writer)->opened().next_sequence, Text("more")));
  }
  ASSERT_OK(engine->Drain(absl::Now() + kPatience));
  EXPECT_EQ(engine->stats().writers, 0);
  EXPECT_EQ(engine->stats().waiting_queries + engine->stats().running_queries, 0);
  EXPECT_EQ(engine->GetSession("s")->watermarks.accepted, 500 + 20 * 4);
}

}  // namespace
}  // namespace mnemosyne
