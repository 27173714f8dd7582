// What immutable states make possible: forks, erasures, questions to the past, exports, trimmed logs.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "core/base/status_macros.h"
#include "core/storage/folder_check.h"
#include "tests/core/engine/engine_fixture.h"

namespace mnemosyne {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Code = absl::StatusCode;

class EngineHistoryTest : public EngineTest {
 protected:
  // Whatever a test did, its folder is whole, and everything in it is somebody's.
  void TearDown() override {
    const auto folder = OfflineFolder::Open(folder_.path() + "/data");
    ASSERT_OK(folder);
    const auto report = (*folder)->Check();
    ASSERT_OK(report);
    EXPECT_THAT(report->damage, testing::IsEmpty());
    EXPECT_THAT(report->harmless, testing::IsEmpty());
  }
  Engine::Options Often() const {  // many snapshots
    Engine::Options options = Options();
    options.snapshot_every_tokens = 64;
    return options;
  }
  static int64_t Accepted(Engine& engine, const std::string& id) { return engine.GetSession(id)->watermarks.accepted; }
  static std::string Exported(Engine& engine, const std::string& id) {
    auto out = engine.ExportSession(id);
    EXPECT_TRUE(out.ok()) << out.status();
    std::string bytes;
    while (true) {
      const auto part = (*out)->Next();
      EXPECT_TRUE(part.ok()) << part.status();
      if (part->empty()) return bytes;
      EXPECT_LE(part->size(), 256 << 10);
      bytes += *part;
    }
  }
  static absl::Status Import(Engine& engine, const std::string& id, const std::string& bytes, size_t cut = 1000) {
    auto in = engine.ImportSession(id);
    RETURN_IF_ERROR(in.status());
    for (size_t at = 0; at < bytes.size(); at += cut) {
      RETURN_IF_ERROR((*in)->Add(absl::string_view(bytes).substr(at, cut)));
    }
    return (*in)->Finish().status();
  }
  int FilesWith(const std::string& text) const {
    int files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path() + "/data")) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(file)), {});
      files += bytes.find(text) != std::string::npos;
    }
    return files;
  }
};

TEST_F(EngineHistoryTest, AForkIsTheSessionAsItWasAndGoesItsOwnWay) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  const std::string text = RandomText(700, random), more = RandomText(300, random), other = RandomText(300, random);
  StreamText(*engine, "s", text, {70});
  const auto fork = engine->ForkSession({.source_id = "s", .fork_id = "f", .labels = {{{"kind", "fork"}}}});
  ASSERT_OK(fork);
  EXPECT_EQ(fork->watermarks.accepted, 700);
  EXPECT_EQ(fork->watermarks.durable, 700);
  EXPECT_EQ(fork->next_sequence, 11);
  EXPECT_EQ(fork->labels.at("kind"), "fork");
  EXPECT_GE(fork->update_time, fork->create_time);
  EXPECT_EQ(Ask(*engine, "f"), Ask(*engine, "s"));
  StreamText(*engine, "s", more, {50});
  StreamText(*engine, "f", other, {50});
  StreamText(*engine, "s2", text + more, {1000});
  StreamText(*engine, "f2", text + other, {1000});
  for (int again = 0; again < 2; ++again) {
    EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "s2"));
    EXPECT_EQ(Ask(*engine, "f"), Ask(*engine, "f2"));
    engine = nullptr;  // as after a crash
    engine = Start(options);
  }
  // The one that was forked from goes: the fork keeps what it needs of it.
  ASSERT_OK(engine->DeleteSession("s"));
  engine = nullptr;
  engine = Start(options);
  EXPECT_EQ(Ask(*engine, "f"), Ask(*engine, "f2"));
  EXPECT_EQ(Accepted(*engine, "f"), 1000);
  ASSERT_OK(engine->DeleteSession("f"));
  ASSERT_OK(engine->DeleteSession("s2"));
  ASSERT_OK(engine->DeleteSession("f2"));
  engine = nullptr;
  auto storage = Storage::Open({.path = options.data_path});
  for (uint64_t number = 1; number < 10; ++number) {  // nothing is left of any of them
    const SessionMetadata gone = {.number = number};
    EXPECT_EQ(*(*storage)->LastLogRecord(gone), std::nullopt);
    EXPECT_TRUE((*storage)->ListSnapshots(gone)->empty());
  }
}

