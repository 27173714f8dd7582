#include "core/storage/storage.h"

#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/storage/storage_fixture.h"

namespace mnemosyne {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Code = absl::StatusCode;

TEST_F(StorageTest, SessionsComeBackWithEveryFieldAfterReopening) {
  {
    auto storage = OpenOrDie();
    EXPECT_EQ(storage->NextSessionNumber(), 1);
    EXPECT_EQ(storage->NextSessionNumber(), 2);
    ASSERT_TRUE(storage->PutSession(Metadata(2, 3)).ok());
    ASSERT_TRUE(storage->PutSession(Metadata(1)).ok());
  }
  auto storage = OpenOrDie();
  const auto sessions = storage->LoadSessions();
  ASSERT_TRUE(sessions.ok()) << sessions.status();
  ASSERT_EQ(sessions->size(), 2);
  EXPECT_EQ((*sessions)[0].number, 1);
  const SessionMetadata &got = (*sessions)[1], want = Metadata(2, 3);
  EXPECT_EQ(got.number, 2);
  EXPECT_EQ(got.epoch, 3);
  EXPECT_EQ(got.id, want.id);
  EXPECT_EQ(got.model, want.model);
  EXPECT_EQ(got.fingerprint, want.fingerprint);
  EXPECT_EQ(got.first_sequence, 21);
  EXPECT_EQ(got.labels, want.labels);
  EXPECT_EQ(got.create_time, want.create_time);
  EXPECT_EQ(got.update_time, want.update_time);
  EXPECT_EQ(got.settings.retention, Retention::kTrim);
  EXPECT_EQ(got.settings.ttl, absl::Hours(2));
  EXPECT_EQ(got.settings.idle_ttl, absl::InfiniteDuration());
  EXPECT_EQ(got.settings.max_backlog_tokens, 300);
  EXPECT_EQ(got.settings.max_log_bytes, 1 << 20);
  EXPECT_EQ(storage->NextSessionNumber(), 3);
}

TEST_F(StorageTest, TheNumberOfADeletedSessionIsNotGivenAgain) {
  {
    auto storage = OpenOrDie();
    ASSERT_TRUE(storage->PutSession(Metadata(storage->NextSessionNumber())).ok());
    const uint64_t last = storage->NextSessionNumber();
    ASSERT_TRUE(storage->PutSession(Metadata(last)).ok());
    ASSERT_TRUE(DeleteSession(*storage, last).ok());
  }
  EXPECT_EQ(OpenOrDie()->NextSessionNumber(), 3);
  PutRaw("default", std::string(kNextSessionKey), Flipped(GetRaw("default", std::string(kNextSessionKey)), 11));
  const auto damaged = Storage::Open({.path = path_});
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kDataLoss) << damaged.status();
}

TEST_F(StorageTest, LogRecordsOfManySessionsComeBackInOrderAfterReopening) {
  const std::string binary("\0\xff\xf0 cut", 7);
  {
    auto storage = OpenOrDie();
    std::vector<LogRecord> batch;
    for (uint64_t index = 0; index < 300; ++index) {  // past 255: the order of keys is that of numbers
      batch.push_back(Record(1, 1, index, absl::StrCat("a", index)));
      batch.push_back(Record(256, 1, index, absl::StrCat("b", index)));
    }
    batch.push_back(Record(1, 2, 0, binary));
    batch.back().kind = LogContent::kText;
    batch.push_back(Record(2, 1, 0, std::string("\1\0\0\0\2\0\0\0", 8)));
    batch.back().kind = LogContent::kTokenIds;
    ASSERT_TRUE(storage->AppendLog(batch).ok());
  }
  auto storage = OpenOrDie();
  std::vector<LogRecord> records;
  ASSERT_TRUE(ReadAll(*storage, 1, 1, &records).ok());
  ASSERT_EQ(records.size(), 300);
  for (uint64_t index = 0; index < 300; ++index) {
    const LogRecord want = Record(1, 1, index, absl::StrCat("a", index));
    EXPECT_EQ(records[index].session_number, 1);
    EXPECT_EQ(records[index].epoch, 1);
    EXPECT_EQ(records[index].index, index);
    EXPECT_EQ(records[index].sequence, want.sequence);
    EXPECT_EQ(records[index].first_offset, want.first_offset);
    EXPECT_EQ(records[index].time, want.time);
    EXPECT_EQ(records[index].kind, LogContent::kText);
    EXPECT_EQ(records[index].payload, want.payload);
  }
  EXPECT_EQ(Payloads(*storage, 256, 1).size(), 300);
  EXPECT_THAT(Payloads(*storage, 1, 2), ElementsAre(binary));
  EXPECT_THAT(Payloads(*storage, 1, 1, 298), ElementsAre("a298", "a299"));
  EXPECT_THAT(Payloads(*storage, 1, 1, 300), IsEmpty());
  EXPECT_THAT(Payloads(*storage, 3, 1), IsEmpty());

  const auto last = storage->LastLogRecord(Own(1, 1));
  ASSERT_TRUE(last.ok() && last->has_value());
  EXPECT_EQ((*last)->index, 299);
  EXPECT_EQ((*storage->LastLogRecord(Own(2, 1)))->kind, LogContent::kTokenIds);
  EXPECT_EQ(*storage->LastLogRecord(Own(1, 3)), std::nullopt);
  EXPECT_GT(storage->LogBytes(Own(256, 1)), 0);
}

