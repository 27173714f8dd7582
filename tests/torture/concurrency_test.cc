// Many clients at once against a model of what must hold.
//
// Every append is kUnit bytes that its sequence number decides, and forks, resets and erasures cut at multiples of it.
// So what a session has read in one epoch is a list of sequences: those it began the epoch with, then every number
// from the epoch's first on. Whatever the clients do at once, its watermarks must fit that list whenever they are seen,
// and at the end its log and its answers must be those of the list.
#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "core/session/export_stream.h"
#include "tests/core/engine/engine_fixture.h"
#include "tests/torture/torture.h"

namespace mnemosyne {
namespace {

using Code = absl::StatusCode;

constexpr int64_t kUnit = 8;

std::string UnitOf(uint64_t sequence) {
  std::mt19937_64 random(sequence);
  return RandomText(kUnit, random);
}

std::string TextOf(const std::vector<uint64_t>& sequences) {
  std::string text;
  for (const uint64_t sequence : sequences) text += UnitOf(sequence);
  return text;
}

// What sessions must be, by id and epoch. Thread-safe.
class Truth {
 public:
  struct Epoch {
    std::vector<uint64_t> base;   // sequences that it began with
    uint64_t first_sequence = 1;  // of its own appends
  };
  void Begin(const std::string& id, uint64_t epoch, Epoch began) {
    absl::MutexLock lock(&mutex_);
    epochs_[{id, epoch}] = std::move(began);
    ids_.insert(id);
  }
  void Forget(const std::string& id) {
    absl::MutexLock lock(&mutex_);
    ids_.erase(id);
  }
  std::vector<std::string> ids() const {
    absl::MutexLock lock(&mutex_);
    return {ids_.begin(), ids_.end()};
  }
  // What the session has read when `next_sequence` comes next; nullopt: the epoch is not known (yet).
  std::optional<std::vector<uint64_t>> Read(const std::string& id, uint64_t epoch, uint64_t next_sequence) const {
    absl::MutexLock lock(&mutex_);
    const auto found = epochs_.find({id, epoch});
    if (found == epochs_.end()) return std::nullopt;
    std::vector<uint64_t> read = found->second.base;
    for (uint64_t s = found->second.first_sequence; s < next_sequence; ++s) read.push_back(s);
    return read;
  }
  void Check(const SessionInfo& info) const {
    EXPECT_GE(info.watermarks.accepted, info.watermarks.durable) << info.id;
    EXPECT_GE(info.watermarks.durable, info.watermarks.memorized) << info.id;
    const auto read = Read(info.id, info.epoch, info.next_sequence);
    if (!read) return;
    EXPECT_EQ(info.watermarks.accepted, static_cast<int64_t>(read->size()) * kUnit)
        << info.id << ", epoch " << info.epoch << ", next sequence " << info.next_sequence;
  }

 private:
  mutable absl::Mutex mutex_;
  std::map<std::pair<std::string, uint64_t>, Epoch> epochs_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> ids_ ABSL_GUARDED_BY(mutex_);
};

// Watches that what a writer is told only grows, and in order.
class CheckingWriter final : public WriterObserver {
 public:
  void OnProgress(const Progress& progress) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_GE(progress.sequence, last_.sequence);
    EXPECT_GE(progress.durable_sequence, last_.durable_sequence);
    EXPECT_GE(progress.memorized_sequence, last_.memorized_sequence);
    EXPECT_GE(progress.watermarks.accepted, last_.watermarks.accepted);
    EXPECT_GE(progress.watermarks.durable, last_.watermarks.durable);
    EXPECT_GE(progress.watermarks.memorized, last_.watermarks.memorized);
    EXPECT_GE(progress.sequence, progress.durable_sequence);
    EXPECT_GE(progress.durable_sequence, progress.memorized_sequence);
    EXPECT_TRUE(lost_.ok()) << "progress after the loss";
    last_ = progress;
    flushed_ += progress.flushed;
  }
  void OnRoom() override {}
  void OnLost(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(lost_.ok()) << "lost twice";
    lost_ = status;
  }
  // False: the seat was lost first.
  bool AwaitFlush(int count) {
    absl::MutexLock lock(&mutex_);
    const auto due = [&] { return flushed_ >= count || !lost_.ok(); };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&due), kPatience)) << "a flush without an end";
    return flushed_ >= count;
  }

 private:
  absl::Mutex mutex_;
  Progress last_;
  int flushed_ = 0;
  absl::Status lost_;
};