// What its source is sent meanwhile is in it up to some record, and so is no snapshot that has more.
TEST_F(EngineHistoryTest, AForkOfASessionThatIsBeingWrittenIsABeginningOfIt) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  const std::string text = RandomText(30 * 300, random);
  std::map<std::string, int64_t> forks;
  StreamText(*engine, "s", text.substr(0, 300), {300});
  for (int i = 1; i < 30; ++i) {
    std::thread writer([&] { StreamText(*engine, "s", text.substr(i * 300, 300), {20}); });
    for (const char* name : {"a", "b"}) {
      absl::SleepFor(absl::Microseconds(random() % 1000));
      const auto fork = engine->ForkSession({.source_id = "s", .fork_id = name + std::to_string(i)});
      EXPECT_OK(fork);
      if (fork.ok()) forks[fork->id] = fork->watermarks.accepted;
    }
    writer.join();
  }
  engine = nullptr;
  engine = Start(options);
  for (const auto& [id, accepted] : forks) {
    const auto info = engine->GetSession(id);
    ASSERT_OK(info);
    EXPECT_EQ(info->watermarks.accepted, accepted) << id;
  }
  const auto& [id, accepted] = *std::next(forks.begin(), random() % forks.size());
  StreamText(*engine, id, "and on", {6});
  StreamText(*engine, "alone", text.substr(0, accepted) + "and on", {4000});
  EXPECT_EQ(Ask(*engine, id), Ask(*engine, "alone")) << id;
}

