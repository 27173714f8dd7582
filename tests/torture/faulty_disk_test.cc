// A disk that refuses: the engine says so, answers from memory, takes work again when the disk does, and has lost
// nothing that it had acknowledged. The system calls fail by libfiu, which ctest preloads.
#include <errno.h>
#include <fiu-control.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "tests/core/engine/engine_fixture.h"
#include "tests/torture/torture.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;
using Code = absl::StatusCode;

// A writer as a client has it: opens the session again whenever it lost its seat, and goes on where it is told to.
class StubbornWriter {
 public:
  StubbornWriter(Engine* engine, std::string id, std::string text, int64_t piece)
      : engine_(engine), id_(std::move(id)), text_(std::move(text)), piece_(piece) {}

  // Writes up to `end` bytes of the text; until then for as long as the disk refuses, or until the first refusal.
  absl::Status WriteUpTo(int64_t end, bool stubborn) {
    const absl::Time patience = absl::Now() + kPatience;
    absl::Status last;
    while (absl::Now() < patience) {
      last = Attempt(end);
      if (last.ok()) return last;
      writer_ = nullptr;
      if (!stubborn) return last;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return last;
  }
  int64_t durable() const { return durable_; }  // bytes that were acknowledged
  int64_t refusals() const { return refusals_; }

 private:
  absl::Status Attempt(int64_t end) {
    if (writer_ == nullptr) {
      observer_ = std::make_shared<RecordingWriter>();
      absl::StatusOr<std::unique_ptr<Writer>> writer =
          engine_->OpenWriter(id_, {.create_if_missing = true, .take_over = true}, observer_);
      if (!writer.ok()) {
        refusals_ += 1;
        return writer.status();
      }
      writer_ = *std::move(writer);
      sequence_ = writer_->opened().next_sequence;
      const int64_t has = writer_->opened().watermarks.accepted_bytes;
      EXPECT_GE(has, durable_) << "what was acknowledged is gone";
      EXPECT_EQ(has, std::min<int64_t>((sequence_ - 1) * piece_, text_.size()))
          << "an append is there twice or in part";
      flushes_ = 0;
    }
    int rooms = 0;
    for (int64_t at = (sequence_ - 1) * piece_; at < end; at = (sequence_ - 1) * piece_) {
      const absl::Status status = writer_->Append(sequence_, Text(text_.substr(at, piece_)));
      if (IsNoRoom(status)) {
        if (!observer_->WaitRooms(++rooms)) return observer_->WaitLost();
        continue;
      }
      if (!status.ok()) return Note(status);
      sequence_ += 1;
    }
    if (const absl::Status status = writer_->Flush(); !status.ok()) return Note(status);
    if (!observer_->WaitFlushed(++flushes_)) return Note(observer_->WaitLost());
    return Note(absl::OkStatus());
  }
  absl::Status Note(const absl::Status& status) {
    durable_ = std::max<int64_t>(durable_, observer_->last().watermarks.durable);
    return status;
  }

  Engine* const engine_;
  const std::string id_, text_;
  const int64_t piece_;
  std::shared_ptr<RecordingWriter> observer_;
  std::unique_ptr<Writer> writer_;
  uint64_t sequence_ = 1;
  int flushes_ = 0;
  int64_t durable_ = 0, refusals_ = 0;
};

class FaultyDiskTest : public EngineTest {
 protected:
  void SetUp() override {
    const char* preload = std::getenv("LD_PRELOAD");
    ASSERT_TRUE(preload != nullptr && std::string(preload).find("fiu") != std::string::npos)
        << "ctest preloads libfiu's fiu_posix_preload.so";
    EngineTest::SetUp();
  }
  void TearDown() override { StopFailing(); }

