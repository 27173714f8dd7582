// The access file, what it says of callers, and tenants' rates.
#include <algorithm>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/access/access_control.h"
#include "server/access/access_table.h"
#include "server/access/audit_log.h"
#include "server/access/tenant_meter.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string TokenEntry(const std::string& name, const std::string& tenant, const std::string& role,
                       const std::string& token) {
  return absl::StrCat(R"({"name": ")", name, R"(", "tenant": ")", tenant, R"(", "role": ")", role, R"(", "sha256": ")",
                      HexOf(HashToken(token)), R"("})");
}

std::string AccessFile(const std::string& tenants, const std::string& tokens) {
  return absl::StrCat(R"({"format": "mnemosyne-access-1", "tenants": {)", tenants, R"(}, "tokens": [)", tokens, "]}");
}

TEST(AccessTable, TokensAreFoundByTheirHash) {
  // From FIPS 180-2: the file may be written with any tool.
  EXPECT_EQ(HexOf(HashToken("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const auto table = AccessTable::Parse(AccessFile(
      R"("acme": {"max_sessions": 3, "max_queries": 0}, "lab": {})",
      absl::StrCat(TokenEntry("a", "acme", "write", "secret-a"), ",", TokenEntry("b", "lab", "read", "secret-b"))));
  ASSERT_OK(table);
  const AccessTable::Token* const found = table->Find(HashToken("secret-a"));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->name, "a");
  EXPECT_EQ(found->tenant, "acme");
  EXPECT_EQ(found->role, Role::kWrite);
  EXPECT_EQ(table->Find(HashToken("secret-c")), nullptr);
  EXPECT_EQ(table->QuotasOf("acme").sessions.max_sessions, 3);
  EXPECT_EQ(table->QuotasOf("acme").max_queries, 0);
  EXPECT_EQ(table->QuotasOf("lab").max_queries, std::numeric_limits<int64_t>::max());
}

TEST(AccessTable, MadeTokensAreLongAndNeverTheSame) {
  const auto one = MakeToken(), other = MakeToken();
  ASSERT_OK(one);
  ASSERT_OK(other);
  EXPECT_GE(one->size(), 40u);
  EXPECT_NE(*one, *other);
}

TEST(AccessTable, ErrorsNameThePlace) {
  const std::string good = TokenEntry("a", "acme", "write", "x");
  const auto refused = [](const std::string& text, const std::string& what) {
    EXPECT_THAT(AccessTable::Parse(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what))) << text;
  };
  refused("{", "access file");
  refused("[]", "the file is no object");
  refused(R"({"format": "mnemosyne-access-2", "tenants": {}, "tokens": []})", "mnemosyne-access-1");
  refused(R"({"format": "mnemosyne-access-1", "tokens": []})", "tenants is missing");
  refused(R"({"format": "mnemosyne-access-1", "tenants": {}})", "tokens is missing");
  refused(AccessFile(R"("a/b": {})", ""), "tenants.a/b");
  refused(AccessFile(R"("acme": {"max_session": 1})", ""), "tenants.acme.max_session is unknown");
  refused(AccessFile(R"("acme": {"max_sessions": -1})", ""), "tenants.acme.max_sessions is no whole number");
  refused(AccessFile(R"("acme": {"max_sessions": 1.5})", ""), "tenants.acme.max_sessions is no whole number");
  refused(AccessFile(R"("acme": {"max_sessions": 18446744073709551615})", ""), "max_sessions is no whole number");
  refused(AccessFile(R"("acme": {}, "acme": {})", ""), "twice");
  refused(AccessFile("", good), "tokens[0].tenant is 'acme'");
  refused(AccessFile(R"("acme": {})", absl::StrReplaceAll(good, {{"write", "owner"}})), "tokens[0].role is 'owner'");
  refused(AccessFile(R"("acme": {})", absl::StrReplaceAll(good, {{"sha256\": \"", "sha256\": \"z"}})),
          "64 hexadecimal");
  refused(AccessFile(R"("acme": {})", absl::StrReplaceAll(good, {{"role", "rôle"}})), "unknown");
  refused(AccessFile(R"("acme": {})", absl::StrCat(good, ",", TokenEntry("a", "acme", "read", "y"))),
          "tokens[1].name is there twice");
  refused(AccessFile(R"("acme": {})", absl::StrCat(good, ",", TokenEntry("b", "acme", "read", "x"))),
          "tokens[1].sha256 is there twice");
}

TEST(AccessControl, WithoutAFileEveryoneMayDoEverything) {
  const auto access = AccessControl::Start("");
  ASSERT_OK(access);
  const auto caller = (*access)->Identify("");
  ASSERT_OK(caller);
  EXPECT_OK(caller->Check(Role::kAdmin));
  EXPECT_EQ(caller->tenant, "");
}

TEST(AccessControl, CallersAreWhoTheirTokenSays) {
  TempFolder folder;
  ASSERT_OK(WriteFileAtomically(folder.File("access.json"),
                                AccessFile(R"("acme": {})", TokenEntry("a", "acme", "write", "secret-a"))));
  const auto access = AccessControl::Start(folder.File("access.json"));
  ASSERT_OK(access);
  const auto caller = (*access)->Identify("Bearer secret-a");
  ASSERT_OK(caller);
  EXPECT_EQ(caller->tenant, "acme");
  EXPECT_OK(caller->Check(Role::kRead));
  EXPECT_OK(caller->Check(Role::kWrite));
  EXPECT_THAT(caller->Check(Role::kAdmin), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("token 'a'")));
  EXPECT_OK((*access)->Identify("bearer   secret-a "));  // the scheme is no word of any case (RFC 7235)
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer secret-b", "Basic secret-a", "secret-a"}) {
    EXPECT_THAT((*access)->Identify(wrong), StatusIs(absl::StatusCode::kUnauthenticated, Not(HasSubstr("secret"))))
        << wrong;
  }
}