TEST_F(EngineHistoryTest, AForkCanGoBackToAnyOffset) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  const std::string text = RandomText(900, random);
  StreamText(*engine, "s", text, {70});
  for (const int64_t offset : {0, 1, 69, 70, 71, 333, 640, 899, 900}) {
    const std::string id = "f" + std::to_string(offset), alone = "a" + std::to_string(offset);
    const auto fork = engine->ForkSession({.source_id = "s", .fork_id = id, .offset = offset});
    ASSERT_OK(fork);
    EXPECT_EQ(fork->watermarks.accepted, offset);
    StreamText(*engine, id, "and on", {3});
    StreamText(*engine, alone, text.substr(0, offset) + "and on", {100});
    EXPECT_EQ(Ask(*engine, id), Ask(*engine, alone)) << offset;
  }
  EXPECT_EQ(engine->ForkSession({.source_id = "s", .fork_id = "s"}).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(engine->ForkSession({.source_id = "s", .fork_id = "?"}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(engine->ForkSession({.source_id = "t", .fork_id = "u"}).status().code(), Code::kNotFound);
  EXPECT_EQ(engine->ForkSession({.source_id = "s", .fork_id = "u", .offset = 901}).status().code(), Code::kOutOfRange);
  EXPECT_EQ(engine->GetSession("u").status().code(), Code::kNotFound);
  engine = nullptr;
  engine = Start(options);
  for (const int64_t offset : {0, 1, 69, 70, 71, 333, 640, 899, 900}) {
    EXPECT_EQ(Ask(*engine, "f" + std::to_string(offset)), Ask(*engine, "a" + std::to_string(offset))) << offset;
  }
}

// Forks of forks, reset and deleted in any order: each stays what its own history makes it.
TEST_F(EngineHistoryTest, AnyTreeOfForksIsWhatItsTextsSay) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  std::map<std::string, std::string> model;  // what each session has read
  int made = 0;
  for (int step = 0; step < 120; ++step) {
    const int what = random() % 10;
    if (model.empty() || what == 0) {
      const std::string id = "s" + std::to_string(made++);
      model[id] = RandomText(1 + random() % 300, random);
      StreamText(*engine, id, model[id], {40});
      continue;
    }
    auto it = model.begin();
    std::advance(it, random() % model.size());
    const std::string id = it->first;
    std::string& text = it->second;
    const int64_t size = text.size(), offset = random() % (size + 1), end = offset + random() % (size - offset + 1);
    if (what <= 3) {
      const std::string more = RandomText(1 + random() % 200, random);
      StreamText(*engine, id, more, {static_cast<int64_t>(1 + random() % 90)});
      text += more;
    } else if (what <= 5) {
      const std::string fork = "s" + std::to_string(made++);
      const bool at_end = random() % 2 == 0;
      ForkOptions fork_options = {.source_id = id, .fork_id = fork};
      if (!at_end) fork_options.offset = offset;
      ASSERT_OK(engine->ForkSession(fork_options));
      model[fork] = at_end ? text : text.substr(0, offset);
    } else if (what == 6) {
      ASSERT_OK(engine->Reset(id, offset));
      text.resize(offset);
    } else if (what == 7 && offset < end) {
      ASSERT_OK(engine->EraseSpan(id, offset, end));
      text.erase(offset, end - offset);
    } else if (what == 8) {
      ASSERT_OK(engine->DeleteSession(id));
      model.erase(id);
    } else if (step % 3 == 0) {
      engine = nullptr;
      engine = Start(options);
    }
  }
  if (random() % 2 == 0) {
    engine = nullptr;
    engine = Start(options);
  }
  for (const auto& [id, text] : model) {
    EXPECT_EQ(Accepted(*engine, id), static_cast<int64_t>(text.size())) << id;
    const std::string alone = "alone-" + id;
    if (text.empty()) {
      ASSERT_OK(engine->CreateSession(alone, {}));
    } else {
      StreamText(*engine, alone, text, {4000});
    }
    EXPECT_EQ(Ask(*engine, id), Ask(*engine, alone)) << id;
  }
}

TEST_F(EngineHistoryTest, AnErasedSpanWasNeverThere) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  const std::string before = RandomText(355, random),
                    secret = "the secret that is to be forgotten" + RandomText(200, random);
  const std::string after = RandomText(444, random);
  StreamText(*engine, "s", before + secret + after, {70});
  StreamText(*engine, "never", before + after, {70});
  ASSERT_OK(engine->ForkSession({.source_id = "s", .fork_id = "fork"}));
  const std::string fork_knows = Ask(*engine, "fork");
  const int64_t begin = before.size(), end = begin + secret.size();
  const auto erased = engine->EraseSpan("s", begin, end);
  ASSERT_OK(erased);
  EXPECT_THAT(erased->still_in, ElementsAre("fork"));
  EXPECT_EQ(erased->session.watermarks.accepted, 355 + 444);
  EXPECT_EQ(erased->session.epoch, 2);
  EXPECT_EQ(erased->session.next_sequence, engine->GetSession("fork")->next_sequence);
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "never"));
  EXPECT_EQ(Ask(*engine, "fork"), fork_knows);
  StreamText(*engine, "s", "and on", {2});
  StreamText(*engine, "never", "and on", {3});
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "never"));
  engine = nullptr;
  EXPECT_GE(FilesWith("the secret that is to be"), 1);  // the fork's
  engine = Start(options);
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "never"));
  const auto erased_in_fork = engine->EraseSpan("fork", begin, end);
  ASSERT_OK(erased_in_fork);
  EXPECT_TRUE(erased_in_fork->still_in.empty());
  EXPECT_EQ(FilesWith("the secret that is to be"), 0);
  ASSERT_OK(engine->Drain(absl::Now() + absl::Seconds(30)));
  engine = nullptr;
  EXPECT_EQ(FilesWith("the secret that is to be"), 0);
  EXPECT_EQ(StoredState(options, "s"), StoredState(options, "never"));

  engine = Start(options);
  EXPECT_EQ(engine->EraseSpan("s", 5, 5).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(engine->EraseSpan("s", -1, 5).status().code(), Code::kOutOfRange);
  EXPECT_EQ(engine->EraseSpan("s", 5, 5000).status().code(), Code::kOutOfRange);
  EXPECT_EQ(engine->EraseSpan("t", 0, 1).status().code(), Code::kNotFound);
}