class Client {
 public:
  Client(Engine* engine, Truth* truth, int number, uint64_t seed)
      : engine_(engine), truth_(truth), name_("c" + std::to_string(number)), random_(seed) {}

  void Run(int64_t steps) {
    for (int64_t i = 0; i < steps && !testing::Test::HasFailure(); ++i) Step();
  }
  const std::map<std::string, int64_t>& done() const { return done_; }

 private:
  // What the others may make of a call at any time; anything else is a failure.
  static bool IsFair(const absl::Status& status) {
    switch (status.code()) {
      case Code::kOk:
      case Code::kNotFound:            // deleted by another
      case Code::kAborted:             // being changed by another, or its seat taken
      case Code::kOutOfRange:          // made shorter by another
      case Code::kFailedPrecondition:  // has a writer; is trimmed
      case Code::kResourceExhausted:   // the states' budget is full of sessions in use; too many queries
        return true;
      default:
        return false;
    }
  }
  bool Note(const char* what, const absl::Status& status) {
    EXPECT_TRUE(IsFair(status)) << what << ": " << status;
    done_[std::string(what) + (status.ok() ? "" : ", refused")] += 1;
    return status.ok();
  }
  std::string NewId() { return name_ + "-" + std::to_string(made_++); }
  std::optional<std::string> SomeId() {
    const std::vector<std::string> ids = truth_->ids();
    if (ids.empty()) return std::nullopt;
    return ids[random_() % ids.size()];
  }

  void Step() {
    const std::optional<std::string> id = SomeId();
    const int what = random_() % 20;
    if (!id || what == 0) return Create();
    if (what <= 6) return Write(*id);
    if (what <= 9) return Query(*id);
    if (what == 10) return Fork(*id);
    if (what == 11) return Change(*id, /*erase=*/false);
    if (what == 12) return Change(*id, /*erase=*/true);
    if (what == 13) return Transfer(*id);
    if (what == 14 && random_() % 3 == 0) return Delete(*id);
    if (what == 15) return Update(*id);
    if (what == 16) {
      for (const SessionInfo& one : engine_->ListSessions({}, "", 1000).sessions) {
        if (one.resident) truth_->Check(one);
      }
      return;
    }
    Look(*id);
  }

  std::optional<SessionInfo> Look(const std::string& id) {
    const absl::StatusOr<SessionInfo> info = engine_->GetSession(id);
    if (!Note("look", info.status())) return std::nullopt;
    truth_->Check(*info);
    return *info;
  }

  void Create() {
    const std::string id = NewId();
    SessionOptions options;
    if (random_() % 4 == 0) options.settings.retention = Retention::kTrim;
    const absl::StatusOr<SessionInfo> info = engine_->CreateSession(id, options);
    if (Note("create", info.status())) truth_->Begin(id, 1, {});
  }

  void Write(const std::string& id) {
    auto observer = std::make_shared<CheckingWriter>();
    const auto writer = engine_->OpenWriter(id, {.take_over = random_() % 2 == 0}, observer);
    if (!Note("write", writer.status())) return;
    truth_->Check((*writer)->opened());
    uint64_t sequence = (*writer)->opened().next_sequence;
    const int appends = 1 + random_() % 40;
    int flushes = 0;
    for (int i = 0; i < appends; ++i) {
      const absl::Status status = (*writer)->Append(sequence, Text(UnitOf(sequence)));
      if (IsNoRoom(status)) {
        if (!(*writer)->Flush().ok() || !observer->AwaitFlush(++flushes)) return;
        continue;
      }
      if (!Note("append", status)) return;
      if (random_() % 8 == 0) Note("repeat", (*writer)->Append(sequence, Text(UnitOf(sequence))));
      sequence += 1;
    }
    if (random_() % 3 == 0) return;  // leaves what is not durable yet behind
    if ((*writer)->Flush().ok()) observer->AwaitFlush(++flushes);
  }

