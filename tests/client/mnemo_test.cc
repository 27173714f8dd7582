// The command line and the commands of mnemo, against the fake service.
#include <stdlib.h>

#include <string>
#include <utility>
#include <vector>

#include "client/progress_bar.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/mnemo_fixture.h"

namespace mnemosyne::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CommandLine, FlagsMayStandAnywhereBeforeTwoDashes) {
  absl::StatusOr<CommandLine> line = Parse({"--json", "query", "book", "--max_tokens=5", "where", "--temperature",
                                            "0.5", "--stop=\\n,\\x2c", "--seed=18446744073709551615", "--", "--is"});
  ASSERT_OK(line);
  EXPECT_EQ(line->command, "query");
  EXPECT_THAT(line->arguments, ElementsAre("book", "where", "--is"));
  EXPECT_TRUE(line->json);
  EXPECT_EQ(line->query.max_tokens, 5);
  EXPECT_EQ(line->query.temperature, 0.5f);
  EXPECT_EQ(line->query.seed, 18446744073709551615u);
  EXPECT_FALSE(line->query.top_k.has_value());
  EXPECT_THAT(line->query.stop, ElementsAre("\n", ","));
}

TEST(CommandLine, TheServerComesFromTheFlagThenTheEnvironmentThenTheDefault) {
  unsetenv("MNEMOSYNE_SERVER");
  EXPECT_EQ(Parse({"models"})->server, "127.0.0.1:50051");
  setenv("MNEMOSYNE_SERVER", "there:1", 1);
  EXPECT_EQ(Parse({"models"})->server, "there:1");
  EXPECT_EQ(Parse({"models", "--server=here:2"})->server, "here:2");
  unsetenv("MNEMOSYNE_SERVER");
}