// What has to be memorized anew is longer than a backlog may be: it stays in the log, and the writer waits for it.
TEST_F(EngineHistoryTest, WhatIsErasedNearTheBeginningOfALongSessionIsForgottenToo) {
  std::mt19937_64 random(TestSeed());
  Engine::Options options = Options();
  options.snapshot_every_tokens = 1000;
  options.max_backlog_tokens = 64;
  auto engine = Start(options);
  const std::string text = RandomText(4003, random), more = RandomText(301, random);
  const int64_t begin = 1 + random() % 50, end = begin + 1 + random() % 50;
  const std::string rest = text.substr(0, begin) + text.substr(end);
  StreamText(*engine, "s", text, {90, 7, 300});
  StreamText(*engine, "never", rest, {90});
  const int64_t past = rest.size() / 2 + random() % 1000;
  const std::string then = Ask(*engine, "never", "and then?", past), now = Ask(*engine, "never");
  ASSERT_OK(engine->EraseSpan("s", begin, end));
  for (int again = 0; again < 3; ++again) {
    const SessionInfo info = *engine->GetSession("s");
    EXPECT_EQ(info.watermarks.accepted, rest.size());
    if (again == 0) {
      EXPECT_GT(info.pending_tokens, 64 + 100);  // or nothing of this is tested; later a fast machine may be done
    }
    ASSERT_OK(engine->ForkSession({.source_id = "s", .fork_id = "past" + std::to_string(again), .offset = past}));
    if (again < 2) {  // as after a crash, with some of it memorized
      absl::SleepFor(absl::Milliseconds(random() % 100));
      engine = nullptr;
      engine = Start(options);
      continue;
    }
    EXPECT_EQ(Ask(*engine, "s"), now);
    EXPECT_EQ(Ask(*engine, "s", "and then?", past), then);
    for (int fork = 0; fork <= again; ++fork) EXPECT_EQ(Ask(*engine, "past" + std::to_string(fork)), then) << fork;
  }
  ASSERT_OK(engine->Reset("s", past));
  StreamText(*engine, "s", more, {50});
  StreamText(*engine, "other", rest.substr(0, past) + more, {1000});
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "other"));
}

TEST_F(EngineHistoryTest, AQuestionToThePastIsAnsweredAsItWasThen) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  std::map<int64_t, std::string> then;
  std::string text;
  ASSERT_OK(engine->CreateSession("s", {}));
  then[0] = Ask(*engine, "s");
  for (int i = 0; i < 12; ++i) {
    const std::string more = RandomText(1 + random() % 150, random);
    StreamText(*engine, "s", more, {33});
    text += more;
    then[text.size()] = Ask(*engine, "s");
  }
  const std::string now = Ask(*engine, "s");
  for (int again = 0; again < 2; ++again) {
    for (const auto& [offset, answer] : then) EXPECT_EQ(Ask(*engine, "s", "and then?", offset), answer) << offset;
    EXPECT_EQ(Ask(*engine, "s"), now);
    engine = nullptr;
    engine = Start(options);
  }
  auto observer = std::make_shared<RecordingQuery>();
  const int64_t beyond = text.size() + 1;
  EXPECT_EQ(
      engine->StartQuery({.session_id = "s", .prompt = Text("?"), .as_of_offset = beyond}, observer).status().code(),
      Code::kOutOfRange);
}

TEST_F(EngineHistoryTest, ExportsAndImportsUnderWayAreBounded) {
  Engine::Options options = Options();
  options.max_transfers = 2;
  const auto engine = Start(options);
  StreamText(*engine, "s", "some text", {9});
  auto first = engine->ExportSession("s");
  ASSERT_OK(first);
  EXPECT_EQ(engine->ExportSession("nobody").status().code(), Code::kNotFound);  // keeps no seat
  auto second = engine->ImportSession("copy");
  ASSERT_OK(second);
  EXPECT_EQ(engine->ExportSession("s").status().code(), Code::kResourceExhausted);
  const absl::Status refused = engine->ImportSession("other").status();
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("max_transfers"));
  first->reset();
  ASSERT_OK(engine->ImportSession("other"));
  second->reset();
  ASSERT_OK(engine->ExportSession("s"));
}

TEST_F(EngineHistoryTest, AnImportContinuesBitForBitOnAnotherServer) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Often());
  const std::string text = RandomText(777, random), more = RandomText(222, random);
  StreamText(*engine, "s", text, {70});
  ASSERT_OK(engine->UpdateSession("s", {.labels = {{{"book", "one"}}}}));
  ASSERT_OK(engine->Reset("s", 700));
  const std::string bytes = Exported(*engine, "s");
  auto other = Start(Options("other"));
  ASSERT_OK(Import(*other, "", bytes));
  ASSERT_OK(Import(*other, "renamed", bytes, 7));
  EXPECT_EQ(Import(*other, "", bytes).code(), Code::kAlreadyExists);
  const auto imported = other->GetSession("s");
  ASSERT_OK(imported);
  EXPECT_EQ(imported->watermarks.accepted, 700);
  EXPECT_EQ(imported->next_sequence, engine->GetSession("s")->next_sequence);
  EXPECT_EQ(imported->labels.at("book"), "one");
  for (auto* one : {engine.get(), other.get()}) StreamText(*one, "s", more, {50});
  EXPECT_EQ(Ask(*other, "s"), Ask(*engine, "s"));
  EXPECT_EQ(Ask(*other, "s", "and then?", 123), Ask(*engine, "s", "and then?", 123));
  other = nullptr;
  other = Start(Options("other"));
  EXPECT_EQ(Ask(*other, "s"), Ask(*engine, "s"));
  StreamText(*other, "renamed", more, {222});
  EXPECT_EQ(Ask(*other, "renamed"), Ask(*engine, "s"));
}

