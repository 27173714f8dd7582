// Folders that Storage refuses to open, and why.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/storage/storage_fixture.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;
using Code = absl::StatusCode;

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

}  // namespace
}  // namespace mnemosyne
