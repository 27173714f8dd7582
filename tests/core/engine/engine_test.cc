// The engine's promises on a small random model: the same state however a stream is cut, whoever shares the machine and
// whatever was killed; exactly once; queries that never write; bad input refused with nothing lost.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "tests/core/engine/engine_fixture.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

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

TEST_F(EngineTest, BlocksOfABacklogAreToldTogether) {
  auto engine = Start(Options());
  const auto observer = std::make_shared<RecordingWriter>();
  const auto writer = engine->OpenWriter("s", {.create_if_missing = true}, observer);
  ASSERT_OK(writer);
  const absl::Time begin = absl::Now();
  ASSERT_OK((*writer)->Append(1, Text(std::string(64000, 'a'))));
  ASSERT_OK((*writer)->Flush());
  ASSERT_TRUE(observer->WaitFlushed(1));
  // One for every 20 ms, and what is told at once: that the append is durable, and the last block.
  const int64_t most = (absl::Now() - begin) / absl::Milliseconds(20) + 4;
  EXPECT_GT(observer->last().watermarks.memorized, 0);
  EXPECT_LE(observer->reports(), most);
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

TEST_F(EngineTest, BadInputIsRefusedByNameAndNothingChanges) {
  Engine::Options options = Options();
  options.max_append_bytes = 100;
  options.max_prompt_tokens = 50;
  auto engine = Start(options);
  auto writer = *engine->OpenWriter("s", {.create_if_missing = true}, std::make_shared<RecordingWriter>());
  auto ids = *engine->OpenWriter("ids", {.create_if_missing = true, .creation = {.model = "ids"}},
                                 std::make_shared<RecordingWriter>());
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
  expect(engine->OpenWriter("s", {.creation = {.model = "nobody"}}, nullptr).status(), Code::kNotFound, "nobody");
  expect(engine->OpenWriter("s", {.creation = {.model = "ids"}}, nullptr).status(), Code::kFailedPrecondition, "small");
  expect(engine->OpenWriter("none", {}, nullptr).status(), Code::kNotFound, "none");
  for (const char* id : {"two/slashes/here", "/nobody", "tenant/", "a b/c", "a/b c"}) {  // TENANT/NAME is an id
    expect(engine->GetSession(id).status(), Code::kInvalidArgument, id);
  }
  expect(engine->CreateSession(std::string(129, 'a'), {}).status(), Code::kInvalidArgument, "128");
  expect(engine->CreateSession("s", {}).status(), Code::kAlreadyExists, "'s'");
  expect(engine->CreateSession("t", {.labels = {{"", "x"}}}).status(), Code::kInvalidArgument, "label");

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
