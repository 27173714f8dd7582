// What tests of the engine share: a data folder, two small models, observers that record, and streams and questions
// that wait for their end.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/base/config.h"
#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "core/engine/engine.h"
#include "core/storage/storage.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {

inline constexpr absl::Duration kPatience = absl::Seconds(60);

inline uint64_t TestSeed() {
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
    reports_ += 1;
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
  int reports() {
    absl::MutexLock lock(&mutex_);
    return reports_;
  }
  Progress last() {
    absl::MutexLock lock(&mutex_);
    return last_;
  }

 private:
  absl::Mutex mutex_;
  Progress last_;
  int reports_ = 0, flushed_ = 0, rooms_ = 0;
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

inline Content Text(std::string bytes) { return {.kind = ContentKind::kText, .bytes = std::move(bytes)}; }

inline std::string RandomText(int64_t bytes, std::mt19937_64& random) {
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += static_cast<char>(random() % 256);
  return text;
}

// A program with a sanitizer cannot load SentencePiece beside LibTorch (core/model/sentence_pieces.cc).
#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
inline constexpr bool kHasSentencePiece = false;
#else
inline constexpr bool kHasSentencePiece = true;
#endif

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
        ASSERT_TRUE(IsNoRoom(status)) << status;
        ASSERT_TRUE(observer->WaitRooms(++rooms));
      }
      sequence += 1;
      done += piece.size();
    }
    ASSERT_OK((*writer)->Flush());
    ASSERT_TRUE(observer->WaitFlushed(1));
    EXPECT_EQ(observer->last().watermarks.durable, observer->last().watermarks.accepted);
  }
  struct Asked {
    std::shared_ptr<RecordingQuery> observer = std::make_shared<RecordingQuery>();
    std::unique_ptr<QueryHandle> handle;  // null, and a failed test, where the question was refused
  };
  static Asked StartAsking(Engine& engine, const std::string& id, const std::string& question,
                           std::optional<int64_t> as_of_offset = std::nullopt) {
    Asked asked;
    auto handle = engine.StartQuery(
        {.session_id = id, .prompt = Text(question), .max_tokens = 24, .as_of_offset = as_of_offset}, asked.observer);
    EXPECT_TRUE(handle.ok()) << handle.status();
    if (handle.ok()) asked.handle = *std::move(handle);
    return asked;
  }
  static std::string AnswerOf(const Asked& asked) {
    if (asked.handle == nullptr) return "";
    const auto summary = asked.observer->Wait();
    EXPECT_TRUE(summary.ok()) << summary.status();
    return asked.observer->Digest();
  }
  static std::string Ask(Engine& engine, const std::string& id, const std::string& question = "and then?",
                         std::optional<int64_t> as_of_offset = std::nullopt) {
    return AnswerOf(StartAsking(engine, id, question, as_of_offset));
  }
  // Every session's newest snapshot, bit for bit; the engine must be gone. A session of less than a block has none.
  static std::map<std::string, std::string> StoredStates(const Engine::Options& options) {
    auto storage = Storage::Open({.path = options.data_path});
    EXPECT_TRUE(storage.ok()) << storage.status();
    const auto sessions = (*storage)->LoadSessions();
    EXPECT_TRUE(sessions.ok()) << sessions.status();
    std::map<std::string, std::string> states;
    for (const SessionMetadata& one : *sessions) {
      const auto snapshots = (*storage)->ListSnapshots(one);
      if (!snapshots->empty()) states[one.id] = (*storage)->ReadSnapshot(snapshots->front())->state;
    }
    return states;
  }
  static std::string StoredState(const Engine::Options& options, const std::string& id) {
    const std::map<std::string, std::string> states = StoredStates(options);
    EXPECT_TRUE(states.contains(id)) << "no snapshot of session " << id;
    return states.contains(id) ? states.at(id) : "";
  }

  TempFolder folder_;
};

}  // namespace mnemosyne
