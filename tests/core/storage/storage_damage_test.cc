// What Storage says of damage: altered bytes, missing records, a writer that was killed.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/storage/storage_fixture.h"

namespace mnemosyne {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Code = absl::StatusCode;

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

TEST_F(StorageTest, AWriteAheadLogThatOnlySeemsToEndEarlyRefusesTheFolder) {
  {
    auto storage = OpenOrDie();
    for (uint64_t index = 0; index < 100; ++index) {
      ASSERT_TRUE(storage->AppendLog({Record(1, 1, index, std::string(1000, 'p'))}).ok());
    }
  }
  const std::string wal = WriteAheadLog(path_);
  for (const int64_t record : {int64_t{0}, int64_t{32768} * 3}) {  // where the first, and the last, block begins
    // Checksum u32, length u16, kind u8: a length beyond the file, a kind of recycled logs, zeros.
    for (const auto& [at, bytes] : std::vector<std::pair<int, std::string>>{
             {4, "\xff\x7f"}, {6, "\x05"}, {0, std::string(7, '\0')}, {0, std::string(40, '\0')}}) {
      std::fstream file(wal, std::ios::in | std::ios::out | std::ios::binary);
      std::string before(bytes.size(), '\0');
      file.seekg(record + at).read(before.data(), before.size());
      file.seekp(record + at).write(bytes.data(), bytes.size()).flush();
      const absl::Status status = OpenStatus();
      EXPECT_EQ(status.code(), Code::kDataLoss) << record + at;
      EXPECT_THAT(std::string(status.message()), HasSubstr(".log")) << record + at;
      file.seekp(record + at).write(before.data(), before.size());
    }
  }
  EXPECT_EQ(Payloads(*OpenOrDie(), 1, 1).size(), 100);
}

TEST_F(StorageTest, WhatTheFolderHadAndHasNoMoreRefusesIt) {
  {
    auto storage = OpenOrDie();
    ASSERT_TRUE(storage->PutSession(Metadata(1)).ok());
    ASSERT_TRUE(storage->AppendLog({Record(1, 1, 0, "first")}).ok());
    // More than one family's memory holds: it is flushed alone, and the log goes on in a second file.
    ASSERT_TRUE(storage->PutSnapshot(Header(1, 1, 64), std::string(17 << 20, 's')).ok());
    for (uint64_t index = 1; index < 4; ++index) {
      ASSERT_TRUE(storage->AppendLog({Record(1, 1, index, std::string(3000, 'p'))}).ok());
    }
  }
  std::vector<std::string> logs;
  std::string manifest;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    const std::string name = entry.path().filename();
    if (entry.path().extension() == ".log") logs.push_back(name);
    if (name.rfind("MANIFEST-", 0) == 0) manifest = name;
  }
  std::sort(logs.begin(), logs.end());
  ASSERT_EQ(logs.size(), 2);
  const auto refusal_without = [&](const std::string& name, uint64_t bytes_left) {
    const std::filesystem::path file = std::filesystem::path(path_) / name, kept = std::filesystem::path(root_) / name;
    std::filesystem::copy_file(file, kept);
    bytes_left == 0 ? (void)std::filesystem::remove(file) : std::filesystem::resize_file(file, bytes_left);
    const absl::Status status = OpenStatus();
    EXPECT_EQ(status.code(), Code::kDataLoss) << name;
    std::filesystem::rename(kept, file);
    return std::string(status.message());
  };
  const auto size = [&](const std::string& name) { return std::filesystem::file_size(path_ + "/" + name); };
  EXPECT_THAT(refusal_without(logs[0], 0), HasSubstr("Missing WAL"));
  EXPECT_THAT(refusal_without(logs[0], size(logs[0]) - 300), HasSubstr("WAL"));
  EXPECT_THAT(refusal_without(logs[1], 0), HasSubstr(logs[1]));
  EXPECT_THAT(refusal_without(manifest, size(manifest) - 1), HasSubstr(manifest));
  EXPECT_THAT(refusal_without("WITNESS", 10), HasSubstr("WITNESS"));
  std::filesystem::remove(path_ + "/WITNESS");  // as in a folder that was restored from a backup
  EXPECT_EQ(Payloads(*OpenOrDie(), 1, 1).size(), 4);
}

}  // namespace
}  // namespace mnemosyne
