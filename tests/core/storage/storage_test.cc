#include "core/storage/storage.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/storage/record_codec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rocksdb/db.h"

namespace mnemosyne {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Code = absl::StatusCode;

// A folder of its own for each test, gone afterwards.
class StorageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/storage_test.XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    path_ = root_ + "/data";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::unique_ptr<Storage> OpenOrDie() {
    absl::StatusOr<std::unique_ptr<Storage>> storage = Storage::Open({.path = path_});
    EXPECT_TRUE(storage.ok()) << storage.status();
    if (!storage.ok()) std::abort();
    return *std::move(storage);
  }
  absl::Status OpenStatus() { return Storage::Open({.path = path_}).status(); }

  // Runs `change` on the folder's RocksDB, behind Storage's back.
  using Change = std::function<rocksdb::Status(rocksdb::DB*, rocksdb::ColumnFamilyHandle*)>;
  void WithDatabase(const std::string& family, const Change& change) {
    std::vector<std::string> names;
    ASSERT_TRUE(rocksdb::DB::ListColumnFamilies(rocksdb::DBOptions(), path_, &names).ok());
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    for (const std::string& name : names) descriptors.emplace_back(name, rocksdb::ColumnFamilyOptions());
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::DBOptions(), path_, descriptors, &handles, &db).ok());
    for (rocksdb::ColumnFamilyHandle* handle : handles) {
      if (handle->GetName() != family) continue;
      const rocksdb::Status status = change(db, handle);
      EXPECT_TRUE(status.ok()) << status.ToString();
    }
    for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
    delete db;
  }

  void PutRaw(const std::string& family, const std::string& key, const std::string& value) {
    WithDatabase(family, [&](auto* db, auto* handle) { return db->Put(rocksdb::WriteOptions(), handle, key, value); });
  }
  std::string GetRaw(const std::string& family, const std::string& key) {
    std::string value;
    WithDatabase(family, [&](auto* db, auto* handle) { return db->Get(rocksdb::ReadOptions(), handle, key, &value); });
    return value;
  }
  void DeleteRaw(const std::string& family, const std::string& key) {
    WithDatabase(family, [&](auto* db, auto* handle) { return db->Delete(rocksdb::WriteOptions(), handle, key); });
  }
  std::vector<std::string> RawKeys(const std::string& family) {
    std::vector<std::string> keys;
    WithDatabase(family, [&](auto* db, auto* handle) {
      std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(rocksdb::ReadOptions(), handle));
      for (it->SeekToFirst(); it->Valid(); it->Next()) keys.push_back(it->key().ToString());
      return it->status();
    });
    return keys;
  }

  std::string root_, path_;
};

SessionMetadata Metadata(uint64_t number, uint64_t epoch = 1) {
  SessionMetadata metadata;
  metadata.number = number;
  metadata.epoch = epoch;
  metadata.id = absl::StrCat("session-", number);
  metadata.model = "recall";
  metadata.fingerprint = "0123456789abcdef0123456789abcdef";
  metadata.first_sequence = 1 + 10 * (epoch - 1);
  metadata.labels = {{"team", "history"}, {"empty", ""}};
  metadata.create_time = absl::FromUnixNanos(1'700'000'000'123'456'789);
  metadata.update_time = absl::FromUnixNanos(1'700'000'001'000'000'001);
  metadata.settings = {Retention::kTrim, absl::Hours(2), absl::InfiniteDuration(), 300, 1 << 20};
  return metadata;
}

LogRecord Record(uint64_t number, uint64_t epoch, uint64_t index, std::string payload) {
  LogRecord record;
  record.session_number = number;
  record.epoch = epoch;
  record.index = index;
  record.sequence = index + 1;
  record.first_offset = static_cast<int64_t>(index) * 7;
  record.time = absl::FromUnixNanos(1'700'000'000'000'000'000 + static_cast<int64_t>(index));
  record.payload = std::move(payload);
  return record;
}

SnapshotHeader Header(uint64_t number, uint64_t epoch, int64_t offset) {
  SnapshotHeader header;
  header.session_number = number;
  header.epoch = epoch;
  header.offset = offset;
  header.fingerprint = "0123456789abcdef0123456789abcdef";
  header.replay_index = 3;
  header.replay_skip_bytes = 5;
  header.replay_skip_tokens = 2;
  header.next_sequence = 4;
  header.accepted_bytes = 99;
  return header;
}