  void Fail(const std::string& call, int error, bool once = false) {
    ASSERT_EQ(
        fiu_enable(call.c_str(), 1, reinterpret_cast<void*>(static_cast<intptr_t>(error)), once ? FIU_ONETIME : 0), 0);
    failing_.push_back(call);
  }
  void FailSometimes(const std::string& call, int error, float probability) {
    ASSERT_EQ(fiu_enable_random(call.c_str(), 1, reinterpret_cast<void*>(static_cast<intptr_t>(error)), 0, probability),
              0);
    failing_.push_back(call);
  }
  void StopFailing() {
    for (const std::string& call : failing_) fiu_disable(call.c_str());
    failing_.clear();
  }
  // One case: the disk refuses in the middle of a stream, and takes writes again later.
  void RefuseAndResume(const std::function<void(Engine&)>& refuse, const std::function<void()>& resume,
                       std::mt19937_64& random, const std::string& data, const std::string& why) {
    Engine::Options options = Options(data);
    options.snapshot_every_tokens = 256;
    auto engine = Start(options);
    const std::string text = RandomText(6000, random), quiet_text = RandomText(500, random);
    StreamText(*engine, "quiet", quiet_text, {100});
    StubbornWriter writer(engine.get(), "s", text, 1 + random() % 90);
    ASSERT_OK(writer.WriteUpTo(2000, true));
    const std::string quiet = Ask(*engine, "quiet");

    refuse(*engine);
    const absl::Status refused = writer.WriteUpTo(text.size(), false);
    EXPECT_EQ(refused.code(), Code::kUnavailable) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(why));
    const absl::Status created = engine->CreateSession("new", {}).status();
    EXPECT_EQ(created.code(), Code::kUnavailable) << created;
    EXPECT_THAT(std::string(created.message()), HasSubstr(why));
    EXPECT_EQ(engine->Reset("quiet", 0).status().code(), Code::kUnavailable);
    EXPECT_EQ(engine->DeleteSession("quiet").code(), Code::kUnavailable);
    EXPECT_EQ(Ask(*engine, "quiet"), quiet);
    Ask(*engine, "s");  // is answered
    EXPECT_TRUE(engine->stats().disk_failed);

    resume();
    ASSERT_OK(writer.WriteUpTo(text.size(), true));
    EXPECT_FALSE(engine->stats().disk_failed);
    StreamText(*engine, "undisturbed", text, {5000});
    EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "undisturbed"));
    EXPECT_EQ(Ask(*engine, "quiet"), quiet);
    EXPECT_EQ(engine->CreateSession("new", {}).status().code(), Code::kOk);
    engine = nullptr;
    engine = Start(options);
    EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "undisturbed"));
    EXPECT_EQ(Ask(*engine, "quiet"), quiet);
  }

 private:
  std::vector<std::string> failing_;
};

TEST_F(FaultyDiskTest, RefusedWritesAndSyncsAreToldAndResumedFrom) {
  std::mt19937_64 random(TestSeed());
  const struct {
    const char* call;
    int error;
  } cases[] = {
      {"posix/io/rw/write", ENOSPC},    {"posix/io/rw/write", EIO},          {"posix/io/rw/write", EROFS},
      {"posix/io/sync/fdatasync", EIO}, {"posix/io/sync/fdatasync", ENOSPC}, {"posix/io/sync/fdatasync", EDQUOT},
  };
  int number = 0;
  for (const auto& [call, error] : cases) {
    SCOPED_TRACE(std::string(call) + ": " + std::strerror(error));
    RefuseAndResume([&, call = call, error = error](Engine&) { Fail(call, error); }, [&] { StopFailing(); }, random,
                    "data" + std::to_string(number++), std::strerror(error));
    if (HasFailure()) return;
  }
}

// As a file system does that was remounted read-only: nothing can be written, opened for writing or renamed.
TEST_F(FaultyDiskTest, AReadOnlyFileSystemIsToldAndResumedFrom) {
  std::mt19937_64 random(TestSeed());
  RefuseAndResume(
      [&](Engine&) {
        for (const char* call : {"posix/io/rw/write", "posix/io/rw/pwrite", "posix/io/sync/fdatasync",
                                 "posix/io/sync/fsync", "posix/io/dir/rename", "posix/io/dir/unlink"}) {
          Fail(call, EROFS);
        }
      },
      [&] { StopFailing(); }, random, "data", std::strerror(EROFS));
}

// The kernel forgets what it could not write: a later fsync that succeeds says nothing about it.
TEST_F(FaultyDiskTest, AfterOneFailedFsyncTheFolderIsOpenedAnewBeforeAnyOtherIsTrusted) {
  std::mt19937_64 random(TestSeed());
  auto engine = Start(Options());
  auto observer = std::make_shared<RecordingWriter>();
  auto writer = *engine->OpenWriter("s", {.create_if_missing = true}, observer);
  ASSERT_OK(writer->Append(1, Text("before")));
  ASSERT_OK(writer->Flush());
  ASSERT_TRUE(observer->WaitFlushed(1));
  const auto logs = [&] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path() + "/data")) {
      if (entry.path().extension() == ".log") names.insert(entry.path().filename());
    }
    return names;
  };
  const std::set<std::string> before = logs();
  Fail("posix/io/sync/fdatasync", EIO, /*once=*/true);
  ASSERT_OK(writer->Append(2, Text("lost or not")));
  EXPECT_EQ(observer->WaitLost().code(), Code::kUnavailable);
  EXPECT_EQ(observer->last().durable_sequence, 1);
  StubbornWriter again(engine.get(), "t", "after", 5);
  ASSERT_OK(again.WriteUpTo(5, true));
  for (const std::string& name : logs()) EXPECT_FALSE(before.contains(name)) << name;
  const SessionInfo info = *engine->GetSession("s");
  EXPECT_TRUE(info.next_sequence == 2 || info.next_sequence == 3) << info.next_sequence;
  EXPECT_EQ(info.watermarks.durable, info.next_sequence == 2 ? 6 : 17);
}