TEST_F(StorageTest, AReaderSeesTheLogAsItWasWhenItWasMade) {
  auto storage = OpenOrDie();
  ASSERT_TRUE(storage->AppendLog({Record(1, 1, 0, "a"), Record(1, 1, 1, "b")}).ok());
  auto log = storage->ReadLog(Own(1, 1), 0);
  ASSERT_TRUE(storage->AppendLog({Record(1, 1, 2, "c")}).ok());
  ASSERT_TRUE(DeleteSession(*storage, 1).ok());
  EXPECT_EQ((*(*log)->Next())->payload, "a");
  EXPECT_EQ((*(*log)->Next())->payload, "b");
  EXPECT_FALSE((*log)->Next()->has_value());
  EXPECT_THAT(Payloads(*storage, 1, 1), IsEmpty());
}

// A log of parts of two other branches, then its own.
TEST_F(StorageTest, ALogOfExtentsIsReadInOrderWithItsOwnIndexes) {
  auto storage = OpenOrDie();
  for (uint64_t index = 0; index < 5; ++index) {
    ASSERT_TRUE(storage->AppendLog({Record(1, 1, index, absl::StrCat("a", index))}).ok());
    ASSERT_TRUE(storage->AppendLog({Record(2, 3, index, absl::StrCat("b", index))}).ok());
  }
  SessionMetadata session = Metadata(9);
  session.extents = {{{1, 1}, 0, 2, 0}, {{2, 3}, 3, 2, 14}};
  session.own_first = 4;
  ASSERT_TRUE(storage->AppendLog({Record(9, 1, 4, "c4"), Record(9, 1, 5, "c5")}).ok());
  ASSERT_TRUE(storage->PutSession(session).ok());
  storage.reset();
  storage = OpenOrDie();
  session = (*storage->LoadSessions())[0];
  ASSERT_EQ(session.extents.size(), 2);
  EXPECT_EQ(session.extents[1].branch, (BranchId{2, 3}));
  std::vector<LogRecord> records;
  ASSERT_TRUE(ReadAll(*storage, session, &records).ok());
  std::vector<std::string> payloads;
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].index, i);
    EXPECT_EQ(storage->ReadLogRecord(session, i)->payload, records[i].payload);
    payloads.push_back(records[i].payload);
  }
  EXPECT_THAT(payloads, ElementsAre("a0", "a1", "b3", "b4", "c4", "c5"));
  EXPECT_EQ(records[2].first_offset, 3 * 7 - 14);
  EXPECT_EQ((*storage->LastLogRecord(session))->payload, "c5");
  EXPECT_EQ(storage->ReadLogRecord(session, 6).status().code(), Code::kDataLoss);
  for (uint64_t from = 0; from < 7; ++from) {
    records.clear();
    ASSERT_TRUE(ReadAll(*storage, session, &records, from).ok());
    EXPECT_EQ(records.size(), 6 - std::min<uint64_t>(6, from));
  }
  session.extents[1].count = 3;  // one more than the branch has
  session.own_first = 5;
  EXPECT_EQ(ReadAll(*storage, session, &records).code(), Code::kDataLoss);
}

