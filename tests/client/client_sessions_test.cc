// Client's calls that fork, change and move sessions.
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/client_fixture.h"
#include "tests/client/fake_memory_service.h"
#include "tests/status_matchers.h"

namespace mnemosyne::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ClientSessionsTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.sessions["book"].content = "0123456789";
  }

  FakeServer fake_;
  std::unique_ptr<Client> client_ = ConnectTo(fake_);
};

TEST_F(ClientSessionsTest, SettingsAreSentAndShown) {
  SessionSettings settings = {.retention = Retention::kTrim,
                              .ttl = absl::Hours(24) + absl::Milliseconds(500),
                              .idle_ttl = absl::InfiniteDuration(),
                              .max_log_bytes = 4096};
  const absl::StatusOr<SessionInfo> made = client_->CreateSession("a", "", {}, settings);
  ASSERT_OK(made);
  EXPECT_EQ(made->settings.retention, Retention::kTrim);
  EXPECT_EQ(made->settings.ttl, absl::Hours(24) + absl::Milliseconds(500));
  EXPECT_GT(*made->settings.idle_ttl, absl::Hours(24 * 365 * 1000)) << "for ever, as far as the wire has it";
  EXPECT_EQ(made->settings.max_backlog_tokens, 0);
  EXPECT_EQ(made->settings.max_log_bytes, 4096);
  EXPECT_EQ(made->expire_time, absl::FromUnixSeconds(24 * 3600));
  const absl::StatusOr<SessionInfo> plain = client_->GetSession("book");
  ASSERT_OK(plain);
  EXPECT_EQ(plain->settings.ttl, absl::InfiniteDuration());
  EXPECT_EQ(plain->expire_time, absl::InfiniteFuture());
}

TEST_F(ClientSessionsTest, AnUpdateNamesWhatIsSetAndNothingElse) {
  ASSERT_OK(client_->UpdateSession("book", {.settings = {.ttl = absl::Hours(1), .max_backlog_tokens = 0}}));
  {
    absl::MutexLock lock(&fake_.service.mutex);
    EXPECT_THAT(fake_.service.last_update.update_mask().paths(),
                ElementsAre("settings.ttl", "settings.max_backlog_tokens"));
  }
  ASSERT_OK(client_->UpdateSession("book", {.labels = Labels()}));
  absl::MutexLock lock(&fake_.service.mutex);
  EXPECT_THAT(fake_.service.last_update.update_mask().paths(), ElementsAre("labels"));
}

TEST_F(ClientSessionsTest, AForkTakesWhatItIsNotToldFromItsSession) {
  const absl::StatusOr<SessionInfo> fork = client_->ForkSession("book", "fork");
  ASSERT_OK(fork);
  EXPECT_EQ(fork->watermarks.accepted, 10);
  {
    absl::MutexLock lock(&fake_.service.mutex);
    EXPECT_FALSE(fake_.service.last_fork.has_offset());
    EXPECT_FALSE(fake_.service.last_fork.has_settings());
  }
  ASSERT_OK(client_->ForkSession("book", "empty", {.offset = 0, .settings = {.retention = Retention::kKeep}}));
  EXPECT_EQ(Content(fake_, "empty"), "");
  absl::MutexLock lock(&fake_.service.mutex);
  EXPECT_TRUE(fake_.service.last_fork.has_settings());
}

TEST_F(ClientSessionsTest, AnErasureSaysWhoHasTheSpanStill) {
  const absl::StatusOr<ErasedSpan> erased = client_->EraseSpan("book", 2, 5);
  ASSERT_OK(erased);
  EXPECT_EQ(erased->session.epoch, 2);
  EXPECT_THAT(erased->still_in, ElementsAre("a-fork"));
  EXPECT_EQ(Content(fake_, "book"), "0156789");
  EXPECT_THAT(client_->EraseSpan("book", 5, 5), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
}

TEST_F(ClientSessionsTest, AnExportComesInOrderAndEndsWithItsSink) {
  std::string bytes;
  const auto collect = [&](absl::string_view part) {
    bytes.append(part.data(), part.size());
    return absl::OkStatus();
  };
  ASSERT_OK(client_->ExportSession("book", collect));
  EXPECT_EQ(bytes, "0123456789");
  EXPECT_THAT(client_->ExportSession("none", collect), StatusIs(absl::StatusCode::kNotFound, testing::_));
  const auto full = [](absl::string_view) { return absl::ResourceExhaustedError("the disk is full"); };
  EXPECT_THAT(client_->ExportSession("book", full), StatusIs(absl::StatusCode::kResourceExhausted, "the disk is full"));
  {
    absl::MutexLock lock(&fake_.service.mutex);
    fake_.service.export_parts = 2;
  }
  EXPECT_THAT(client_->ExportSession("book", collect), StatusIs(absl::StatusCode::kDataLoss, testing::_));
}

TEST_F(ClientSessionsTest, AnImportIsCutIntoPartsAndNamedOnce) {
  const std::string large(1 << 20, 'x');  // four parts
  std::vector<std::string> left = {"", "end", large, "begin"};
  const auto source = [&]() -> absl::StatusOr<std::string> {
    std::string next = left.back();
    left.pop_back();
    return next;
  };
  const absl::StatusOr<SessionInfo> session = client_->ImportSession("copy", source);
  ASSERT_OK(session);
  EXPECT_EQ(session->session_id, "copy");
  EXPECT_EQ(Content(fake_, "copy"), "begin" + large + "end");
  left = {"", "bytes"};
  EXPECT_EQ(client_->ImportSession("", source)->session_id, "as-exported");
}

TEST_F(ClientSessionsTest, AnImportEndsWithItsSourceOrTheServer) {
  int parts = 0;
  const auto endless = [&]() -> absl::StatusOr<std::string> {
    ++parts;
    return std::string("broken");
  };
  EXPECT_THAT(client_->ImportSession("x", endless), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("broken")));
  const auto unreadable = [&]() -> absl::StatusOr<std::string> { return absl::NotFoundError("the file is gone"); };
  EXPECT_THAT(client_->ImportSession("x", unreadable), StatusIs(absl::StatusCode::kNotFound, "the file is gone"));
  absl::MutexLock lock(&fake_.service.mutex);
  EXPECT_FALSE(fake_.service.sessions.contains("x"));
}

TEST_F(ClientSessionsTest, ABackupIsDescribed) {
  const absl::StatusOr<BackupInfo> backup = client_->CreateBackup();
  ASSERT_OK(backup);
  EXPECT_EQ(backup->backup_id, 7);
  EXPECT_EQ(backup->bytes, 2048);
  EXPECT_EQ(backup->create_time, absl::FromUnixSeconds(1700000000));
}

}  // namespace
}  // namespace mnemosyne::client