TEST_F(EngineHistoryTest, AnAlteredExportIsRefusedAndLeavesNothing) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Often());
  StreamText(*engine, "s", RandomText(500, random), {70});
  const std::string bytes = Exported(*engine, "s");
  for (int i = 0; i < 200; ++i) {
    std::string damaged = bytes;
    const size_t at = random() % bytes.size();
    switch (i % 4) {
      case 0:
        damaged[at] = static_cast<char>(damaged[at] ^ (1 << random() % 8));
        break;
      case 1:
        damaged.resize(at);
        break;
      case 2:
        damaged.erase(at, 1 + random() % 50);
        break;
      default:
        damaged.insert(at, RandomText(1 + random() % 50, random));
    }
    if (damaged == bytes) continue;
    const absl::Status status = Import(*engine, "copy", damaged, 300);
    EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) << i << " at " << at << ": " << status;
    EXPECT_EQ(engine->GetSession("copy").status().code(), Code::kNotFound);
  }
  EXPECT_EQ(Import(*engine, "copy", bytes + "x").code(), Code::kDataLoss);
  ASSERT_OK(Import(*engine, "copy", bytes));
  EXPECT_EQ(Ask(*engine, "copy"), Ask(*engine, "s"));
  engine = nullptr;
  auto storage = Storage::Open({.path = Options().data_path});
  EXPECT_EQ((*storage)->LoadSessions()->size(), 2);
  for (uint64_t number = 2; number < 200; ++number) {  // of those that were refused
    if ((*storage)->LoadSessions()->back().number == number) continue;
    EXPECT_EQ(*(*storage)->LastLogRecord({.number = number}), std::nullopt);
  }
}

// A fork that was cut inside a record has that part of it as a record of its own.
TEST_F(EngineHistoryTest, AnErasureNamesWhoeverHasTheSpanAlsoInACopyOfAPartOfARecord) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Often());
  StreamText(*engine, "s", RandomText(1000, random), {1000});
  ASSERT_OK(engine->ForkSession({.source_id = "s", .fork_id = "long", .offset = 600}));
  ASSERT_OK(engine->ForkSession({.source_id = "s", .fork_id = "short", .offset = 90}));
  ASSERT_OK(engine->ForkSession({.source_id = "long", .fork_id = "longer"}));
  StreamText(*engine, "longer", RandomText(100, random), {30});
  const auto in_long = engine->EraseSpan("long", 100, 200);
  ASSERT_OK(in_long);
  EXPECT_THAT(in_long->still_in, ElementsAre("longer", "s"));
  const auto in_s = engine->EraseSpan("s", 50, 210);
  ASSERT_OK(in_s);
  EXPECT_THAT(in_s->still_in, ElementsAre("long", "longer", "short"));
}

TEST_F(EngineHistoryTest, ASessionThatGoesBackTimeAndAgainDoesNotGrow) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Options());
  const std::string text = RandomText(300, random);
  StreamText(*engine, "s", text, {100});
  for (int i = 0; i < 30; ++i) {
    StreamText(*engine, "s", RandomText(40, random), {20});
    ASSERT_OK(engine->Reset("s", 300));
  }
  StreamText(*engine, "alone", text, {300});
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "alone"));
  engine = nullptr;
  auto storage = Storage::Open({.path = Options().data_path});
  const SessionMetadata session = (*storage)->LoadSessions()->front();
  ASSERT_EQ(session.id, "s");
  EXPECT_LE(session.snapshot_sources.size(), 3);
  EXPECT_LE(session.extents.size(), 3);
}