// A session with nothing but its own branch.
SessionMetadata Own(uint64_t number, uint64_t epoch) { return {.number = number, .epoch = epoch}; }

absl::Status ReadAll(Storage& storage, const SessionMetadata& session, std::vector<LogRecord>* records,
                     uint64_t from_index = 0) {
  absl::StatusOr<std::unique_ptr<LogReader>> log = storage.ReadLog(session, from_index);
  if (!log.ok()) return log.status();
  while (true) {
    absl::StatusOr<std::optional<LogRecord>> record = (*log)->Next();
    if (!record.ok()) return record.status();
    if (!*record) return absl::OkStatus();
    records->push_back(**record);
  }
}

absl::Status ReadAll(Storage& storage, uint64_t number, uint64_t epoch, std::vector<LogRecord>* records,
                     uint64_t from_index = 0) {
  return ReadAll(storage, Own(number, epoch), records, from_index);
}

std::vector<int64_t> SnapshotOffsets(Storage& storage, const SessionMetadata& session) {
  std::vector<int64_t> offsets;
  const absl::StatusOr<std::vector<SnapshotId>> snapshots = storage.ListSnapshots(session);
  EXPECT_TRUE(snapshots.ok()) << snapshots.status();
  for (const SnapshotId& id : *snapshots) offsets.push_back(id.offset);
  return offsets;
}

absl::Status DeleteSession(Storage& storage, uint64_t number) {
  const KeptOfBranch none = {{number, 1}, {}, -1};
  return storage.Apply({.deleted = number, .kept = absl::MakeConstSpan(&none, 1)});
}

std::vector<std::string> Payloads(Storage& storage, uint64_t number, uint64_t epoch, uint64_t from_index = 0) {
  std::vector<LogRecord> records;
  const absl::Status status = ReadAll(storage, number, epoch, &records, from_index);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<std::string> payloads;
  for (const LogRecord& record : records) payloads.push_back(record.payload);
  return payloads;
}

std::string Flipped(std::string bytes, size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
  return bytes;
}

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
  ASSERT_TRUE(storage->Apply({.kept = absl::MakeConstSpan(&kept, 1)}).ok());
  ASSERT_TRUE(storage->Scrub({1}).ok());
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

// ---- Damage: every bit of every record kind is under its checksum.

TEST_F(StorageTest, AnyAlteredByteOfAnyRecordIsRefused) {
  const SessionMetadata metadata = Metadata(1);
  const LogRecord record = Record(1, 1, 0, "text");
  SnapshotHeader header = Header(1, 1, 64);
  header.state_bytes = 5;
  const std::string session_value = EncodeSession(metadata), log_value = EncodeLogRecord(record);
  const std::string header_value = EncodeSnapshotHeader(header), state_value = EncodeSnapshotState(header, "state");
  const std::string header_key = SnapshotKey(1, 1, SnapshotPart::kHeader, 64);
  const std::string state_key = SnapshotKey(1, 1, SnapshotPart::kState, 64);
  ASSERT_TRUE(DecodeSession(SessionKey(1), session_value).ok());
  ASSERT_TRUE(DecodeLogRecord(LogKey(1, 1, 0), log_value).ok());
  ASSERT_TRUE(DecodeSnapshotHeader(header_key, header_value).ok());
  ASSERT_TRUE(DecodeSnapshotState(header, state_key, state_value).ok());

  const auto check = [](const std::string& value, const std::function<absl::Status(const std::string&)>& decode) {
    for (size_t at = 0; at < value.size(); ++at) {
      EXPECT_EQ(decode(Flipped(value, at)).code(), Code::kDataLoss) << "byte " << at;
      EXPECT_EQ(decode(value.substr(0, at)).code(), Code::kDataLoss) << "cut at " << at;
    }
    EXPECT_EQ(decode(value + '\0').code(), Code::kDataLoss);
  };
  check(session_value, [](const auto& value) { return DecodeSession(SessionKey(1), value).status(); });
  check(log_value, [](const auto& value) { return DecodeLogRecord(LogKey(1, 1, 0), value).status(); });
  check(header_value, [&](const auto& value) { return DecodeSnapshotHeader(header_key, value).status(); });
  check(state_value, [&](const auto& value) { return DecodeSnapshotState(header, state_key, value).status(); });
  check(EncodeFolderFormat(1), [](const auto& value) { return CheckFolderFormat(value); });

  // A whole record at another key.
  EXPECT_EQ(DecodeSession(SessionKey(2), session_value).status().code(), Code::kDataLoss);
  EXPECT_EQ(DecodeLogRecord(LogKey(1, 1, 1), log_value).status().code(), Code::kDataLoss);
  EXPECT_EQ(DecodeLogRecord(LogKey(1, 2, 0), log_value).status().code(), Code::kDataLoss);
  EXPECT_EQ(DecodeLogRecord(LogKey(2, 1, 0), log_value).status().code(), Code::kDataLoss);
  EXPECT_EQ(DecodeSnapshotHeader(SnapshotKey(1, 1, SnapshotPart::kHeader, 65), header_value).status().code(),
            Code::kDataLoss);
  EXPECT_EQ(DecodeSnapshotState(header, header_key, state_value).status().code(), Code::kDataLoss);
}

