#include "server/flags.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "gmock/gmock.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ServerFlags, TheDefaultsAreTheDocumentedOnes) {
  const auto flags = ParseServerFlags({}, {"PATH=/bin"});
  ASSERT_OK(flags);
  EXPECT_EQ(flags->server.listen, "127.0.0.1:50051");
  EXPECT_EQ(flags->server.metrics_address, "127.0.0.1:9464");
  EXPECT_EQ(flags->engine.data_path, "data");
  EXPECT_EQ(flags->engine.max_append_bytes, 1 << 20);
  EXPECT_EQ(flags->drain_timeout, absl::Seconds(30));
  EXPECT_TRUE(flags->engine.sync_writes);
}

TEST(ServerFlags, EveryFlagArrivesWhereItBelongs) {
  const auto flags =
      ParseServerFlags({"--listen=[::1]:0", "--metrics_address=", "--data", "here", "--models=a=x,b=y/z", "--workers=3",
                        "--device=cuda:1", "--max_resident_bytes=1.5GiB", "--max_backlog_tokens=7",
                        "--max_append_bytes=64KiB", "--max_prompt_tokens=9", "--max_queries=2", "--max_transfers=3", "--max_sessions=5",
                        "--snapshot_every_tokens=11", "--nosync_writes", "--drain_timeout=2m"},
                       {});
  ASSERT_OK(flags);
  EXPECT_EQ(flags->server.listen, "[::1]:0");
  EXPECT_EQ(flags->server.metrics_address, "");
  EXPECT_EQ(flags->engine.data_path, "here");
  ASSERT_EQ(flags->engine.models.size(), 2);
  EXPECT_EQ(flags->engine.models[1].name, "b");
  EXPECT_EQ(flags->engine.models[1].folder, "y/z");
  EXPECT_EQ(flags->engine.workers, 3);
  EXPECT_EQ(flags->engine.device, "cuda:1");
  EXPECT_EQ(flags->engine.max_resident_bytes, 3 * (int64_t{1} << 29));
  EXPECT_EQ(flags->engine.max_backlog_tokens, 7);
  EXPECT_EQ(flags->engine.max_append_bytes, 65536);
  EXPECT_EQ(flags->engine.max_prompt_tokens, 9);
  EXPECT_EQ(flags->engine.max_queries, 2);
  EXPECT_EQ(flags->engine.max_transfers, 3);
  EXPECT_EQ(flags->engine.max_sessions, 5);
  EXPECT_EQ(flags->engine.snapshot_every_tokens, 11);
  EXPECT_FALSE(flags->engine.sync_writes);
  EXPECT_EQ(flags->drain_timeout, absl::Minutes(2));
}

TEST(ServerFlags, TheCommandLineWinsOverTheFileAndTheFileOverTheEnvironment) {
  TempFolder folder;
  ASSERT_OK(WriteFileAtomically(folder.File("flags"), "# ours\n\n--workers=2\n  --max_queries=20\n"));
  const auto flags = ParseServerFlags({"--max_queries=30", "--flagfile=" + folder.File("flags")},
                                      {"MNEMOSYNE_WORKERS=1", "MNEMOSYNE_MAX_QUERIES=10", "MNEMOSYNE_DATA=d"});
  ASSERT_OK(flags);
  EXPECT_EQ(flags->engine.max_queries, 30);
  EXPECT_EQ(flags->engine.workers, 2);
  EXPECT_EQ(flags->engine.data_path, "d");
}

TEST(ServerFlags, ABadValueIsNamedWithItsLimit) {
  for (const auto& [argument, limit] : std::vector<std::pair<std::string, std::string>>{
           {"--listen=50051", "host:port"},
           {"--listen=host:70000", "65535"},
           {"--listen=", "host:port"},
           {"--metrics_address=x", "or empty"},
           {"--data=", "not empty"},
           {"--models=", "name=folder"},
           {"--models=a=", "name=folder"},
           {"--models=a=x,a=y", "'a' twice"},
           {"--models=a b=x", "A-Za-z0-9"},
           {"--workers=-1", "0 to 1024"},
           {"--workers=two", "0 to 1024"},
           {"--max_resident_bytes=0", "at least 1"},
           {"--max_append_bytes=1TB", "KiB"},
           {"--max_append_bytes=-1", "at least 1"},
           {"--max_append_bytes=99999999999GiB", "KiB"},
           {"--max_queries=0", "1 to 1000000"},
           {"--max_queries=99999999999999999999", "1 to 1000000"},
           {"--sync_writes=perhaps", "true or false"},
           {"--drain_timeout=30", "30s"},
           {"--drain_timeout=-1s", "0s to 24h"},
       }) {
    const std::string name = argument.substr(0, argument.find('='));
    EXPECT_THAT(ParseServerFlags({argument}, {}), StatusIs(kInvalid, AllOf(HasSubstr(name), HasSubstr(limit))))
        << argument;
  }
}