TEST_F(StorageTest, WhatIsKeptOfABranchStaysAndTheRestGoes) {
  auto storage = OpenOrDie();
  for (uint64_t index = 0; index < 10; ++index) {
    ASSERT_TRUE(storage->AppendLog({Record(1, 1, index, absl::StrCat(index)), Record(2, 1, index, "b")}).ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(1, 1, static_cast<int64_t>(64 * index + 64)), "state").ok());
  }
  const KeptOfBranch kept = {{1, 1}, {{2, 4}, {7, 8}}, 192};
  ASSERT_TRUE(storage->Apply({.put = Metadata(3), .kept = absl::MakeConstSpan(&kept, 1)}).ok());
  SessionMetadata session = Metadata(3);
  session.extents = {{{1, 1}, 2, 2, 0}, {{1, 1}, 7, 1, 0}};
  session.own_first = 3;
  session.snapshot_sources = {{{1, 1}, 128}};
  std::vector<LogRecord> records;
  ASSERT_TRUE(ReadAll(*storage, session, &records).ok());
  EXPECT_EQ(records.size(), 3);
  EXPECT_EQ(records[2].payload, "7");
  EXPECT_THAT(SnapshotOffsets(*storage, session), ElementsAre(128, 64));
  EXPECT_THAT(SnapshotOffsets(*storage, Own(1, 1)), ElementsAre(192, 128, 64));
  EXPECT_EQ(Payloads(*storage, 2, 1).size(), 10);
  storage.reset();
  EXPECT_EQ(RawKeys("log").size(), 3 + 10);
}

TEST_F(StorageTest, AnImportThatWasNotFinishedIsGoneWhenTheFolderIsOpened) {
  {
    auto storage = OpenOrDie();
    for (int i = 0; i < 2; ++i) {
      const uint64_t number = storage->NextSessionNumber();
      ASSERT_TRUE(storage->BeginImport(number).ok());
      ASSERT_TRUE(storage->AppendLog({Record(number, 1, 0, "imported")}).ok());
      ASSERT_TRUE(storage->PutSnapshot(Header(number, 1, 64), "state").ok());
    }
    ASSERT_TRUE(storage->Apply({.put = Metadata(1), .finished_import = 1}).ok());
  }
  {
    auto storage = OpenOrDie();
    EXPECT_EQ(storage->NextSessionNumber(), 3);
    EXPECT_THAT(Payloads(*storage, 1, 1), ElementsAre("imported"));
    EXPECT_THAT(Payloads(*storage, 2, 1), IsEmpty());
    ASSERT_TRUE(storage->BeginImport(3).ok());
    ASSERT_TRUE(storage->AppendLog({Record(3, 1, 0, "imported")}).ok());
    ASSERT_TRUE(storage->AbandonImport(3).ok());
  }
  EXPECT_EQ(RawKeys("log").size(), 1);
  EXPECT_EQ(RawKeys("snapshots").size(), 2);
  EXPECT_THAT(RawKeys("default"), ElementsAre("format", "next_session"));
}

TEST_F(StorageTest, ScrubbedFilesHoldNothingThatWasDeleted) {
  const std::string secret = "the secret that is to be forgotten", state = std::string(10000, 's') + secret;
  auto storage = OpenOrDie();
  ASSERT_TRUE(storage->PutSession(Metadata(1)).ok());
  ASSERT_TRUE(
      storage->AppendLog({Record(1, 1, 0, "kept text"), Record(1, 1, 1, secret), Record(2, 1, 0, "other")}).ok());
  ASSERT_TRUE(storage->PutSnapshot(Header(1, 1, 64), state).ok());
  ASSERT_TRUE(storage->PutSnapshot(Header(2, 1, 64), std::string(10000, 'o')).ok());
  std::vector<LogRecord> steadily;
  for (int i = 0; i < 20000; ++i) steadily.push_back(Record(3, 1, i, "steady"));
  ASSERT_TRUE(storage->AppendLog(steadily).ok());
  const auto files_with = [&](const std::string& text) {
    int files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(file)), {});
      files += bytes.find(text) != std::string::npos;
    }
    return files;
  };
  ASSERT_TRUE(storage->Flush().ok());
  EXPECT_GE(files_with(secret), 2);  // in a table file and in a blob file
  const KeptOfBranch kept = {{1, 1}, {{0, 1}}, -1};
  const uint64_t scrubbed = 1;
  EXPECT_FALSE(*storage->HasToScrub());
  // Someone reads meanwhile, and goes on afterwards; of what it looked at nothing stays in the files.
  const auto reader = *storage->ReadLog(Metadata(1), 0);
  EXPECT_EQ((**reader->Next()).payload, "kept text");
  ASSERT_TRUE(
      storage->Apply({.kept = absl::MakeConstSpan(&kept, 1), .scrubbed = absl::MakeConstSpan(&scrubbed, 1)}).ok());
  EXPECT_TRUE(*storage->HasToScrub());
  std::atomic<bool> is_reading = true;
  const auto steady = *storage->ReadLog(Metadata(3), 0);
  std::thread reads([&] {
    while (is_reading) {
      const auto record = steady->Next();
      EXPECT_TRUE(record.ok() && record->has_value()) << record.status();
      if (!record.ok() || !*record) return;
      absl::SleepFor(absl::Microseconds(100));
    }
  });
  ASSERT_TRUE(storage->Scrub().ok());
  is_reading = false;
  reads.join();
  EXPECT_FALSE(*storage->HasToScrub());
  EXPECT_FALSE((*reader->Next()).has_value());
  EXPECT_EQ(files_with(secret), 0);
  EXPECT_GE(files_with("kept text"), 1);
  EXPECT_THAT(Payloads(*storage, 2, 1), ElementsAre("other"));
  EXPECT_EQ(storage->ReadSnapshot({{2, 1}, 64})->state, std::string(10000, 'o'));
}