// A change of a session whose fsync fails may have happened or not. Either way the session is one of the two, the same
// after a restart, and nothing that is acknowledged afterwards is lost.
TEST_F(FaultyDiskTest, AChangeWhoseFsyncFailedHappenedWholeOrNotAtAll) {
  std::mt19937_64 random(TestSeed());
  Engine::Options options = Options();
  options.snapshot_every_tokens = 64;
  const std::string text = RandomText(1000, random), more = RandomText(300, random);
  const std::vector<std::pair<std::string, std::function<absl::Status(Engine&)>>> changes = {
      {"reset", [](Engine& engine) { return engine.Reset("reset", 500).status(); }},
      {"erase", [](Engine& engine) { return engine.EraseSpan("erase", 200, 700).status(); }},
      {"delete", [](Engine& engine) { return engine.DeleteSession("delete"); }},
      {"fork", [](Engine& engine) { return engine.ForkSession({.source_id = "fork", .fork_id = "of"}).status(); }},
      {"create", [](Engine& engine) { return engine.CreateSession("created", {}).status(); }},
      {"update", [](Engine& engine) {
         return engine.UpdateSession("update", {.labels = {{{"a", "b"}}}}).status();
       }}};
  auto engine = Start(options);
  for (const auto& [id, change] : changes) StreamText(*engine, id, text, {90});
  size_t refused = 0;
  for (const auto& [id, change] : changes) {
    SCOPED_TRACE(id);
    ASSERT_OK(engine->Drain(absl::Now() + kPatience));  // no snapshot's fsync is the one that fails
    engine = nullptr;
    engine = Start(options);
    ASSERT_OK(engine->GetSession(id));
    Fail("posix/io/sync/fdatasync", EIO, /*once=*/true);
    if (!change(*engine).ok()) ++refused;
    StopFailing();
    ASSERT_OK(StubbornWriter(engine.get(), id + "-after", "taken again", 5).WriteUpTo(11, true));
    std::map<std::string, std::string> answers;
    for (const SessionInfo& info : engine->ListSessions({}, "", 1000).sessions) {
      StreamText(*engine, info.id, more, {77});
      answers[info.id] = Ask(*engine, info.id);
    }
    engine = nullptr;
    engine = Start(options);
    EXPECT_EQ(engine->ListSessions({}, "", 1000).sessions.size(), answers.size());
    for (const auto& [name, answer] : answers) EXPECT_EQ(Ask(*engine, name), answer) << name;
  }
  // RocksDB, which tidies up after a start, may have taken one or another failure for itself.
  EXPECT_GE(refused, changes.size() - 2);
}

// A session that has more to memorize than is in memory goes on reading its log while the disk refuses writes, waits
// while the folder is opened again, and goes on; so does a question to the past.
TEST_F(FaultyDiskTest, WhoReadsItsLogGoesOnWhenTheFolderIsOpenedAgain) {
  std::mt19937_64 random(TestSeed());
  Engine::Options options = Options();
  options.max_backlog_tokens = 64;
  auto engine = Start(options);
  const std::string text = RandomText(120000, random);
  StreamText(*engine, "s", text, {5000});
  StreamText(*engine, "never", text.substr(10), {5000});
  const std::string then = Ask(*engine, "never", "and then?", 30000);
  ASSERT_OK(engine->EraseSpan("s", 0, 10));
  const auto pending = [&] { return engine->GetSession("s")->pending_tokens; };
  int reopened = 0;
  for (int round = 0; pending() > 64; ++round) {
    ASSERT_EQ(engine->GetSession("s")->failure, "");
    // Asked before the disk fails: a question that comes while the folder is being opened again is refused.
    const Asked asked = StartAsking(*engine, "never", "and then?", 30000);
    Fail("posix/io/sync/fdatasync", EIO, /*once=*/true);
    // RocksDB, which tidies up after a start, may have taken the failure for itself.
    const bool is_refused = !engine->CreateSession("refused-" + std::to_string(round), {}).ok();
    reopened += is_refused && pending() > 64;
    StopFailing();
    // What is made shows that the folder was opened again: what refused it is not always known at once.
    const absl::Time patience = absl::Now() + kPatience;
    absl::Status made;
    do {
      absl::SleepFor(absl::Milliseconds(1));
      made = engine->CreateSession("made-" + std::to_string(round), {}).status();
    } while (!made.ok() && !absl::IsAlreadyExists(made) && absl::Now() < patience);
    ASSERT_TRUE(made.ok() || absl::IsAlreadyExists(made)) << made;
    EXPECT_EQ(AnswerOf(asked), then);
  }
  EXPECT_GE(reopened, 1);
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "never"));
}

