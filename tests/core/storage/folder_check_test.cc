#include "core/storage/folder_check.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/storage/storage_fixture.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Code = absl::StatusCode;

// Session 1, "book": eight records of ten bytes; snapshots at 64 and 128, the second one behind record 5. Session 2,
// "fork": four of its records, two of its own, and its snapshots up to 64.
class FolderCheckTest : public StorageTest {
 protected:
  void SetUp() override {
    StorageTest::SetUp();
    auto storage = OpenOrDie();
    SessionMetadata book = Metadata(storage->NextSessionNumber());
    book.id = "book";
    book.settings.retention = Retention::kKeep;
    ASSERT_OK(storage->PutSession(book));
    for (uint64_t index = 0; index < 8; ++index) {
      ASSERT_OK(storage->AppendLog({Record(1, 1, index, std::string(10, 'a'))}));
    }
    ASSERT_OK(storage->PutSnapshot(At(1, 64, 2), std::string(5000, 's')));
    ASSERT_OK(storage->PutSnapshot(At(1, 128, 6), std::string(5000, 't')));
    SessionMetadata fork = Continuation(book, {storage->NextSessionNumber(), 1}, 4, 64);
    fork.id = "fork";
    ASSERT_OK(storage->PutSession(fork));
    ASSERT_OK(storage->AppendLog({Record(2, 1, 4, "own"), Record(2, 1, 5, "own")}));
  }
  static SnapshotHeader At(uint64_t number, int64_t offset, uint64_t replay_index) {
    SnapshotHeader header = Header(number, 1, offset);
    header.replay_index = replay_index;
    header.replay_skip_bytes = header.replay_skip_tokens = 0;
    return header;
  }
  FolderReport Check() {
    auto folder = OfflineFolder::Open(path_);
    EXPECT_OK(folder);
    auto report = (*folder)->Check();
    EXPECT_OK(report);
    return *std::move(report);
  }
  RepairReport Repair(const RepairOptions& options = {}) {
    auto folder = OfflineFolder::Open(path_);
    EXPECT_OK(folder);
    auto report = (*folder)->Repair(options);
    EXPECT_OK(report);
    return *std::move(report);
  }
  void Damage(const std::string& family, const std::string& key) {
    PutRaw(family, key, Flipped(GetRaw(family, key), GetRaw(family, key).size() / 2));
  }
  SessionMetadata Load(const std::string& id) {
    const auto sessions = OpenOrDie()->LoadSessions();
    EXPECT_OK(sessions);
    for (const SessionMetadata& session : *sessions) {
      if (session.id == id) return session;
    }
    return {};
  }
  size_t Readable(const std::string& id) {
    const SessionMetadata session = Load(id);
    std::vector<LogRecord> records;
    EXPECT_OK(ReadAll(*OpenOrDie(), session, &records));
    return records.size();
  }
};

TEST_F(FolderCheckTest, AWholeFolderIsDescribed) {
  const FolderReport report = Check();
  EXPECT_THAT(report.damage, IsEmpty());
  EXPECT_THAT(report.harmless, IsEmpty());
  EXPECT_EQ(report.log_records, 10);
  EXPECT_EQ(report.snapshots, 2);
  ASSERT_THAT(report.sessions, SizeIs(2));
  const SessionReport &book = report.sessions[0], &fork = report.sessions[1];
  EXPECT_EQ(book.metadata.id, "book");
  EXPECT_EQ(book.records, 8);
  EXPECT_EQ(book.content_bytes, 80);
  EXPECT_EQ(book.tokens, 128);
  EXPECT_EQ(book.snapshots, 2);
  EXPECT_EQ(book.snapshot_bytes, 10000);
  EXPECT_EQ(fork.records, 6);
  EXPECT_EQ(fork.log_end, 6);
  EXPECT_EQ(fork.content_bytes, 46);
  EXPECT_EQ(fork.snapshots, 1);
  EXPECT_THAT(Repair().done, IsEmpty());
}

