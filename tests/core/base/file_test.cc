#include "core/base/file.h"

#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

TEST(ReadFile, GivesBackWhatWasWritten) {
  TempFolder folder;
  std::string bytes(300'000, '\0');  // more than one read
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31);
  ASSERT_OK(WriteFileAtomically(folder.File("a"), bytes));
  const absl::StatusOr<std::string> read = ReadFile(folder.File("a"));
  ASSERT_OK(read);
  EXPECT_TRUE(*read == bytes);
}

TEST(ReadFile, NamesAFileThatIsMissing) {
  TempFolder folder;
  EXPECT_THAT(ReadFile(folder.File("gone")), StatusIs(absl::StatusCode::kNotFound, HasSubstr("gone'")));
}

TEST(ReadFile, AFolderIsAnError) {
  TempFolder folder;
  EXPECT_FALSE(ReadFile(folder.path()).ok());
}

TEST(WriteFileAtomically, ReplacesTheFileAndLeavesNothingBeside) {
  TempFolder folder;
  ASSERT_OK(WriteFileAtomically(folder.File("a"), "the longer first text"));
  ASSERT_OK(WriteFileAtomically(folder.File("a"), "second"));
  EXPECT_EQ(*ReadFile(folder.File("a")), "second");
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 1);
}

TEST(WriteFileAtomically, AnEmptyFileIsAFile) {
  TempFolder folder;
  ASSERT_OK(WriteFileAtomically(folder.File("a"), ""));
  EXPECT_EQ(*ReadFile(folder.File("a")), "");
}

TEST(WriteFileAtomically, AMissingFolderIsNamed) {
  TempFolder folder;
  EXPECT_THAT(WriteFileAtomically(folder.File("no/a"), "x"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/a")));
}

}  // namespace
}  // namespace mnemosyne