  void Query(const std::string& id) {
    auto observer = std::make_shared<RecordingQuery>();
    QueryOptions options = {.session_id = id, .prompt = Text("what?"), .max_tokens = 4};
    if (random_() % 2 == 0) {
      const std::optional<SessionInfo> info = Look(id);
      if (!info) return;
      options.as_of_offset = random_() % (info->watermarks.accepted + 1);
    }
    const auto query = engine_->StartQuery(options, observer);
    if (!Note(options.as_of_offset ? "query the past" : "query", query.status())) return;
    if (random_() % 5 == 0) return;  // goes away
    const auto summary = observer->Wait();
    if (Note("answer", summary.status()) && options.as_of_offset) {
      EXPECT_EQ(summary->as_of_offset, *options.as_of_offset);
    }
  }

  // A place to cut, of what is durable in the epoch that was seen.
  int64_t SomeUnits(const SessionInfo& info) { return random_() % (info.watermarks.durable / kUnit + 1); }

  void Fork(const std::string& id) {
    const std::optional<SessionInfo> before = Look(id);
    if (!before) return;
    ForkOptions options = {.source_id = id, .fork_id = NewId()};
    if (random_() % 2 == 0) options.offset = SomeUnits(*before) * kUnit;
    const absl::StatusOr<SessionInfo> fork = engine_->ForkSession(options);
    if (!Note("fork", fork.status())) return;
    const absl::StatusOr<SessionInfo> after = engine_->GetSession(id);
    const auto source = truth_->Read(id, before->epoch, fork->next_sequence);
    const int64_t units = fork->watermarks.accepted / kUnit;
    EXPECT_EQ(fork->watermarks.accepted % kUnit, 0);
    // Which epoch it was forked from is known only if there was one.
    if (!after.ok() || after->epoch != before->epoch || !source || units > static_cast<int64_t>(source->size())) {
      Note("delete", engine_->DeleteSession(options.fork_id));
      return;
    }
    EXPECT_EQ(fork->watermarks.accepted, options.offset.value_or(fork->watermarks.accepted));
    truth_->Begin(options.fork_id, 1, {{source->begin(), source->begin() + units}, fork->next_sequence});
  }

  void Change(const std::string& id, bool erase) {
    const std::optional<SessionInfo> before = Look(id);
    if (!before) return;
    int64_t begin = SomeUnits(*before), end = SomeUnits(*before);
    if (begin > end) std::swap(begin, end);
    if (erase && begin == end) return;
    absl::StatusOr<SessionInfo> after;
    if (erase) {
      absl::StatusOr<ErasedSpan> erased = engine_->EraseSpan(id, begin * kUnit, end * kUnit);
      after = erased.ok() ? absl::StatusOr<SessionInfo>(erased->session) : erased.status();
    } else {
      after = engine_->Reset(id, begin * kUnit);
    }
    if (!Note(erase ? "erase" : "reset", after.status())) return;
    // Exactly one change happened between the two looks if the epochs follow each other. A writer may have come since.
    const auto read = truth_->Read(id, before->epoch, after->next_sequence);
    if (after->epoch != before->epoch + 1 || !read) return;
    if (erase) {
      // What it has now and the span is what it had read, and what came since: which of it came since does not matter.
      std::vector<uint64_t> base = *read;
      EXPECT_EQ(after->watermarks.accepted, static_cast<int64_t>(base.size() - (end - begin)) * kUnit) << id;
      base.erase(base.begin() + begin, base.begin() + end);
      truth_->Begin(id, after->epoch, {std::move(base), after->next_sequence});
      return;
    }
    const uint64_t own = (after->watermarks.accepted - begin * kUnit) / kUnit;
    truth_->Begin(id, after->epoch, {{read->begin(), read->begin() + begin}, after->next_sequence - own});
  }

  void Transfer(const std::string& id) {
    auto out = engine_->ExportSession(id);
    if (!Note("export", out.status())) return;
    const SessionInfo info = (*out)->session();
    const std::string copy = NewId();
    auto in = engine_->ImportSession(copy);
    if (!Note("import", in.status())) return;
    while (true) {
      const absl::StatusOr<std::string> part = (*out)->Next();
      if (!Note("export", part.status())) return;
      if (part->empty()) break;
      if (random_() % 50 == 0) return;  // gives up
      if (!Note("import", (*in)->Add(*part))) return;
    }
    const absl::StatusOr<SessionInfo> imported = (*in)->Finish();
    if (!Note("import", imported.status())) return;
    const auto read = truth_->Read(id, info.epoch, imported->next_sequence);
    if (!read) {
      Note("delete", engine_->DeleteSession(copy));
      return;
    }
    EXPECT_EQ(imported->watermarks.accepted, static_cast<int64_t>(read->size()) * kUnit);
    truth_->Begin(copy, 1, {*read, imported->next_sequence});
  }