TEST(ServerFlags, APublicAddressNeedsTlsOrAWord) {
  for (const char* listen : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "1270.0.0.1:1"}) {
    const std::string flag = absl::StrCat("--listen=", listen);
    EXPECT_THAT(ParseServerFlags({flag}, {}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--allow_insecure")))
        << listen;
    EXPECT_OK(ParseServerFlags({flag, "--allow_insecure"}, {}));
    EXPECT_OK(ParseServerFlags({flag, "--tls_certificate=c", "--tls_key=k"}, {}));
    EXPECT_OK(ParseServerFlags({flag, "--help"}, {}));
  }
  for (const char* listen : {"127.0.0.1:1", "127.1.2.3:1", "localhost:1", "[::1]:1"}) {
    EXPECT_OK(ParseServerFlags({absl::StrCat("--listen=", listen)}, {})) << listen;
  }
  EXPECT_THAT(ParseServerFlags({"--tls_certificate=c"}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls_key")));
  EXPECT_THAT(ParseServerFlags({"--tls_client_ca=c"}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls_certificate")));
}

TEST(ServerFlags, DebugPagesAreForThisMachineUnlessSaid) {
  EXPECT_TRUE(ParseServerFlags({}, {})->server.debug_page);
  EXPECT_FALSE(ParseServerFlags({"--metrics_address=0.0.0.0:1"}, {})->server.debug_page);
  EXPECT_TRUE(ParseServerFlags({"--metrics_address=0.0.0.0:1", "--debug_page=on"}, {})->server.debug_page);
  EXPECT_FALSE(ParseServerFlags({"--debug_page=off"}, {})->server.debug_page);
}

TEST(ServerFlags, WhatIsUnknownIsNamed) {
  EXPECT_THAT(ParseServerFlags({"--colour=red"}, {}), StatusIs(kInvalid, HasSubstr("--colour")));
  EXPECT_THAT(ParseServerFlags({"--nodata"}, {}), StatusIs(kInvalid, HasSubstr("--nodata")));
  EXPECT_THAT(ParseServerFlags({"serve"}, {}), StatusIs(kInvalid, HasSubstr("serve")));
  EXPECT_THAT(ParseServerFlags({"--workers"}, {}), StatusIs(kInvalid, HasSubstr("no value")));
  EXPECT_THAT(ParseServerFlags({}, {"MNEMOSYNE_COLOUR=red"}), StatusIs(kInvalid, HasSubstr("MNEMOSYNE_COLOUR")));
  EXPECT_THAT(ParseServerFlags({}, {"MNEMOSYNE_workers=1"}), StatusIs(kInvalid, HasSubstr("MNEMOSYNE_workers")));
  EXPECT_THAT(ParseServerFlags({}, {"MNEMOSYNE_WORKERS=x"}), StatusIs(kInvalid, HasSubstr("MNEMOSYNE_WORKERS")));
  EXPECT_OK(ParseServerFlags({}, {"MNEMOSYNE_SERVER=127.0.0.1:1"}));  // the client's
  TempFolder folder;
  EXPECT_THAT(ParseServerFlags({"--flagfile=" + folder.File("none")}, {}), StatusIs(kInvalid, HasSubstr("none")));
  ASSERT_OK(WriteFileAtomically(folder.File("flags"), "--colour=red\n"));
  EXPECT_THAT(ParseServerFlags({"--flagfile", folder.File("flags")}, {}),
              StatusIs(kInvalid, AllOf(HasSubstr(folder.File("flags")), HasSubstr("--colour"))));
}

TEST(ServerFlags, HelpNamesEveryFlag) {
  ASSERT_OK(ParseServerFlags({"--help"}, {}));
  EXPECT_TRUE(ParseServerFlags({"--help"}, {})->help);
  EXPECT_TRUE(ParseServerFlags({"-version"}, {})->version);
  for (const char* name : {"--listen", "--models", "--max_append_bytes", "--drain_timeout", "--flagfile"}) {
    EXPECT_THAT(ServerFlagsHelp(), HasSubstr(name));
  }
}

TEST(ServerFlags, TheDefaultModelIsFoundOrThePlacesAreListed) {
  TempFolder folder;
  const std::string bin = folder.File("prefix/bin");
  const std::string model = folder.File("prefix/share/mnemosyne/models/recall");
  std::filesystem::create_directories(bin);
  std::filesystem::create_directories(model);
  std::filesystem::current_path(folder.path());
  EXPECT_THAT(FindDefaultModel(bin),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("--models"), HasSubstr(model))));
  ASSERT_OK(WriteFileAtomically(model + "/config.json", "{}"));
  const auto found = FindDefaultModel(bin);
  ASSERT_OK(found);
  EXPECT_EQ(*found, model);
}

}  // namespace
}  // namespace mnemosyne