TEST_F(EngineHistoryTest, ATrimmedSessionComesBackFromItsEarliestOffsetAlsoInsideARecord) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  ASSERT_OK(engine->CreateSession("s", {.settings = {.retention = Retention::kTrim}}));
  const std::string text = RandomText(1200, random);
  StreamText(*engine, "s", text, {100, 1100});        // snapshots one after the other in the second record
  ASSERT_OK(engine->Drain(absl::Now() + kPatience));  // then no snapshot is under way any more
  engine = nullptr;
  engine = Start(options);
  const int64_t earliest = engine->GetSession("s")->earliest_offset;
  EXPECT_GT(earliest, 100);
  for (const int64_t offset : {earliest, earliest + 1, int64_t{1199}}) {
    const std::string fork = "f" + std::to_string(offset), alone = "a" + std::to_string(offset);
    const auto forked = engine->ForkSession({.source_id = "s", .fork_id = fork, .offset = offset});
    ASSERT_OK(forked) << offset;
    StreamText(*engine, alone, text.substr(0, offset), {1000});
    EXPECT_EQ(Ask(*engine, fork), Ask(*engine, alone)) << offset;
  }
  ASSERT_OK(engine->Reset("s", earliest));
  engine = nullptr;
  engine = Start(options);
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "a" + std::to_string(earliest)));
}

TEST_F(EngineHistoryTest, ATrimmedLogStillAnswersAndSaysWhatItCannotDo) {
  std::mt19937_64 random(TestSeed());
  const Engine::Options options = Often();
  auto engine = Start(options);
  const std::string text = RandomText(2000, random);
  ASSERT_OK(engine->CreateSession("s", {.settings = {.retention = Retention::kTrim}}));
  StreamText(*engine, "kept", text, {70});
  for (int64_t at = 0; at < 2000; at += 200) {  // one after the other, so that snapshots come between
    StreamText(*engine, "s", text.substr(at, 200), {70});
  }
  ASSERT_OK(engine->Drain(absl::Now() + absl::Seconds(30)));
  engine = nullptr;
  engine = Start(options);
  const auto info = engine->GetSession("s");
  ASSERT_OK(info);
  EXPECT_GT(info->earliest_offset, 1000);
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "kept"));
  const int64_t covered = info->earliest_offset;
  EXPECT_EQ(Ask(*engine, "s", "and then?", covered), Ask(*engine, "kept", "and then?", covered));
  auto observer = std::make_shared<RecordingQuery>();
  const auto past = engine->StartQuery({.session_id = "s", .prompt = Text("?"), .as_of_offset = covered - 1}, observer);
  EXPECT_EQ(past.status().code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(past.status().message()), HasSubstr("trimmed"));
  EXPECT_EQ(engine->Reset("s", covered - 1).status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(engine->EraseSpan("s", 3, 5).status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(engine->ForkSession({.source_id = "s", .fork_id = "f", .offset = 5}).status().code(),
            Code::kFailedPrecondition);
  ASSERT_OK(engine->ForkSession({.source_id = "s", .fork_id = "f", .offset = covered + 3}));
  StreamText(*engine, "f", text.substr(covered + 3), {100});
  EXPECT_EQ(Ask(*engine, "f"), Ask(*engine, "kept"));
  // A fork stays whole while the one it came from is trimmed further.
  for (int i = 0; i < 5; ++i) {
    StreamText(*engine, "s", text.substr(0, 200), {70});
    StreamText(*engine, "kept", text.substr(0, 200), {70});
  }
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "kept"));
  ASSERT_OK(engine->Reset("s", Accepted(*engine, "s") - 3));
  ASSERT_OK(engine->Reset("kept", Accepted(*engine, "kept") - 3));
  engine = nullptr;
  engine = Start(options);
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "kept"));
  StreamText(*engine, "whole", text, {500});
  EXPECT_EQ(Ask(*engine, "f"), Ask(*engine, "whole"));
  const std::string bytes = Exported(*engine, "s");
  ASSERT_OK(Import(*engine, "copy", bytes));
  const int64_t imported = engine->GetSession("copy")->earliest_offset;  // of the one state that an export has
  EXPECT_GT(imported, engine->GetSession("s")->earliest_offset);
  EXPECT_EQ(Ask(*engine, "copy", "and then?", imported), Ask(*engine, "kept", "and then?", imported));
  const auto too_early =
      engine->StartQuery({.session_id = "copy", .prompt = Text("?"), .as_of_offset = imported - 1}, observer);
  EXPECT_EQ(too_early.status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(Ask(*engine, "copy"), Ask(*engine, "kept"));
  EXPECT_EQ(engine->Reset("copy", 1).status().code(), Code::kFailedPrecondition);
}

