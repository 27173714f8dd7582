// Sessions of the engine: reset, deleted, evicted, listed.
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

class EnginePiecesTest : public EngineTest {
 protected:
  // A model whose tokenizer's pieces are learned from the text; its folder.
  std::string MakePiecesModel(const std::string& text) {
    EXPECT_OK(WriteFileAtomically(folder_.File("pieces.txt"), text));
    const std::string train = std::string(TRAIN_SENTENCEPIECE) + " " + folder_.File("pieces") +
                              " \"--model_type=bpe --vocab_size=32 --hard_vocab_limit=false\" < " +
                              folder_.File("pieces.txt");
    EXPECT_EQ(std::system(train.c_str()), 0) << train;
    const std::string vocabulary = *ReadFile(folder_.File("pieces.vocab")), folder = folder_.path() + "/pieces";
    ModelConfig config = SmallConfig();
    config.tokenizer = {.kind = TokenizerKind::kSentencePiece, .file = "pieces.model"};
    config.vocab_size = std::count(vocabulary.begin(), vocabulary.end(), '\n');
    WriteRandomModel(folder, config, 9);
    EXPECT_OK(WriteFileAtomically(folder + "/pieces.model", *ReadFile(folder_.File("pieces.model"))));
    return folder;
  }
};

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

// Whoever hears that an answer is whole may have the room of the session that gave it, however slowly it is heard.
TEST_F(EngineTest, AnEndedQueryHoldsNoRoom) {
  class SlowListener final : public QueryObserver {
   public:
    void OnPiece(const QueryPiece&) override {}
    void OnDone(const absl::StatusOr<QuerySummary>& summary) override {
      status = summary.status();
      told.Notify();
      go_on.WaitForNotification();
    }
    absl::Status status;
    absl::Notification told, go_on;
  };
  std::mt19937_64 random(TestSeed());
  Engine::Options options = Options();
  options.max_resident_bytes = Start(options)->models()[0].state_bytes;
  auto engine = Start(options);
  StreamText(*engine, "first", RandomText(500, random), {100});
  StreamText(*engine, "second", RandomText(500, random), {100});
  auto slow = std::make_shared<SlowListener>();
  auto handle = engine->StartQuery({.session_id = "second", .prompt = Text("and then?"), .max_tokens = 4}, slow);
  ASSERT_OK(handle);
  ASSERT_TRUE(slow->told.WaitForNotificationWithTimeout(kPatience));
  ASSERT_OK(slow->status);
  EXPECT_NE(Ask(*engine, "first"), "");
  slow->go_on.Notify();
}

TEST_F(EngineTest, SessionsOfOtherWeightsAreRefused) {
  Engine::Options options = Options();
  ASSERT_OK(Start(options)->CreateSession("s", {}));
  options.weights = "bfloat16";
  EXPECT_THAT(Engine::Start(options).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("session 's' was made with model 'small'")));
  options.data_path = folder_.path() + "/other";
  auto engine = Start(options);
  std::mt19937_64 random(TestSeed());
  StreamText(*engine, "s", RandomText(300, random), {100});
  EXPECT_NE(Ask(*engine, "s"), "");
}

TEST_F(EngineTest, ResetForgetsAndSequencesGoOn) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Options());
  ASSERT_OK(engine->CreateSession("empty", {}));
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
  writer->reset();
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