TEST_F(StorageTest, ADamagedSessionIsDataLossAndNamed) {
  ASSERT_TRUE(OpenOrDie()->PutSession(Metadata(7)).ok());
  PutRaw("sessions", SessionKey(7), Flipped(GetRaw("sessions", SessionKey(7)), 20));
  const absl::Status status = OpenOrDie()->LoadSessions().status();
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("metadata of session number 7: the checksum does not match"));
}

TEST_F(StorageTest, ADamagedLogRecordIsDataLossAndNamedAfterThoseBeforeIt) {
  ASSERT_TRUE(OpenOrDie()->AppendLog({Record(7, 2, 0, "a"), Record(7, 2, 1, "b"), Record(7, 2, 2, "c")}).ok());
  PutRaw("log", LogKey(7, 2, 1), Flipped(GetRaw("log", LogKey(7, 2, 1)), 30));
  auto storage = OpenOrDie();
  std::vector<LogRecord> records;
  const absl::Status status = ReadAll(*storage, 7, 2, &records);
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("log record 1 of session number 7, epoch 2: the checksum"));
  EXPECT_EQ(records.size(), 1);
  EXPECT_TRUE(storage->LastLogRecord(Own(7, 2)).ok());
}

TEST_F(StorageTest, AMissingLogRecordIsDataLossAndNamed) {
  ASSERT_TRUE(OpenOrDie()->AppendLog({Record(7, 2, 0, "a"), Record(7, 2, 1, "b"), Record(7, 2, 2, "c")}).ok());
  DeleteRaw("log", LogKey(7, 2, 1));
  auto storage = OpenOrDie();
  std::vector<LogRecord> records;
  absl::Status status = ReadAll(*storage, 7, 2, &records);
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("log record 1 of session number 7, epoch 2 is missing; the next is 2"));
  EXPECT_EQ(records.size(), 1);
  status = ReadAll(*storage, 7, 2, &records, 1);  // also as the first one wanted
  EXPECT_EQ(status.code(), Code::kDataLoss);
}

TEST_F(StorageTest, ALogRecordMovedToAnotherKeyIsDataLoss) {
  ASSERT_TRUE(OpenOrDie()->AppendLog({Record(7, 2, 0, "a")}).ok());
  PutRaw("log", LogKey(8, 2, 0), GetRaw("log", LogKey(7, 2, 0)));
  std::vector<LogRecord> records;
  EXPECT_EQ(ReadAll(*OpenOrDie(), 8, 2, &records).code(), Code::kDataLoss);
}

TEST_F(StorageTest, ADamagedSnapshotIsDataLossAndNamedAndTheOneBeforeItIsGood) {
  const std::string state(100'000, 's');
  {
    auto storage = OpenOrDie();
    ASSERT_TRUE(storage->PutSnapshot(Header(7, 2, 64), state).ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(7, 2, 128), state).ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(7, 2, 192), state).ok());
    ASSERT_TRUE(storage->PutSnapshot(Header(7, 2, 256), state).ok());
  }
  const std::string state_key = SnapshotKey(7, 2, SnapshotPart::kState, 256);
  PutRaw("snapshots", state_key, Flipped(GetRaw("snapshots", state_key), 50'000));
  const std::string header_key = SnapshotKey(7, 2, SnapshotPart::kHeader, 192);
  PutRaw("snapshots", header_key, Flipped(GetRaw("snapshots", header_key), 15));
  DeleteRaw("snapshots", SnapshotKey(7, 2, SnapshotPart::kState, 128));
  auto storage = OpenOrDie();
  EXPECT_THAT(SnapshotOffsets(*storage, Own(7, 2)), ElementsAre(256, 192, 128, 64));
  for (int64_t offset : {256, 192, 128}) {
    const absl::Status status = storage->ReadSnapshot({{7, 2}, offset}).status();
    EXPECT_EQ(status.code(), Code::kDataLoss);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("snapshot at offset ", offset, " of session number 7, epoch 2: ")));
  }
  EXPECT_EQ(storage->ReadSnapshot({{7, 2}, 64})->state, state);
}