TEST_F(FolderCheckTest, WhatIsNoFolderOrOpenIsRefused) {
  EXPECT_THAT(OfflineFolder::Open(root_ + "/none"), StatusIs(Code::kNotFound, HasSubstr("is no data folder")));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/none"));
  const auto storage = OpenOrDie();
  EXPECT_THAT(OfflineFolder::Open(path_), StatusIs(Code::kFailedPrecondition, HasSubstr("locked")));
}

TEST_F(FolderCheckTest, ADamagedRecordIsNamedForEverySessionThatReadsIt) {
  Damage("log", LogKey(1, 1, 3));
  const FolderReport report = Check();
  ASSERT_THAT(report.damage, SizeIs(2));
  EXPECT_THAT(report.damage[0],
              AllOf(HasSubstr("session 'book': log record 3 of session number 1, epoch 1"), HasSubstr("checksum")));
  EXPECT_THAT(report.damage[1], HasSubstr("session 'fork': log record 3 of session number 1"));
  EXPECT_EQ(report.sessions[0].first_bad_record, 3);
  EXPECT_EQ(report.sessions[0].records, 7);
  EXPECT_EQ(report.sessions[0].content_bytes, 70);

  const RepairReport left = Repair();
  EXPECT_THAT(left.done, IsEmpty()) << "without truncate nothing is cut";
  EXPECT_THAT(left.left, SizeIs(2));
  const RepairReport cut = Repair({.truncate = true});
  EXPECT_THAT(cut.done, ElementsAre("cut session 'book' before log record 3: 5 records are lost, 3 are left",
                                    "cut session 'fork' before log record 3: 3 records are lost, 3 are left"));
  EXPECT_THAT(cut.left, IsEmpty());
  EXPECT_THAT(Check().damage, IsEmpty());
  EXPECT_THAT(Check().harmless, IsEmpty());
  EXPECT_EQ(Readable("book"), 3);
  EXPECT_EQ(Readable("fork"), 3);
  EXPECT_EQ(Load("book").epoch, 2);
  EXPECT_THAT(SnapshotOffsets(*OpenOrDie(), Load("book")), ElementsAre(64)) << "the other knew what is lost";
  EXPECT_THAT(SnapshotOffsets(*OpenOrDie(), Load("fork")), ElementsAre(64));
}

TEST_F(FolderCheckTest, MissingRecordsAreNamedAndCut) {
  DeleteRaw("log", LogKey(1, 1, 5));
  DeleteRaw("log", LogKey(1, 1, 6));
  FolderReport report = Check();
  ASSERT_THAT(report.damage, SizeIs(1)) << "the fork does not read them";
  EXPECT_THAT(report.damage[0], HasSubstr("log record 5 of session number 1, epoch 1 is missing, and all up to 6"));
  EXPECT_THAT(Repair({.truncate = true}).left, IsEmpty());
  EXPECT_EQ(Readable("book"), 5);
  EXPECT_EQ(Readable("fork"), 6);
}

TEST_F(FolderCheckTest, ALogThatEndsBeforeItsSnapshotIsDamaged) {
  for (uint64_t index = 5; index < 8; ++index) DeleteRaw("log", LogKey(1, 1, index));
  const FolderReport report = Check();
  ASSERT_THAT(report.damage, SizeIs(1));
  EXPECT_THAT(report.damage[0], HasSubstr("follows log record 5; the log ends before record 5"));
  EXPECT_THAT(Repair({.truncate = true}).left, IsEmpty());
  EXPECT_THAT(SnapshotOffsets(*OpenOrDie(), Load("book")), ElementsAre(64));
}

