// mnemo's commands that fork, change and move sessions, and its settings flags.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/mnemo_fixture.h"

namespace mnemosyne::client {
namespace {

using ::testing::HasSubstr;

std::string FileContent(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class MnemoSessionsTest : public MnemoTest {
 protected:
  void SetUp() override { EXPECT_EQ(Run({"stream", "book"}, "0123456789"), kExitDone) << err(); }
  int Files() const { return std::distance(std::filesystem::directory_iterator(folder_.path()), {}); }
};

TEST(CommandLine, WrongSettingsAreSaidInASentence) {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"create", "a", "--retention=some"}, "--retention cannot be 'some'; it is keep or trim"},
      {{"create", "a", "--ttl=day"}, "--ttl cannot be 'day'"},
      {{"create", "a", "--max_log_bytes=much"}, "--max_log_bytes cannot be 'much'"},
      {{"show", "a", "--ttl=1h"}, "mnemo show takes no settings"},
      {{"update", "a"}, "nothing to update"},
      {{"erase", "a", "0"}, "usage: mnemo erase SESSION BEGIN END"},
      {{"erase", "a", "0", "x"}, "END is an offset in tokens, not 'x'"},
      {{"fork", "a"}, "usage: mnemo fork SESSION FORK"},
      {{"stream", "a", "--wait=long"}, "--wait cannot be 'long'; it is accepted, durable or memorized"},
  };
  for (const auto& [arguments, message] : cases) {
    EXPECT_THAT(Parse(arguments), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
  EXPECT_EQ(Parse({"create", "a", "--ttl=inf"})->settings.ttl, absl::InfiniteDuration());
  EXPECT_FALSE(Parse({"fork", "a", "b"})->offset.has_value());
  EXPECT_EQ(Parse({"fork", "a", "b", "--offset=0"})->offset, 0);
  EXPECT_EQ(Parse({"stream", "a"})->wait, DeliveryLevel::kMemorized);
}

TEST_F(MnemoSessionsTest, SettingsAreGivenShownAndUpdated) {
  EXPECT_EQ(Run({"create", "a", "--retention=trim", "--ttl=24h", "--idle_ttl=90m", "--max_backlog_tokens=1000",
                 "--max_log_bytes=2048"}),
            kExitDone)
      << err();
  EXPECT_THAT(out(),
              HasSubstr("settings   trim, ttl 24h, idle ttl 1h30m, backlog up to 1,000 tokens, log up to 2.0 KiB"));
  EXPECT_THAT(out(), HasSubstr("expires    1970-01-0"));
  EXPECT_EQ(Run({"show", "a", "--json"}), kExitDone);
  EXPECT_THAT(out(), HasSubstr("\"settings\":{\"retention\":\"trim\",\"ttl_seconds\":86400.0,\"idle_ttl_seconds\":"
                               "5400.0,\"max_backlog_tokens\":1000,\"max_log_bytes\":2048},\"earliest_offset\":0,"
                               "\"expire_time\":\"1970-01-02T00:00:00+00:00\""));
  EXPECT_EQ(Run({"update", "a", "--label=", "--retention=keep"}), kExitDone) << err();
  EXPECT_THAT(out(), HasSubstr("settings   keep, ttl 24h"));
  EXPECT_EQ(Run({"stream", "new", "--ttl=1h", "--label=kind=book"}, "text"), kExitDone) << err();
  EXPECT_EQ(Run({"show", "new"}), kExitDone);
  EXPECT_THAT(out(), HasSubstr("settings   unspecified, ttl 1h"));
  EXPECT_THAT(out(), HasSubstr("labels     kind=book"));
}

TEST_F(MnemoSessionsTest, ForksAndErases) {
  EXPECT_EQ(Run({"fork", "book", "short", "--offset=4"}), kExitDone) << err();
  EXPECT_THAT(out(), HasSubstr("session    short\n"));
  EXPECT_EQ(Content("short"), "0123");
  EXPECT_EQ(Run({"fork", "book", "all"}), kExitDone) << err();
  EXPECT_EQ(Content("all"), "0123456789");
  EXPECT_EQ(Run({"erase", "book", "2", "5"}), kExitDone) << err();
  EXPECT_EQ(Content("book"), "0156789");
  EXPECT_THAT(out(), HasSubstr("still in   a-fork"));
  EXPECT_EQ(Run({"erase", "all", "2", "5", "--json"}), kExitDone) << err();
  EXPECT_THAT(out(), HasSubstr("\"still_in\":[\"a-fork\"]}"));
  EXPECT_EQ(Run({"erase", "none", "0", "1"}), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("session 'none' does not exist"));
}

TEST_F(MnemoSessionsTest, AnExportIsAWholeFileOrNone) {
  const std::string file = folder_.File("book.export");
  EXPECT_EQ(Run({"export", "book", file}), kExitDone) << err();
  EXPECT_EQ(FileContent(file), "0123456789");
  EXPECT_EQ(out(), "exported 'book' to '" + file + "': 10 B\n");
  EXPECT_EQ(Files(), 1);
  {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.export_parts = 2;
  }
  EXPECT_EQ(Run({"export", "book", file}), kExitRefused);
  EXPECT_EQ(FileContent(file), "0123456789") << "the former stays";
  EXPECT_EQ(Run({"export", "book", folder_.File("other")}), kExitRefused);
  EXPECT_EQ(err(), "mnemo: its log is damaged");
  EXPECT_EQ(Files(), 1) << "nothing is left of it";
  {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.export_parts = -1;
    fake_.service.export_hangs = true;
    fake_.service.export_began = false;
  }
  auto has_begun = [](FakeMemoryService* service) {
    service->mutex.AssertHeld();
    return service->export_began;
  };
  EXPECT_EQ(Run({"export", "book", folder_.File("other")}, "", has_begun), kExitInterrupted);
  EXPECT_EQ(Files(), 1);
  EXPECT_EQ(Run({"export", "book", folder_.File("no/such/folder")}), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("cannot write '"));
}

TEST_F(MnemoSessionsTest, ExportsToStandardOutputAndImportsFromStandardInput) {
  EXPECT_EQ(Run({"export", "book"}), kExitDone) << err();
  EXPECT_EQ(out(), "0123456789");
  EXPECT_EQ(Run({"import", "--session=copy"}, out()), kExitDone) << err();
  EXPECT_EQ(Content("copy"), "0123456789");
  EXPECT_THAT(out(), HasSubstr("session    copy\n"));
  EXPECT_EQ(Run({"import", Write("from a file")}), kExitDone) << err();
  EXPECT_EQ(Content("as-exported"), "from a file");
  EXPECT_EQ(Run({"import", Write("broken")}), kExitRefused);
  EXPECT_EQ(err(), "mnemo: it is broken");
  EXPECT_EQ(Run({"import", "/no/such/file"}), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("cannot open '/no/such/file'"));
}

TEST_F(MnemoSessionsTest, AStreamWaitsForTheLevelItIsTold) {
  {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.memorizes = false;
  }
  for (const char* level : {"accepted", "durable"}) {
    EXPECT_EQ(Run({"stream", level, "--wait", level}, "text"), kExitDone) << err();
    EXPECT_EQ(Content(level), "text");
    EXPECT_THAT(out(), HasSubstr("streamed 4 B"));
  }
}

TEST_F(MnemoSessionsTest, AQueryGoesBack) {
  EXPECT_EQ(Run({"query", "book", "where?", "--as_of_offset=5"}), kExitDone) << err();
  absl::MutexLock lock(&fake_.service.mutex);
  EXPECT_EQ(fake_.service.last_query.as_of_offset(), 5);
}

TEST_F(MnemoSessionsTest, ABackupIsMade) {
  EXPECT_EQ(Run({"backup"}), kExitDone) << err();
  EXPECT_THAT(out(), HasSubstr("backup 7: 2.0 KiB, 2023-11-1"));
  EXPECT_EQ(Run({"backup", "--json"}), kExitDone) << err();
  EXPECT_EQ(out(), "{\"backup_id\":7,\"bytes\":2048,\"create_time\":\"2023-11-14T22:13:20+00:00\"}\n");
}

}  // namespace
}  // namespace mnemosyne::client