// The write-ahead log's file, which holds all of a folder that was never flushed.
std::string WriteAheadLog(const std::string& path) {
  std::string name;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().extension() == ".log" && entry.file_size() > 5000) name = entry.path();
  }
  EXPECT_FALSE(name.empty());
  return name;
}

TEST_F(StorageTest, AFlippedByteInTheWriteAheadLogRefusesTheFolder) {
  {
    auto storage = OpenOrDie();
    for (uint64_t index = 0; index < 10; ++index) {
      ASSERT_TRUE(storage->AppendLog({Record(1, 1, index, std::string(1000, 'p'))}).ok());
    }
  }
  const std::string wal = WriteAheadLog(path_);
  const int64_t last_record = static_cast<int64_t>(std::filesystem::file_size(wal)) - 500;
  for (int64_t at : {int64_t{5000}, last_record}) {
    const auto put = [&](char byte) {
      std::fstream file(wal, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(at);
      file.put(byte);
    };
    put('q');
    EXPECT_EQ(OpenStatus().code(), Code::kDataLoss) << "byte " << at;
    put('p');
  }
  EXPECT_EQ(Payloads(*OpenOrDie(), 1, 1).size(), 10);
}

TEST_F(StorageTest, AWriteCutShortAtTheEndOfTheWriteAheadLogIsDroppedWhole) {
  {
    auto storage = OpenOrDie();
    for (uint64_t index = 0; index < 10; ++index) {
      ASSERT_TRUE(storage->AppendLog({Record(1, 1, index, std::string(1000, 'p'))}).ok());
    }
  }
  const std::string wal = WriteAheadLog(path_);
  std::filesystem::resize_file(wal, std::filesystem::file_size(wal) - 300);
  EXPECT_EQ(Payloads(*OpenOrDie(), 1, 1).size(), 9);
}

TEST_F(StorageTest, AKilledWriterLosesNothingThatWasAcknowledged) {
  constexpr char kWriterPath[] = "MNEMOSYNE_TEST_WRITER_PATH";
  if (const char* path =
          std::getenv(kWriterPath)) {  // in the writer's process: a byte out for each acknowledged record
    auto storage = Storage::Open({.path = path});
    for (uint64_t index = 0; storage.ok(); ++index) {
      if (!(*storage)->AppendLog({Record(1, 1, index, std::string(3000, 'k'))}).ok()) break;
      if (write(STDERR_FILENO, "k", 1) != 1) break;
    }
    _exit(1);
  }
  for (const int64_t acknowledged_before_kill : {1, 17, 100}) {
    int acknowledged[2];
    ASSERT_EQ(pipe(acknowledged), 0);
    const std::string path = absl::StrCat(root_, "/killed-", acknowledged_before_kill);
    const pid_t child = fork();
    if (child == 0) {
      setenv(kWriterPath, path.c_str(), 1);
      dup2(acknowledged[1], STDERR_FILENO);
      dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
      execl("/proc/self/exe", "storage_test", "--gtest_filter=StorageTest.AKilledWriterLosesNothingThatWasAcknowledged",
            nullptr);
      _exit(1);
    }
    close(acknowledged[1]);
    int64_t count = 0;
    char byte;
    while (count < acknowledged_before_kill && read(acknowledged[0], &byte, 1) == 1) ++count;
    ASSERT_EQ(count, acknowledged_before_kill);
    kill(child, SIGKILL);
    while (read(acknowledged[0], &byte, 1) == 1) ++count;  // written before the kill came through
    close(acknowledged[0]);
    waitpid(child, nullptr, 0);
    path_ = path;
    const auto kept = static_cast<int64_t>(Payloads(*OpenOrDie(), 1, 1).size());
    EXPECT_GE(kept, count);
    EXPECT_LE(kept, count + 1);  // at most the one that was being written
  }
}

// ---- Folders that are refused.

TEST_F(StorageTest, AFolderLockedByAnotherProcessIsFailedPrecondition) {
  OpenOrDie();
  int locked[2], done[2];
  ASSERT_EQ(pipe(locked), 0);
  ASSERT_EQ(pipe(done), 0);
  const pid_t child = fork();
  if (child == 0) {  // holds the lock until the parent closes its end; no RocksDB in here
    close(done[1]);
    const int descriptor = open((path_ + "/LOCK").c_str(), O_RDWR);
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    char byte = fcntl(descriptor, F_SETLK, &lock) == 0 ? 1 : 0;
    if (write(locked[1], &byte, 1) == 1) (void)!read(done[0], &byte, 1);
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(locked[0], &byte, 1), 1);
  ASSERT_EQ(byte, 1);
  const absl::Status status = OpenStatus();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is locked by another process"));
  close(done[1]);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(OpenStatus().ok());
}

TEST_F(StorageTest, AFolderOpenTwiceInOneProcessIsFailedPrecondition) {
  auto storage = OpenOrDie();
  EXPECT_EQ(OpenStatus().code(), Code::kFailedPrecondition);
}

TEST_F(StorageTest, AFolderThatCannotBeWrittenIsPermissionDenied) {
  std::filesystem::create_directory(path_);
  ASSERT_EQ(chmod(root_.c_str(), 0755), 0);
  ASSERT_EQ(chmod(path_.c_str(), 0555), 0);
  const bool is_root = geteuid() == 0;
  ASSERT_EQ(seteuid(is_root ? 65534 : geteuid()), 0);  // root may write anywhere
  const absl::Status status = OpenStatus();
  ASSERT_EQ(seteuid(is_root ? 0 : geteuid()), 0);
  EXPECT_EQ(status.code(), Code::kPermissionDenied) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
}

TEST_F(StorageTest, AFileInThePlaceOfTheFolderIsFailedPrecondition) {
  std::ofstream(path_) << "a file";
  EXPECT_EQ(OpenStatus().code(), Code::kFailedPrecondition);
}

TEST_F(StorageTest, AFolderOfOtherFilesIsFailedPreconditionAndLeftAlone) {
  std::filesystem::create_directory(path_);
  std::ofstream(path_ + "/letter.txt") << "Dear Mnemosyne";
  const absl::Status status = OpenStatus();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("letter.txt"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(path_), {}), 1);
}