TEST_F(FaultyDiskTest, ShortWritesChangeNothing) {
  std::mt19937_64 random(TestSeed());
  FailSometimes("posix/io/rw/write/reduce", 0, 0.3f);
  FailSometimes("posix/io/rw/pwrite/reduce", 0, 0.3f);
  const Engine::Options options = Options();
  auto engine = Start(options);
  const std::string text = RandomText(5000, random);
  StubbornWriter writer(engine.get(), "s", text, 40);
  ASSERT_OK(writer.WriteUpTo(text.size(), true));
  ASSERT_OK(engine->Drain(absl::Now() + kPatience));
  engine = nullptr;
  StopFailing();
  engine = Start(options);
  StreamText(*engine, "undisturbed", text, {5000});
  EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "undisturbed"));
}

TEST_F(FaultyDiskTest, ADiskThatFailsNowAndThenLosesNothing) {
  std::mt19937_64 random(TestSeed());
  const int64_t rounds = Cases(2, 60);
  int64_t refusals = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    Engine::Options options = Options("data" + std::to_string(round));
    options.snapshot_every_tokens = 256;
    auto engine = Start(options);
    const std::string text = RandomText(8000, random);
    StubbornWriter writer(engine.get(), "s", text, 50);
    ASSERT_OK(writer.WriteUpTo(100, true));
    const char* calls[] = {"posix/io/rw/write", "posix/io/sync/fdatasync", "posix/io/sync/fsync"};
    const int errors[] = {EIO, ENOSPC, EDQUOT};
    FailSometimes(calls[random() % 3], errors[random() % 3], 0.02f);
    FailSometimes("posix/io/rw/write/reduce", 0, 0.05f);
    for (int64_t end = 500; end <= 8000; end += 500) {
      const absl::Status status = writer.WriteUpTo(end, true);
      if (!status.ok()) {  // it may fail more often than it recovers
        StopFailing();
        ASSERT_OK(writer.WriteUpTo(end, true));
      }
    }
    StopFailing();
    ASSERT_OK(writer.WriteUpTo(text.size(), true));
    refusals += writer.refusals();
    engine = nullptr;
    engine = Start(options);
    StreamText(*engine, "undisturbed", text, {5000});
    EXPECT_EQ(Ask(*engine, "s"), Ask(*engine, "undisturbed"));
  }
  std::printf("%lld rounds, %lld refusals on the way\n", static_cast<long long>(rounds),
              static_cast<long long>(refusals));
}

// A real file system of 96 MiB, in a mount namespace of a process of its own.
TEST_F(FaultyDiskTest, AFullFileSystemIsToldAndResumedFrom) {
  // A mount namespace belongs to the thread that enters it and to those it makes: not to the database's threads that
  // earlier tests have left.
  constexpr char kOwnProcess[] = "MNEMOSYNE_TEST_OWN_PROCESS";
  if (std::getenv(kOwnProcess) == nullptr) {
    const pid_t child = fork();
    if (child == 0) {
      setenv(kOwnProcess, "1", 1);
      execl("/proc/self/exe", "faulty_disk_test", "--gtest_filter=FaultyDiskTest.AFullFileSystemIsToldAndResumedFrom",
            nullptr);
      _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    return;
  }
  std::mt19937_64 random(TestSeed());
  const std::string mounted = folder_.path() + "/small";
  ASSERT_EQ(mkdir(mounted.c_str(), 0755), 0);
  const bool is_own = unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0;
  if (!is_own || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", mounted.c_str(), "tmpfs", 0, "size=96m") != 0) {
    GTEST_SKIP() << "no mount namespace here: " << std::strerror(errno);
  }
  const std::string ballast = mounted + "/ballast";
  RefuseAndResume(
      [&](Engine& engine) {
        std::ofstream out(ballast, std::ios::binary);
        const std::string block(1 << 16, 'b');
        while (out.write(block.data(), block.size()).flush()) {
        }
        // The write-ahead log has room reserved: until that is full too.
        SessionOptions large;
        for (int i = 0; i < 64; ++i) large.labels[std::to_string(i)] = std::string(255, 'l');
        for (int i = 0; i < 3000 && engine.CreateSession("large" + std::to_string(i), large).ok(); ++i) {
        }
      },
      [&] { unlink(ballast.c_str()); }, random, "small/data", std::strerror(ENOSPC));
  umount2(mounted.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace mnemosyne