TEST(CommandLine, WrongUsageIsSaidInASentence) {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{}, "no command"},
      {{"strem", "a"}, "there is no command 'strem'"},
      {{"stream"}, "usage: mnemo stream SESSION [FILE|-]"},
      {{"query", "a"}, "usage: mnemo query SESSION QUESTION..."},
      {{"show", "a", "b"}, "usage: mnemo show SESSION"},
      {{"show", ""}, "the session's id is empty"},
      {{"show", "a", "--colour"}, "there is no flag --colour"},
      {{"show", "a", "--server"}, "--server needs a value"},
      {{"query", "a", "b", "--max_tokens=many"}, "--max_tokens cannot be 'many'"},
      {{"query", "a", "b", "--seed=-1"}, "--seed cannot be '-1'"},
      {{"sessions", "--label=novalue"}, "--label takes KEY=VALUE, not 'novalue'"},
  };
  for (const auto& [arguments, message] : cases) {
    EXPECT_THAT(Parse(arguments), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
}

TEST_F(MnemoTest, StreamsAFileAndGoesOnWhereTheServerSays) {
  EXPECT_EQ(Run({"stream", "book", Write("0123456789")}), kExitDone) << err();
  EXPECT_EQ(Content("book"), "0123456789");
  EXPECT_THAT(out(), HasSubstr("streamed 10 B to 'book'"));
  EXPECT_THAT(out(), HasSubstr("accepted 10, durable 10, memorized 10"));
  EXPECT_EQ(Run({"stream", "book", Write("0123456789abcdef"), "--resume", "--json"}), kExitDone) << err();
  EXPECT_EQ(Content("book"), "0123456789abcdef");
  EXPECT_THAT(out(), HasSubstr("\"skipped_bytes\":10,\"sent_bytes\":6"));
  EXPECT_EQ(Run({"stream", "book", Write("012"), "--resume"}), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("the session has 16 bytes and"));
  EXPECT_EQ(Run({"stream", "book"}, "+more"), kExitDone) << err();
  EXPECT_EQ(Content("book"), "0123456789abcdef+more");
}

TEST_F(MnemoTest, PrintsAnAnswerWithoutItsLeadingSpace) {
  EXPECT_EQ(Run({"create", "book"}), kExitDone);
  EXPECT_EQ(Run({"query", "book", "where", "is", "it?", "--verbose"}), kExitDone) << err();
  EXPECT_EQ(out(), "under the stone\n");
  EXPECT_THAT(err(), HasSubstr("3 answer tokens, stop_string"));
  {
    absl::MutexLock lock(&fake_.service.mutex);
    EXPECT_EQ(fake_.service.last_query.text(), "where is it?");
  }
  EXPECT_EQ(Run({"query", "book", "where?", "--json"}), kExitDone);
  EXPECT_THAT(out(), HasSubstr("\"answer\":\"under the stone\",\"token_ids\":[7,7,7]"));
}

TEST_F(MnemoTest, ChatAsksAndTells) {
  EXPECT_EQ(Run({"chat", "book"}, "where?\n/tell It is here.\nwhere?\n/what\n/quit\nnever\n"), kExitDone) << err();
  EXPECT_EQ(Content("book"), "It is here.\n");
  EXPECT_EQ(out(), "under the stone\n");
  EXPECT_THAT(err(), HasSubstr("session 'book' does not exist"));
  EXPECT_THAT(err(), HasSubstr("there are /tell TEXT and /quit"));
}

TEST_F(MnemoTest, SaysWhatIsWrong) {
  EXPECT_EQ(Run({"query", "x", "where?"}), kExitRefused);
  EXPECT_EQ(err(), "mnemo: session 'x' does not exist (create it by streaming to it: mnemo stream x FILE)");
  EXPECT_EQ(Run({"stream", "x", "/no/such/file"}), kExitRefused);
  EXPECT_EQ(err(), "mnemo: cannot open '/no/such/file': No such file or directory");
  {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.sessions["x"].seat_taken = true;
    fake_.service.refuse = grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
  }
  EXPECT_EQ(Run({"stream", "x"}, "text"), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("(take its place: --take_over)"));
  EXPECT_EQ(Run({"show", "x"}), kExitUnreachable);
  EXPECT_THAT(err(), HasSubstr("cannot serve now: draining"));
}

TEST_F(MnemoTest, ControlCEndsCommandsCleanly) {
  // In a stream that waits for input: what the server has stays.
  auto has_content = [](FakeMemoryService* service) {
    service->mutex.AssertHeld();
    return service->sessions.contains("book") && service->sessions["book"].durable_bytes == 4;
  };
  EXPECT_EQ(Run({"stream", "book"}, "text", has_content), kExitInterrupted);
  EXPECT_EQ(Content("book"), "text");
  EXPECT_THAT(out(), HasSubstr("streamed 4 B to 'book'"));
  EXPECT_EQ(err(), "mnemo: interrupted");
  // In an answer that does not come.
  {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.query_hangs = true;
  }
  auto is_asked = [](FakeMemoryService* service) {
    service->mutex.AssertHeld();
    return service->last_query.session_id() == "book";
  };
  EXPECT_EQ(Run({"query", "book", "where?"}, "", is_asked), kExitInterrupted);
  // In a chat that waits for a line.
  EXPECT_EQ(Run({"chat", "book"}, "", is_asked), kExitInterrupted);
}

TEST_F(MnemoTest, SessionsAreShownListedResetAndDeleted) {
  EXPECT_EQ(Run({"create", "a", "--label=kind=book,lang=en"}), kExitDone);
  EXPECT_EQ(Run({"create", "b"}), kExitDone);
  EXPECT_EQ(Run({"sessions", "--json", "--label", "kind=book"}), kExitDone);
  EXPECT_THAT(out(), HasSubstr("{\"session_id\":\"a\""));
  EXPECT_THAT(out(), testing::Not(HasSubstr("\"b\"")));
  EXPECT_EQ(Run({"sessions"}), kExitDone);
  EXPECT_THAT(out(), HasSubstr("kind=book,lang=en"));
  EXPECT_EQ(Run({"reset", "a"}), kExitDone);
  EXPECT_THAT(out(), HasSubstr("epoch      2"));
  EXPECT_EQ(Run({"delete", "a"}), kExitDone);
  EXPECT_EQ(out(), "deleted 'a'\n");
  EXPECT_EQ(Run({"show", "a"}), kExitRefused);
  EXPECT_EQ(Run({"models"}), kExitDone);
  EXPECT_THAT(out(), HasSubstr("1,234,567 parameters  bytes tokenizer"));
}

TEST(ProgressBar, ALineSaysHowFarItIs) {
  StreamProgress progress;
  progress.watermarks = {.accepted = 1310720, .durable = 1310000, .memorized = 1309696};
  progress.mean_surprise = 0.0123f;
  EXPECT_EQ(ProgressBar::Line(progress, 512, 2048, 31204.7),
            " 25% of 2.0 KiB  31,204 tokens/s  accepted 1,310,720  durable 1,310,000  memorized 1,309,696  surprise "
            "0.0123");
  EXPECT_THAT(ProgressBar::Line(progress, 3 << 20, absl::nullopt, 0), HasSubstr("3.0 MiB  0 tokens/s"));
  EXPECT_EQ(FormatCount(-1234), "-1,234");
  EXPECT_EQ(FormatCount(123), "123");
}

}  // namespace
}  // namespace mnemosyne::client