TEST_F(FolderCheckTest, DamagedSnapshotsAreDroppedAndTheOthersStay) {
  Damage("snapshots", SnapshotKey(1, 1, SnapshotPart::kState, 128));
  ASSERT_OK(OpenOrDie()->PutSnapshot(At(2, 192, 6), "state"));
  DeleteRaw("snapshots", SnapshotKey(2, 1, SnapshotPart::kHeader, 192));
  const FolderReport report = Check();
  ASSERT_THAT(report.damage, SizeIs(2));
  EXPECT_THAT(report.damage[0], HasSubstr("session 'book': snapshot at offset 128 of session number 1, epoch 1: "));
  EXPECT_THAT(report.damage[1],
              HasSubstr("session 'fork': snapshot at offset 192 of session number 2, epoch 1: its header"));
  const RepairReport repaired = Repair();
  EXPECT_THAT(repaired.done, ElementsAre("dropped the damaged snapshot at offset 128 of session number 1, epoch 1",
                                         "dropped the damaged snapshot at offset 192 of session number 2, epoch 1"));
  EXPECT_THAT(repaired.left, IsEmpty());
  EXPECT_THAT(SnapshotOffsets(*OpenOrDie(), Load("book")), ElementsAre(64));
  EXPECT_EQ(RawKeys("snapshots").size(), 2);
}

TEST_F(FolderCheckTest, ADamagedFileOfStatesCostsItsSnapshotsOnly) {
  ASSERT_OK(OpenOrDie()->Flush());
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    if (entry.path().extension() != ".blob") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1000);  // in the first state, at offset 64
    file.put('#');
    ++files;
  }
  ASSERT_EQ(files, 1);
  const FolderReport report = Check();
  EXPECT_THAT(report.damage,
              ElementsAre(HasSubstr("session 'book': snapshot at offset 64 of session number 1, epoch 1: "),
                          HasSubstr("session 'fork': snapshot at offset 64 of session number 1, epoch 1: ")));
  EXPECT_EQ(report.snapshots, 2);
  EXPECT_THAT(Repair().done, ElementsAre("dropped the damaged snapshot at offset 64 of session number 1, epoch 1"));
  EXPECT_THAT(Check().damage, IsEmpty());
  EXPECT_THAT(SnapshotOffsets(*OpenOrDie(), Load("book")), ElementsAre(128));
}

TEST_F(FolderCheckTest, OrphansAndUnfinishedImportsAreHarmlessAndDropped) {
  {
    auto storage = OpenOrDie();
    ASSERT_OK(storage->AppendLog({Record(7, 1, 0, "of nobody"), Record(7, 1, 1, "of nobody")}));
    ASSERT_OK(storage->PutSnapshot(At(7, 64, 0), "state"));
    const uint64_t import = storage->NextSessionNumber();
    ASSERT_OK(storage->BeginImport(import));
    ASSERT_OK(storage->AppendLog({Record(import, 1, 0, "half")}));
  }
  const FolderReport report = Check();
  EXPECT_THAT(report.damage, IsEmpty());
  EXPECT_THAT(report.harmless,
              ElementsAre("unfinished import of session number 3",
                          "orphans of session number 7, epoch 1: 2 log records, 1 snapshots, which nobody reads"));
  EXPECT_THAT(Repair().done, ElementsAre("dropped the unfinished import of session number 3",
                                         "dropped orphans of session number 7, epoch 1: 2 log records, 1 snapshots"));
  EXPECT_THAT(Check().harmless, IsEmpty());
  EXPECT_EQ(RawKeys("log").size(), 10);
  EXPECT_EQ(Readable("fork"), 6);
}

TEST_F(FolderCheckTest, WithADamagedSessionNothingIsTakenForAnOrphan) {
  Damage("sessions", SessionKey(1));
  const FolderReport report = Check();
  EXPECT_THAT(report.damage, ElementsAre(HasSubstr("metadata of session number 1: the checksum")));
  EXPECT_THAT(report.harmless, IsEmpty());
  EXPECT_THAT(Repair().left, SizeIs(1));
  EXPECT_EQ(RawKeys("log").size(), 10);
  const RepairReport repaired = Repair({.drop_sessions = true});
  EXPECT_THAT(repaired.done, ElementsAre("deleted session number 1, whose metadata was damaged",
                                         "dropped orphans of session number 1, epoch 1: 4 log records, 1 snapshots"));
  EXPECT_THAT(repaired.left, IsEmpty());
  EXPECT_EQ(Readable("fork"), 6) << "what it reads of the deleted one stays";
  EXPECT_GE(OpenOrDie()->NextSessionNumber(), 3);
}