TEST_F(StorageTest, ABackupIsTheFolderAsItWas) {
  const std::string backups = root_ + "/backups", restored = root_ + "/restored";
  EXPECT_EQ(Storage::ListBackups(backups).status().code(), Code::kNotFound);
  {
    auto storage = OpenOrDie();
    ASSERT_TRUE(storage->AppendLog({Record(1, 1, 0, "first")}).ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(1, 1, 64), std::string(10000, 's')).ok());
    ASSERT_TRUE(storage->CreateBackup(backups).ok());
    ASSERT_TRUE(storage->AppendLog({Record(1, 1, 1, "second")}).ok());
    ASSERT_TRUE(storage->CreateBackup(backups).ok());
    ASSERT_TRUE(storage->AppendLog({Record(1, 1, 2, "third")}).ok());
  }
  ASSERT_EQ(Storage::ListBackups(backups)->size(), 2);
  EXPECT_EQ(Storage::RestoreBackup(backups, 0, path_).code(), Code::kFailedPrecondition);
  EXPECT_EQ(Storage::RestoreBackup(backups, 7, restored).code(), Code::kNotFound);
  ASSERT_TRUE(Storage::RestoreBackup(backups, 0, restored).ok());
  path_ = restored;
  EXPECT_THAT(Payloads(*OpenOrDie(), 1, 1), ElementsAre("first", "second"));
  EXPECT_EQ(OpenOrDie()->ReadSnapshot({{1, 1}, 64})->state, std::string(10000, 's'));
  path_ = root_ + "/older";
  ASSERT_TRUE(Storage::RestoreBackup(backups, 1, path_).ok());
  EXPECT_THAT(Payloads(*OpenOrDie(), 1, 1), ElementsAre("first"));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(backups)) {
    if (entry.path().extension() != ".sst" && entry.path().extension() != ".blob") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(20);
    file.put('#');
  }
  EXPECT_EQ(Storage::RestoreBackup(backups, 0, root_ + "/damaged").code(), Code::kDataLoss);
}

TEST_F(StorageTest, SnapshotsComeBackNewestFirstWithEveryFieldAfterReopening) {
  const std::string large(3 << 20, '\x5a');
  {
    auto storage = OpenOrDie();
    ASSERT_TRUE(storage->PutSnapshot(Header(1, 1, 64), "small").ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(1, 1, 640), large).ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(1, 1, 128), "").ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(1, 2, 192), "of another epoch").ok());
  }
  auto storage = OpenOrDie();
  EXPECT_THAT(SnapshotOffsets(*storage, Own(1, 1)), ElementsAre(640, 128, 64));
  EXPECT_THAT(SnapshotOffsets(*storage, Own(2, 1)), IsEmpty());
  const auto snapshot = storage->ReadSnapshot({{1, 1}, 640});
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(snapshot->state, large);
  const SnapshotHeader want = Header(1, 1, 640);
  EXPECT_EQ(snapshot->header.session_number, 1);
  EXPECT_EQ(snapshot->header.epoch, 1);
  EXPECT_EQ(snapshot->header.offset, 640);
  EXPECT_EQ(snapshot->header.fingerprint, want.fingerprint);
  EXPECT_EQ(snapshot->header.replay_index, want.replay_index);
  EXPECT_EQ(snapshot->header.replay_skip_bytes, want.replay_skip_bytes);
  EXPECT_EQ(snapshot->header.replay_skip_tokens, want.replay_skip_tokens);
  EXPECT_EQ(snapshot->header.next_sequence, want.next_sequence);
  EXPECT_EQ(snapshot->header.accepted_bytes, want.accepted_bytes);
  EXPECT_EQ(snapshot->header.state_bytes, 3 << 20);
  EXPECT_EQ(storage->ReadSnapshot({{1, 1}, 128})->state, "");

  ASSERT_TRUE(storage->DeleteSnapshots({{{1, 1}, 640}}).ok());
  EXPECT_THAT(SnapshotOffsets(*storage, Own(1, 1)), ElementsAre(128, 64));
  EXPECT_EQ(storage->ReadSnapshot({{1, 1}, 640}).status().code(), Code::kNotFound);
}