// The earliest offset of a trimmed log is a snapshot's own, which may lie between two pieces inside a record.
TEST_F(EnginePiecesTest, ATrimmedLogOfPiecesOfTextIsCutWhereItBegins) {
  if (!kHasSentencePiece) GTEST_SKIP() << "a sanitizer's program";
  std::mt19937_64 random(TestSeed());
  std::string text;
  for (int i = 0; i < 400; ++i) text += random() % 2 == 0 ? "river " : "a garden ";
  Engine::Options options = Options();
  options.models = {{"pieces", MakePiecesModel(text)}};
  options.snapshot_every_tokens = 32;
  auto engine = Start(options);
  ASSERT_OK(engine->CreateSession("s", {.settings = {.retention = Retention::kTrim}}));
  int cut = 0;
  for (int i = 0; i < 40 && cut < 5; ++i) {
    StreamText(*engine, "s", text, {50 + static_cast<int>(random() % 500)});
    ASSERT_OK(engine->Drain(absl::Now() + kPatience));
    engine = nullptr;
    engine = Start(options);
    const int64_t earliest = engine->GetSession("s")->earliest_offset;
    const auto fork = engine->ForkSession({.source_id = "s", .fork_id = "f", .offset = earliest});
    if (!fork.ok()) {  // inside a piece
      EXPECT_EQ(fork.status().code(), absl::StatusCode::kInvalidArgument) << fork.status();
      continue;
    }
    cut += 1;
    EXPECT_EQ(fork->watermarks.accepted, earliest);
    EXPECT_EQ(Ask(*engine, "f", "?"), Ask(*engine, "s", "?", earliest));
    ASSERT_OK(engine->DeleteSession("f"));
  }
  EXPECT_GE(cut, 1);
  ASSERT_OK(engine->Reset("s", engine->GetSession("s")->earliest_offset));
}

TEST_F(EnginePiecesTest, ResetOfPiecesOfText) {
  if (!kHasSentencePiece) GTEST_SKIP() << "a sanitizer's program";
  std::mt19937_64 random(TestSeed());
  std::string text;
  for (int i = 0; i < 120; ++i) {
    for (const char* word : {"the garden ", "remembers ", "one number ", "and a window "}) {
      text += random() % 2 == 0 ? word : "river, ";
    }
    text += "\n";
  }
  Engine::Options options = Options();
  options.models = {{"pieces", MakePiecesModel(text)}};
  options.snapshot_every_tokens = 128;
  options.max_backlog_tokens = 64;  // what is behind a snapshot is not all in memory
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
  ASSERT_OK(engine->CreateSession("empty", {}));
  const std::string empty = Ask(*engine, "empty");
  ASSERT_OK(engine->DeleteSession("empty"));
  for (int i = 0; i < 10; ++i) {
    StreamText(*engine, "s", std::string(700, 'a'), {300});
    ASSERT_OK(engine->DeleteSession("s"));
    engine = nullptr;
    engine = Start(options);
    ASSERT_OK(engine->CreateSession("s", {}));
    engine = nullptr;
    engine = Start(options);
    EXPECT_EQ(Ask(*engine, "s"), empty);
    ASSERT_OK(engine->DeleteSession("s"));
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

TEST_F(EngineTest, ASessionThatCannotBeLoadedCanBeDeleted) {
  auto engine = Start(Options());
  StreamText(*engine, "s", "some text", {4});
  engine = nullptr;
  Engine::Options options = Options();
  options.models = {options.models[1]};  // not the session's
  engine = Start(options);
  EXPECT_EQ(engine->GetSession("s").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_OK(engine->DeleteSession("s"));
  engine = nullptr;
  engine = Start(Options());
  EXPECT_EQ(engine->GetSession("s").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(EngineTest, ListingTellsWhereToGoOnWithoutLoading) {
  const Engine::Options options = Options();
  SessionInfo before[2];
  const std::string ids[] = {"long", "short"};
  {
    auto engine = Start(options);
    StreamText(*engine, "long", std::string(700, 'x'), {100});
    StreamText(*engine, "short", "twelve bytes", {5});
    for (int i = 0; i < 2; ++i) before[i] = *engine->GetSession(ids[i]);
  }
  auto engine = Start(options);
  const SessionPage page = engine->ListSessions({}, "", 10);
  ASSERT_EQ(page.sessions.size(), 2);
  for (int i = 0; i < 2; ++i) {
    const SessionInfo& listed = page.sessions[i];
    EXPECT_EQ(listed.id, ids[i]);
    EXPECT_FALSE(listed.resident);
    EXPECT_EQ(listed.next_sequence, before[i].next_sequence);
    EXPECT_EQ(listed.watermarks.accepted, before[i].watermarks.accepted);
    EXPECT_EQ(listed.watermarks.durable, before[i].watermarks.durable);
    EXPECT_LE(listed.watermarks.memorized, before[i].watermarks.memorized);
    EXPECT_EQ(listed.pending_tokens, listed.watermarks.accepted - listed.watermarks.memorized);
  }
}

}  // namespace
}  // namespace mnemosyne