  void Delete(const std::string& id) {
    if (Note("delete", engine_->DeleteSession(id))) truth_->Forget(id);
  }

  void Update(const std::string& id) {
    SessionUpdate update;
    update.labels = {{"step", std::to_string(random_())}};
    Note("update", engine_->UpdateSession(id, update).status());
  }

  Engine* const engine_;
  Truth* const truth_;
  const std::string name_;
  std::mt19937_64 random_;
  int made_ = 0;
  std::map<std::string, int64_t> done_;
};

class ConcurrencyTest : public EngineTest {
 protected:
  // The text of the session's log.
  static std::string LoggedText(Engine& engine, const std::string& id) {
    struct Collector final : public ExportVisitor {
      absl::Status OnSession(SessionMetadata) override { return absl::OkStatus(); }
      int64_t MaxStateBytes() const override { return 1 << 24; }
      absl::Status OnSnapshot(SnapshotHeader, std::string) override { return absl::OkStatus(); }
      absl::Status OnRecord(LogRecord record) override {
        text += record.payload;
        return absl::OkStatus();
      }
      std::string text;
    } collector;
    ExportReader reader;
    auto out = engine.ExportSession(id);
    EXPECT_OK(out);
    while (true) {
      const auto part = (*out)->Next();
      EXPECT_OK(part);
      if (part->empty()) break;
      EXPECT_OK(reader.Add(*part, collector));
    }
    EXPECT_OK(reader.CheckEnded());
    return collector.text;
  }
};

TEST_F(ConcurrencyTest, WhateverManyClientsDoAtOnceTheModelHolds) {
  const int64_t rounds = Cases(1, 40);
  const uint64_t seed = TestSeed();
  std::map<std::string, int64_t> done;
  int64_t checked = 0;
  for (int64_t round = 0; round < rounds && !HasFailure(); ++round) {
    std::mt19937_64 random(seed + round);
    Engine::Options options = Options("data" + std::to_string(round));
    options.snapshot_every_tokens = 32 + random() % 300;
    options.max_backlog_tokens = 64 + random() % 2000;
    options.max_resident_bytes = (4 + random() % 12) * Start(Options("probe"))->models()[0].state_bytes;
    options.workers = 1 + random() % 4;
    options.batch_sessions = 1 + random() % 4;
    auto engine = Start(options);
    Truth truth;
    for (int part = 0; part < 2; ++part) {  // with a stop, as of a crash, between
      std::vector<std::unique_ptr<Client>> clients;
      std::vector<std::thread> threads;
      for (int i = 0; i < 6; ++i) {
        const int number = part * 6 + i;
        clients.push_back(std::make_unique<Client>(engine.get(), &truth, number, random()));
        threads.emplace_back([&client = *clients.back()] { client.Run(IsLongForm() ? 150 : 60); });
      }
      for (std::thread& thread : threads) thread.join();
      for (const auto& client : clients) {
        for (const auto& [what, count] : client->done()) done[what] += count;
      }
      engine = nullptr;
      engine = Start(options);
    }
    for (const std::string& id : truth.ids()) {
      const absl::StatusOr<SessionInfo> info = engine->GetSession(id);
      if (absl::IsNotFound(info.status())) continue;  // deleted while its fork was being noted
      ASSERT_OK(info);
      truth.Check(*info);
      const auto read = truth.Read(id, info->epoch, info->next_sequence);
      std::string text = LoggedText(*engine, id);
      if (read) {
        const std::string expected = TextOf(*read);
        EXPECT_TRUE(info->earliest_offset > 0 || text == expected) << id << ": its log is not what it was told";
        text = expected;
      }
      if (!read && info->earliest_offset > 0) continue;  // what was trimmed is not known
      const std::string alone = "alone-" + id;
      if (text.empty()) {
        ASSERT_OK(engine->CreateSession(alone, {}));
      } else {
        StreamText(*engine, alone, text, {4000});
      }
      EXPECT_EQ(Ask(*engine, id), Ask(*engine, alone)) << id;
      checked += 1;
    }
  }
  for (const auto& [what, count] : done) {
    std::printf("%-26s %8lld\n", what.c_str(), static_cast<long long>(count));
  }
  std::printf("%lld sessions compared with one that read the same alone\n", static_cast<long long>(checked));
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace mnemosyne