TEST_F(FolderCheckTest, ATrimmedLogWithoutASnapshotIsLeft) {
  {
    auto storage = OpenOrDie();
    SessionMetadata book = (*storage->LoadSessions())[0];
    TrimLog(book, 2, 64, 20);
    ASSERT_OK(storage->PutSession(book));
  }
  EXPECT_THAT(Check().damage, IsEmpty());
  EXPECT_EQ(Check().sessions[0].records, 6);
  for (const int64_t offset : {64, 128}) Damage("snapshots", SnapshotKey(1, 1, SnapshotPart::kHeader, offset));
  const RepairReport repaired = Repair({.truncate = true});
  EXPECT_THAT(repaired.done, SizeIs(2));
  EXPECT_THAT(repaired.left,
              ElementsAre(HasSubstr("session 'book': no good snapshot is left, and its log is trimmed")));
}

TEST_F(FolderCheckTest, OffsetsAndSequencesThatDoNotFollowAreNamed) {
  LogRecord ids = Record(3, 1, 0, std::string(8, '\0'));
  ids.kind = LogContent::kTokenIds;
  ids.first_offset = 0;
  LogRecord next = ids;
  next.index = 1;
  next.first_offset = 3;  // two came before
  LogRecord last = next;
  last.index = 2;
  last.first_offset = 5;
  last.sequence = 0;
  SessionMetadata session = Metadata(3);
  ASSERT_OK(OpenOrDie()->Apply({.put = session, .records = std::vector<LogRecord>{ids, next, last}}));
  EXPECT_THAT(Check().damage, ElementsAre(HasSubstr("begins at offset 3, where the record before it ends at 2"),
                                          HasSubstr("its sequence 0 is below the 1 before it")));
}

TEST_F(FolderCheckTest, DamageOfTheFoldersOwnRecordsIsRepaired) {
  ASSERT_OK(DeleteSession(*OpenOrDie(), 2));
  Damage("default", std::string(kNextSessionKey));
  EXPECT_THAT(OpenStatus(), StatusIs(Code::kDataLoss, testing::_));
  EXPECT_THAT(Check().damage, ElementsAre(HasSubstr("the next session's number: the checksum")));
  EXPECT_THAT(Repair().left, IsEmpty());
  EXPECT_GE(OpenOrDie()->NextSessionNumber(), 2);
}

TEST_F(FolderCheckTest, ASessionIsVisitedPastItsDamage) {
  Damage("log", LogKey(1, 1, 3));
  Damage("snapshots", SnapshotKey(1, 1, SnapshotPart::kHeader, 64));
  auto folder = OfflineFolder::Open(path_);
  ASSERT_OK(folder);
  EXPECT_THAT((*folder)->FindSession("none"), StatusIs(Code::kNotFound, testing::_));
  const auto session = (*folder)->FindSession("book");
  ASSERT_OK(session);
  std::vector<uint64_t> good, bad;
  (*folder)->VisitLog(*session, [&](uint64_t index, const absl::StatusOr<LogRecord>& record) {
    (record.ok() ? good : bad).push_back(index);
  });
  EXPECT_THAT(good, ElementsAre(0, 1, 2, 4, 5, 6, 7));
  EXPECT_THAT(bad, ElementsAre(3));
  std::vector<int64_t> offsets;
  (*folder)->VisitSnapshots(*session, [&](const SnapshotId& id, const absl::StatusOr<SnapshotReport>& snapshot) {
    offsets.push_back(snapshot.ok() ? id.offset : -id.offset);
  });
  EXPECT_THAT(offsets, ElementsAre(-64, 128));
}

}  // namespace
}  // namespace mnemosyne