TEST_F(StorageTest, DeleteSessionLeavesNothingOfItAndAllOfItsNeighbours) {
  {
    auto storage = OpenOrDie();
    for (uint64_t number : {1, 2, 3}) {
      ASSERT_TRUE(storage->PutSession(Metadata(number)).ok());
      ASSERT_TRUE(storage->AppendLog({Record(number, 1, 0, "a"), Record(number, 1, 1, "b")}).ok());
      ASSERT_TRUE(storage->PutSnapshot(Header(number, 1, 64), "state").ok());
    }
    ASSERT_TRUE(DeleteSession(*storage, 2).ok());
    EXPECT_THAT(Payloads(*storage, 2, 1), IsEmpty());
    EXPECT_THAT(Payloads(*storage, 3, 1), ElementsAre("a", "b"));
  }
  for (const std::string family : {"sessions", "log", "snapshots"}) {
    const std::vector<std::string> keys = RawKeys(family);
    EXPECT_EQ(keys.size(), family == "sessions" ? 2 : 4) << family;
    for (const std::string& key : keys) EXPECT_NE(key.substr(0, 8), SessionKey(2)) << family;
  }
}

TEST_F(StorageTest, WritersOfManyThreadsLoseNothing) {
  auto storage = OpenOrDie();
  std::vector<std::thread> threads;
  for (uint64_t number : {1, 2, 3, 4}) {
    threads.emplace_back([&storage, number] {
      for (uint64_t index = 0; index < 50; ++index) {
        EXPECT_TRUE(storage->AppendLog({Record(number, 1, index, absl::StrCat(index))}).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t number : {1, 2, 3, 4}) EXPECT_EQ(Payloads(*storage, number, 1).size(), 50);
}

// ---- A disk that fails.

TEST_F(StorageTest, AfterAFailedWriteEveryWriteIsRefusedAndReadsGoOnUntilReopened) {
  auto storage = OpenOrDie();
  ASSERT_TRUE(storage->AppendLog({Record(1, 1, 0, "kept")}).ok());
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 64 << 10;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status failed = storage->AppendLog({Record(1, 1, 1, std::string(1 << 20, 'x'))});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(failed.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("File too large"));

  EXPECT_EQ(storage->AppendLog({Record(1, 1, 1, "refused")}), failed);
  EXPECT_EQ(storage->PutSession(Metadata(1)), failed);
  EXPECT_EQ(storage->PutSnapshot(Header(1, 1, 64), "state"), failed);
  EXPECT_EQ(storage->DeleteSnapshots({{{1, 1}, 64}}), failed);
  EXPECT_EQ(DeleteSession(*storage, 1), failed);
  EXPECT_THAT(Payloads(*storage, 1, 1), ElementsAre("kept"));

  // What reads it does not keep it from being opened again, and goes on.
  auto log = *storage->ReadLog(Own(1, 1), 0);
  EXPECT_EQ((**log->Next()).payload, "kept");
  ASSERT_TRUE(storage->Reopen().ok());
  EXPECT_THAT(Payloads(*storage, 1, 1), ElementsAre("kept"));
  EXPECT_TRUE(storage->AppendLog({Record(1, 1, 1, "again")}).ok());
  EXPECT_EQ((**log->Next()).payload, "again");
  log.reset();
  storage.reset();
  storage = OpenOrDie();
  EXPECT_THAT(Payloads(*storage, 1, 1), ElementsAre("kept", "again"));
}

}  // namespace
}  // namespace mnemosyne