TEST(AccessControl, AChangedFileHoldsForCallsUnderWay) {
  TempFolder folder;
  const std::string path = folder.File("access.json");
  const std::string quota = R"("acme": {"max_sessions": 7}, "lab": {})";
  ASSERT_OK(WriteFileAtomically(path, AccessFile(quota, TokenEntry("a", "acme", "write", "x"))));
  const auto access = AccessControl::Start(path);
  ASSERT_OK(access);
  auto caller = (*access)->Identify("Bearer x");
  ASSERT_OK(caller);
  EXPECT_OK((*access)->Renew(&*caller));

  ASSERT_OK(WriteFileAtomically(path, "{ not json"));
  EXPECT_THAT((*access)->Reload(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_OK((*access)->Renew(&*caller));  // what was holds
  EXPECT_EQ((*access)->QuotasOf("acme").sessions.max_sessions, 7);

  ASSERT_OK(WriteFileAtomically(path, AccessFile(quota, TokenEntry("a", "acme", "read", "x"))));
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (caller->Check(Role::kWrite).ok() && absl::Now() < end) {  // by itself
    absl::SleepFor(absl::Milliseconds(20));
    ASSERT_OK((*access)->Renew(&*caller));
  }
  EXPECT_THAT(caller->Check(Role::kWrite), StatusIs(absl::StatusCode::kPermissionDenied));

  // A token that moved to another tenant is not the one that the call began with.
  ASSERT_OK(WriteFileAtomically(path, AccessFile(quota, TokenEntry("a", "lab", "write", "x"))));
  ASSERT_OK((*access)->Reload());
  EXPECT_THAT((*access)->Renew(&*caller), StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("withdrawn")));
  ASSERT_OK(WriteFileAtomically(path, AccessFile(quota, "")));
  ASSERT_OK((*access)->Reload());
  EXPECT_THAT((*access)->Identify("Bearer x"), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST(AccessControl, AMissingFileIsNamed) {
  EXPECT_THAT(AccessControl::Start("/nowhere/access.json"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/access.json")));
}

TEST(TenantMeter, ARateIsKeptHoweverItIsSpent) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  TenantMeter meter;
  const int64_t rate = 1000;
  const absl::Time begin = absl::FromUnixSeconds(1000);
  absl::Time now = begin;
  int64_t spent = 0;
  while (now - begin < absl::Seconds(1000)) {
    const absl::Duration wait = meter.WaitTime(rate, now);
    if (wait > absl::ZeroDuration()) {
      now += wait;
      continue;
    }
    const int64_t tokens = static_cast<int64_t>(random() % 5000);
    meter.Spend(tokens);
    spent += tokens;
    now += absl::Milliseconds(random() % 300);
  }
  // What is under way at the end, and what was saved up, are on top.
  EXPECT_LE(spent, 1000 * rate + 5000 + rate);
  EXPECT_GE(spent, 1000 * rate * 0.9);
}

TEST(TenantMeter, NoRateNoWait) {
  TenantMeter meter;
  const absl::Time now = absl::FromUnixSeconds(1000);
  meter.Spend(1 << 30);
  EXPECT_EQ(meter.WaitTime(std::numeric_limits<int64_t>::max(), now), absl::ZeroDuration());
  EXPECT_EQ(meter.WaitTime(10, now), absl::ZeroDuration());  // a limit set meanwhile forgives what was before
  EXPECT_EQ(meter.WaitTime(0, now), absl::InfiniteDuration());
}

TEST(AuditLog, RecordsAreLinesOfJsonAndTheFileMayBeMovedAway) {
  TempFolder folder;
  const std::string path = folder.File("audit.jsonl");
  auto log = AuditLog::Open(path);
  ASSERT_OK(log);
  const absl::Time time = absl::FromUnixMillis(1769860800123);
  AuditRecord record = {.time = time,
                        .token = "a\"b",
                        .tenant = "acme",
                        .peer = "ipv4:1.2.3.4:5",
                        .method = "Reset",
                        .session = "line\nbreak",
                        .code = absl::StatusCode::kNotFound,
                        .duration = absl::Milliseconds(4)};
  (*log)->Add(record);
  (*log)->Flush();
  std::filesystem::rename(path, path + ".1");
  absl::SleepFor(absl::Milliseconds(1100));  // it looks every second
  (*log)->Add(record);
  (*log)->Flush();
  for (const std::string& one : {path, path + ".1"}) {
    const auto text = ReadFile(one);
    ASSERT_OK(text);
    EXPECT_EQ(std::count(text->begin(), text->end(), '\n'), 1) << *text;
    const nlohmann::json parsed = nlohmann::json::parse(*text);
    EXPECT_EQ(parsed["session"], "line\nbreak");
    EXPECT_EQ(parsed["code"], "NOT_FOUND");
    EXPECT_EQ(parsed["seconds"], 0.004);
  }
  // What waits is written at the end.
  for (int i = 0; i < 100; ++i) (*log)->Add(record);
  *log = nullptr;
  const auto text = ReadFile(path);
  ASSERT_OK(text);
  EXPECT_EQ(std::count(text->begin(), text->end(), '\n'), 101);
  EXPECT_THAT(AuditLog::Open("/nowhere/audit"), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("/nowhere/audit")));
}

}  // namespace
}  // namespace mnemosyne