TEST_F(StorageTest, AnotherProgramsDatabaseIsFailedPrecondition) {
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* db = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open(options, path_, &db).ok());
  ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), "key", "value").ok());
  delete db;
  EXPECT_EQ(OpenStatus().code(), Code::kFailedPrecondition);
}

TEST_F(StorageTest, ANewFolderWhoseCreationWasCutShortIsTakenAsNew) {
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* db = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open(options, path_, &db).ok());
  delete db;
  EXPECT_TRUE(OpenStatus().ok());
}

TEST_F(StorageTest, AFolderOfANewerFormatIsFailedPrecondition) {
  OpenOrDie();
  PutRaw("default", std::string(kFormatKey), EncodeFolderFormat(7));
  const absl::Status status = OpenStatus();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("format 7; this program reads up to 1"));
}

TEST_F(StorageTest, ADamagedMarkerAndAMissingFileAreDataLoss) {
  ASSERT_TRUE(OpenOrDie()->PutSession(Metadata(1)).ok());
  const std::string marker = GetRaw("default", std::string(kFormatKey));
  PutRaw("default", std::string(kFormatKey), Flipped(marker, 12));
  EXPECT_EQ(OpenStatus().code(), Code::kDataLoss);
  PutRaw("default", std::string(kFormatKey), marker);
  ASSERT_TRUE(OpenStatus().ok());
  std::filesystem::remove(path_ + "/CURRENT");
  EXPECT_EQ(OpenStatus().code(), Code::kDataLoss);
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

  {  // what reads it keeps it from being opened again
    const auto log = storage->ReadLog(Own(1, 1), 0);
    EXPECT_EQ(storage->Reopen().code(), Code::kUnavailable);
  }
  ASSERT_TRUE(storage->Reopen().ok());
  EXPECT_THAT(Payloads(*storage, 1, 1), ElementsAre("kept"));
  EXPECT_TRUE(storage->AppendLog({Record(1, 1, 1, "again")}).ok());
  storage.reset();
  storage = OpenOrDie();
  EXPECT_THAT(Payloads(*storage, 1, 1), ElementsAre("kept", "again"));
}

}  // namespace
}  // namespace mnemosyne