TEST_F(EngineHistoryTest, TheLogsQuotaIsRefusedByNameAndTheBacklogIsTheSessions) {
  Engine::Options options = Options();
  options.max_log_bytes = 1000;
  auto engine = Start(options);
  EXPECT_EQ(engine->CreateSession("t", {.settings = {.max_log_bytes = 1001}}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(engine->CreateSession("t", {.settings = {.max_backlog_tokens = 1}}).status().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(engine->CreateSession("t", {.settings = {.ttl = absl::ZeroDuration()}}).status().code(),
            Code::kInvalidArgument);
  ASSERT_OK(engine->CreateSession("s", {.settings = {.max_log_bytes = 100}}));
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = *engine->OpenWriter("s", {}, observer);
  EXPECT_OK(writer->Append(1, Text(std::string(90, 'x'))));
  const absl::Status refused = writer->Append(2, Text(std::string(11, 'x')));
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_FALSE(IsNoRoom(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("maximum is 100"));
  EXPECT_OK(writer->Append(2, Text(std::string(10, 'x'))));
  ASSERT_OK(engine->UpdateSession("s", {.settings = {{.max_log_bytes = 200}}}));
  EXPECT_OK(writer->Append(3, Text(std::string(100, 'x'))));
  EXPECT_EQ(writer->Append(4, Text("x")).code(), Code::kResourceExhausted);
}

TEST_F(EngineHistoryTest, SessionsWhoseTimeIsOverGo) {
  auto engine = Start(Options());
  ASSERT_OK(engine->CreateSession("short", {.settings = {.ttl = absl::Milliseconds(1)}}));
  ASSERT_OK(engine->CreateSession("idle", {.settings = {.idle_ttl = absl::Milliseconds(1)}}));
  ASSERT_OK(engine->CreateSession("stays", {.settings = {.ttl = absl::Hours(1), .idle_ttl = absl::Hours(1)}}));
  ASSERT_OK(engine->CreateSession("used", {.settings = {.idle_ttl = absl::Milliseconds(1)}}));
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = engine->OpenWriter("used", {}, observer);
  const bool is_open = writer.ok();  // unless it was gone already
  const absl::Time end = absl::Now() + kPatience;
  while (engine->ListSessions({}, "", 10).sessions.size() > 1u + is_open && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  std::vector<std::string> left;
  for (const SessionInfo& one : engine->ListSessions({}, "", 10).sessions) left.push_back(one.id);
  if (is_open) {
    EXPECT_THAT(left, ElementsAre("stays", "used"));
  } else {
    EXPECT_THAT(left, ElementsAre("stays"));
  }
  EXPECT_GE(engine->stats().expired_sessions_total, 2);
}

TEST_F(EngineHistoryTest, SequencesAreMemorizedWhenTheirWholeBlocksAre) {
  auto engine = Start(Options());
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = *engine->OpenWriter("s", {.create_if_missing = true}, observer);
  for (uint64_t sequence = 1; sequence <= 40; ++sequence) ASSERT_OK(writer->Append(sequence, Text("seven b")));
  ASSERT_OK(writer->Flush());
  ASSERT_TRUE(observer->WaitFlushed(1));
  const Progress last = observer->last();
  EXPECT_EQ(last.sequence, 40);
  EXPECT_EQ(last.durable_sequence, 40);
  EXPECT_EQ(last.memorized_sequence, 40);
  EXPECT_LT(last.watermarks.memorized, 280);
}

TEST_F(EngineHistoryTest, ABackupOfARunningEngineIsAFolderToStartFrom) {
  std::mt19937_64 random(TestSeed());
  Engine::Options options = Options();
  options.backup_path = folder_.path() + "/backups";
  auto engine = Start(options);
  StreamText(*engine, "s", RandomText(500, random), {70});
  const std::string then = Ask(*engine, "s");
  ASSERT_OK(engine->CreateBackup());
  StreamText(*engine, "s", RandomText(500, random), {70});
  ASSERT_OK(Storage::RestoreBackup(options.backup_path, 0, folder_.path() + "/restored"));
  auto restored = Start(Options("restored"));
  EXPECT_EQ(Ask(*restored, "s"), then);
  EXPECT_EQ(Start(Options("third"))->CreateBackup().status().code(), Code::kFailedPrecondition);
}

}  // namespace
}  // namespace mnemosyne
