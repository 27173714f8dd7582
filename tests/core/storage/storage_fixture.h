// A data folder for each test, and ways to look at it and to damage it behind Storage's back.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/storage/record_codec.h"
#include "core/storage/storage.h"
#include "gtest/gtest.h"
#include "rocksdb/db.h"

namespace mnemosyne {

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

inline SessionMetadata Metadata(uint64_t number, uint64_t epoch = 1) {
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

inline LogRecord Record(uint64_t number, uint64_t epoch, uint64_t index, std::string payload) {
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

inline SnapshotHeader Header(uint64_t number, uint64_t epoch, int64_t offset) {
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
inline SessionMetadata Own(uint64_t number, uint64_t epoch) { return {.number = number, .epoch = epoch}; }

inline absl::Status ReadAll(Storage& storage, const SessionMetadata& session, std::vector<LogRecord>* records,
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

inline absl::Status ReadAll(Storage& storage, uint64_t number, uint64_t epoch, std::vector<LogRecord>* records,
                            uint64_t from_index = 0) {
  return ReadAll(storage, Own(number, epoch), records, from_index);
}

inline std::vector<int64_t> SnapshotOffsets(Storage& storage, const SessionMetadata& session) {
  std::vector<int64_t> offsets;
  const absl::StatusOr<std::vector<SnapshotId>> snapshots = storage.ListSnapshots(session);
  EXPECT_TRUE(snapshots.ok()) << snapshots.status();
  for (const SnapshotId& id : *snapshots) offsets.push_back(id.offset);
  return offsets;
}

inline absl::Status DeleteSession(Storage& storage, uint64_t number) {
  const KeptOfBranch none = {{number, 1}, {}, -1};
  return storage.Apply({.deleted = number, .kept = absl::MakeConstSpan(&none, 1)});
}

inline std::vector<std::string> Payloads(Storage& storage, uint64_t number, uint64_t epoch, uint64_t from_index = 0) {
  std::vector<LogRecord> records;
  const absl::Status status = ReadAll(storage, number, epoch, &records, from_index);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<std::string> payloads;
  for (const LogRecord& record : records) payloads.push_back(record.payload);
  return payloads;
}

inline std::string Flipped(std::string bytes, size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
  return bytes;
}

}  // namespace mnemosyne
