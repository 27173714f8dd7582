// Tenants of one server, apart: real engine, real server, tokens. Every call with every form of another's id.
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "mnemosyne/v1/admin_service.grpc.pb.h"
#include "server/access/access_control.h"
#include "server/conversions.h"
#include "tests/server/end_to_end_fixture.h"

namespace mnemosyne {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr char kAcmeWrite[] = "acme-write-secret", kAcmeRead[] = "acme-read-secret", kLabWrite[] = "lab-write-secret",
               kLabAdmin[] = "lab-admin-secret";

class TokenInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(std::string token) : token_(std::move(token)) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->insert({"authorization", "Bearer " + token_});
    }
    methods->Proceed();
  }

 private:
  const std::string token_;
};

class TokenInterceptors final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptors(std::string token) : token_(std::move(token)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(token_);
  }

 private:
  const std::string token_;
};

class TenantsTest : public EndToEndTest {
 protected:
  void SetUp() override {
    WriteAccess("");
    EndToEndTest::SetUp();  // data folder and models; its server is replaced
    Restart();
  }
  // `acme`: quotas of the tenant acme.
  void WriteAccess(const std::string& acme) {
    const auto entry = [](const std::string& name, const std::string& tenant, const std::string& role,
                          const std::string& token) {
      return absl::StrCat(R"({"name": ")", name, R"(", "tenant": ")", tenant, R"(", "role": ")", role,
                          R"(", "sha256": ")", HexOf(HashToken(token)), R"("})");
    };
    ASSERT_OK(WriteFileAtomically(
        folder_.File("access.json"),
        absl::StrCat(R"({"format": "mnemosyne-access-1", "tenants": {"acme": {)", acme, R"(}, "lab": {}}, "tokens": [)",
                     entry("aw", "acme", "write", kAcmeWrite), ",", entry("ar", "acme", "read", kAcmeRead), ",",
                     entry("lw", "lab", "write", kLabWrite), ",", entry("la", "lab", "admin", kLabAdmin), "]}")));
  }
  void Restart() {
    Stop();
    absl::StatusOr<std::unique_ptr<AccessControl>> access = AccessControl::Start(folder_.File("access.json"));
    ASSERT_OK(access);
    access_ = *std::move(access);
    options_.tenant_limits = [access = access_](absl::string_view tenant) { return access->QuotasOf(tenant).sessions; };
    options_.backup_path = folder_.File("backups");
    absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Start(options_);
    ASSERT_OK(engine);
    engine_ = *std::move(engine);
    absl::StatusOr<std::unique_ptr<Server>> server =
        Server::Start({.listen = "127.0.0.1:0", .metrics_address = "", .audit_log_path = folder_.File("audit.jsonl")},
                      *engine_, access_);
    ASSERT_OK(server);
    server_ = *std::move(server);
  }
  std::shared_ptr<grpc::Channel> Channel(const std::string& token) {
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
    if (!token.empty()) interceptors.push_back(std::make_unique<TokenInterceptors>(token));
    return grpc::experimental::CreateCustomChannelWithInterceptors(
        absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials(), {}, std::move(interceptors));
  }
  std::unique_ptr<v1::MemoryService::Stub> As(const std::string& token) {
    return v1::MemoryService::NewStub(Channel(token));
  }
  static absl::Status Create(v1::MemoryService::Stub& stub, const std::string& id, std::string* made = nullptr) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    v1::CreateSessionResponse response;
    const absl::Status status = FromGrpc(stub.CreateSession(&context, request, &response));
    if (made != nullptr) *made = response.session().session_id();
    return status;
  }
  static std::vector<std::string> Ids(v1::MemoryService::Stub& stub) {
    std::vector<std::string> ids;
    v1::ListSessionsRequest request;
    request.set_page_size(1);
    do {
      grpc::ClientContext context;
      v1::ListSessionsResponse response;
      EXPECT_OK(FromGrpc(stub.ListSessions(&context, request, &response)));
      for (const v1::Session& session : response.sessions()) ids.push_back(session.session_id());
      request.set_page_token(response.next_page_token());
    } while (!request.page_token().empty());
    return ids;
  }
  // The status of every call that names a session, by the call's name; `id` in place of the session's.
  static std::map<std::string, absl::Status> EveryCall(v1::MemoryService::Stub& stub, const std::string& id) {
    std::map<std::string, absl::Status> out;
    const auto unary = [&](const std::string& name, auto call, auto request, auto response) {
      grpc::ClientContext context;
      request.set_session_id(id);
      out[name] = FromGrpc((stub.*call)(&context, request, &response));
    };
    using Stub = v1::MemoryService::Stub;
    unary("GetSession", &Stub::GetSession, v1::GetSessionRequest(), v1::GetSessionResponse());
    v1::UpdateSessionRequest update;
    update.mutable_update_mask()->add_paths("labels");
    unary("UpdateSession", &Stub::UpdateSession, update, v1::UpdateSessionResponse());
    unary("Reset", &Stub::Reset, v1::ResetRequest(), v1::ResetResponse());
    v1::EraseSpanRequest erase;
    erase.set_end_offset(1);
    unary("EraseSpan", &Stub::EraseSpan, erase, v1::EraseSpanResponse());
    unary("ForkSession", &Stub::ForkSession, v1::ForkSessionRequest(), v1::ForkSessionResponse());
    out["ExportSession"] = Exported(stub, id).status();
    v1::QueryRequest query;
    query.set_session_id(id);
    query.set_text("what?");
    query.set_max_tokens(1);
    out["Query"] = Ask(stub, query).status;
    TestStream stream(stub);
    stream.Write(OpenRequest(id));
    stream.WritesDone();
    out["Stream"] = stream.Finish();
    unary("DeleteSession", &Stub::DeleteSession, v1::DeleteSessionRequest(), v1::DeleteSessionResponse());
    return out;
  }
  static absl::Status Tell(v1::MemoryService::Stub& stub, const std::string& id, const std::string& text) {
    TestStream stream(stub);
    stream.Write(OpenRequest(id, /*create=*/true));
    stream.Write(TextRequest(1, text));
    stream.Write(FlushRequest());
    stream.WritesDone();
    return stream.Finish();
  }

  std::shared_ptr<AccessControl> access_;
};

TEST_F(TenantsTest, NoCallWithoutAToken) {
  for (const char* token : {"", "wrong-secret"}) {
    const auto stub = As(token);
    std::map<std::string, absl::Status> calls = EveryCall(*stub, "book");
    calls["CreateSession"] = Create(*stub, "book");
    calls["ImportSession"] = Import(*stub, {ImportRequest("book", "x")}).status();
    grpc::ClientContext list_context, models_context, backup_context;
    v1::ListSessionsResponse sessions;
    calls["ListSessions"] = FromGrpc(stub->ListSessions(&list_context, {}, &sessions));
    v1::ListModelsResponse models;
    calls["ListModels"] = FromGrpc(stub->ListModels(&models_context, {}, &models));
    v1::CreateBackupResponse backup;
    calls["CreateBackup"] =
        FromGrpc(v1::AdminService::NewStub(Channel(token))->CreateBackup(&backup_context, {}, &backup));
    const google::protobuf::DescriptorPool& pool = *google::protobuf::DescriptorPool::generated_pool();
    EXPECT_EQ(calls.size(), static_cast<size_t>(pool.FindServiceByName("mnemosyne.v1.MemoryService")->method_count() +
                                                pool.FindServiceByName("mnemosyne.v1.AdminService")->method_count()))
        << "a call is missing here";
    for (const auto& [name, status] : calls) {
      EXPECT_THAT(status, StatusIs(StatusCode::kUnauthenticated, Not(HasSubstr("wrong-secret")))) << name;
    }
  }
}

TEST_F(TenantsTest, NoCallReachesAnothersSession) {
  const auto acme = As(kAcmeWrite), lab = As(kLabWrite);
  ASSERT_OK(Tell(*acme, "book", "the key is under the third stone"));
  for (const auto& [name, status] : EveryCall(*lab, "book")) {
    EXPECT_THAT(status, StatusIs(StatusCode::kNotFound, Not(HasSubstr("acme")))) << name;
    EXPECT_THAT(status.message(), HasSubstr("'book'")) << name;  // by the name that the caller used
  }
  for (const std::string form :
       {"acme/book", "/book", "lab/../acme/book", "../acme/book", "acme%2Fbook", "acme\\book", "book/"}) {
    for (const auto& [name, status] : EveryCall(*lab, form)) {
      EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument)) << name << " of " << form;
    }
    EXPECT_THAT(Create(*lab, form), StatusIs(StatusCode::kInvalidArgument)) << form;
    EXPECT_THAT(Import(*lab, {ImportRequest(form, "x")}), StatusIs(StatusCode::kInvalidArgument)) << form;
  }
  // It is all there still, and neither its name nor a fork's is taken.
  EXPECT_THAT(Ids(*acme), ElementsAre("book"));
  EXPECT_THAT(Ids(*lab), IsEmpty());
  EXPECT_OK(Create(*lab, "book"));
  EXPECT_THAT(Create(*acme, "book"), StatusIs(StatusCode::kAlreadyExists, HasSubstr("'book'")));
  EXPECT_THAT(Ids(*lab), ElementsAre("book"));
}

TEST_F(TenantsTest, ListsHoldOnesOwnAndTheirTokensAreOnesOwn) {
  const auto acme = As(kAcmeWrite), lab = As(kLabWrite);
  for (const char* id : {"a", "b", "z"}) ASSERT_OK(Create(*acme, id));
  for (const char* id : {"0", "b"}) ASSERT_OK(Create(*lab, id));
  EXPECT_THAT(Ids(*acme), ElementsAre("a", "b", "z"));
  EXPECT_THAT(Ids(*lab), ElementsAre("0", "b"));
  std::string made;
  ASSERT_OK(Create(*lab, "", &made));
  EXPECT_THAT(made, Not(HasSubstr("/")));
  EXPECT_THAT(Ids(*lab), ElementsAre("0", "b", made));
  grpc::ClientContext first, second;
  v1::ListSessionsRequest request;
  request.set_page_size(1);
  v1::ListSessionsResponse response;
  ASSERT_OK(FromGrpc(acme->ListSessions(&first, request, &response)));
  request.set_page_token(response.next_page_token());
  EXPECT_THAT(FromGrpc(lab->ListSessions(&second, request, &response)),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("page_token")));
}

TEST_F(TenantsTest, AnExportSaysNothingOfItsTenantAndGoesWhereItIsImported) {
  const auto acme = As(kAcmeWrite), lab = As(kLabWrite);
  ASSERT_OK(Tell(*acme, "book", "the key is under the third stone, near the wall of the old garden"));
  const auto bytes = Exported(*acme, "book");
  ASSERT_OK(bytes);
  EXPECT_THAT(*bytes, Not(HasSubstr("acme")));
  const auto imported = Import(*lab, {ImportRequest("", *bytes)});
  ASSERT_OK(imported);
  EXPECT_EQ(imported->session_id(), "book");
  EXPECT_THAT(Ids(*lab), ElementsAre("book"));
  EXPECT_THAT(Ids(*acme), ElementsAre("book"));
  const auto again = Exported(*lab, "book");
  ASSERT_OK(again);
  EXPECT_THAT(Import(*lab, {ImportRequest("", *again)}), StatusIs(StatusCode::kAlreadyExists, Not(HasSubstr("lab"))));
}

TEST(SessionOfATenant, SaysNothingOfItsTenant) {
  SessionInfo info;
  info.id = "acme/one";
  info.failure = "session 'acme/one' stopped at 64: the block makes the memory not finite";
  v1::Session session;
  ToProto(info, &session);
  EXPECT_THAT(session.DebugString(), Not(HasSubstr("acme")));
  EXPECT_EQ(session.failure(), "session 'one' stopped at 64: the block makes the memory not finite");
}

TEST_F(TenantsTest, RolesAllowWhatTheySay) {
  const auto writer = As(kAcmeWrite), reader = As(kAcmeRead);
  ASSERT_OK(Tell(*writer, "book", "the key is under the third stone"));
  const std::set<std::string> reads = {"GetSession", "ExportSession", "Query"};
  for (const auto& [name, status] : EveryCall(*reader, "book")) {
    if (reads.contains(name)) {
      EXPECT_OK(status) << name;
    } else {
      EXPECT_THAT(status, StatusIs(StatusCode::kPermissionDenied, HasSubstr("token 'ar'"))) << name;
    }
  }
  v1::QueryRequest remember = Question("book");
  remember.set_remember(true);
  EXPECT_THAT(Ask(*reader, remember).status, StatusIs(StatusCode::kPermissionDenied));
  EXPECT_THAT(Create(*reader, "other"), StatusIs(StatusCode::kPermissionDenied));
  EXPECT_THAT(Import(*reader, {ImportRequest("x", "x")}), StatusIs(StatusCode::kPermissionDenied));
  const auto backup = [&](const char* token) {
    grpc::ClientContext context;
    v1::CreateBackupResponse response;
    return FromGrpc(v1::AdminService::NewStub(Channel(token))->CreateBackup(&context, {}, &response));
  };
  EXPECT_THAT(backup(kAcmeWrite), StatusIs(StatusCode::kPermissionDenied));
  EXPECT_OK(backup(kLabAdmin));
  // An admin's sessions are its tenant's, too.
  EXPECT_THAT(EveryCall(*As(kLabAdmin), "book").at("GetSession"), StatusIs(StatusCode::kNotFound));
}

TEST_F(TenantsTest, QuotasOfSessionsHold) {
  WriteAccess(R"("max_sessions": 2)");
  Restart();
  const auto acme = As(kAcmeWrite), lab = As(kLabWrite);
  EXPECT_OK(Create(*acme, "one"));
  EXPECT_OK(Create(*acme, "two"));
  EXPECT_THAT(Create(*acme, "three"), StatusIs(StatusCode::kResourceExhausted, HasSubstr("has 2 sessions")));
  for (const char* id : {"one", "two", "three"}) EXPECT_OK(Create(*lab, id));
  grpc::ClientContext context;
  v1::DeleteSessionRequest request;
  request.set_session_id("one");
  v1::DeleteSessionResponse response;
  ASSERT_OK(FromGrpc(acme->DeleteSession(&context, request, &response)));
  EXPECT_OK(Create(*acme, "three"));
  Restart();  // counted anew from what is stored
  EXPECT_THAT(Create(*As(kAcmeWrite), "four"), StatusIs(StatusCode::kResourceExhausted));
}

TEST_F(TenantsTest, QuotasOfMemoryEvictOnesOwn) {
  int64_t state_bytes = 0;
  for (const ModelInfo& model : engine_->models()) {
    if (model.name == "bytes") state_bytes = model.state_bytes;
  }
  WriteAccess(absl::StrCat(R"("max_resident_bytes": )", 2 * state_bytes));
  Restart();
  const auto acme = As(kAcmeWrite), lab = As(kLabWrite);
  ASSERT_OK(Create(*lab, "old"));
  for (const char* id : {"one", "two", "three", "four"}) ASSERT_OK(Tell(*acme, id, Story(100)));
  const std::map<std::string, TenantUse> uses = engine_->UseByTenant();
  EXPECT_EQ(uses.at("acme").sessions, 4);
  EXPECT_EQ(uses.at("acme").resident_bytes, 2 * state_bytes);
  EXPECT_EQ(uses.at("lab").resident_bytes, state_bytes);  // used longest ago, and none of theirs
  EXPECT_GT(uses.at("acme").stored_bytes, 400);
  // Two writers hold all that acme may have.
  TestStream first(*acme), second(*acme), third(*acme);
  first.Write(OpenRequest("one"));
  second.Write(OpenRequest("two"));
  ASSERT_TRUE(first.Read().has_opened());
  ASSERT_TRUE(second.Read().has_opened());
  third.Write(OpenRequest("three"));
  EXPECT_THAT(third.Finish(), StatusIs(StatusCode::kResourceExhausted, HasSubstr("max_resident_bytes of the tenant")));
  EXPECT_NE(third.TrailingMetadata("retry-after-ms"), "");
}

TEST_F(TenantsTest, AQuotaOfQueriesHolds) {
  WriteAccess(R"("max_queries": 0)");
  Restart();
  const auto acme = As(kAcmeWrite), lab = As(kLabWrite);
  ASSERT_OK(Tell(*acme, "book", Story(100)));
  ASSERT_OK(Tell(*lab, "book", Story(100)));
  EXPECT_THAT(Ask(*acme, Question("book")).status, StatusIs(StatusCode::kResourceExhausted, HasSubstr("max_queries")));
  EXPECT_OK(Ask(*lab, Question("book")).status);
  WriteAccess(R"("max_queries": 1)");
  ASSERT_OK(access_->Reload());
  for (int i = 0; i < 3; ++i) EXPECT_OK(Ask(*acme, Question("book")).status);  // each gives its place back
}

TEST_F(TenantsTest, ATenantAboveItsRateIsSlowedAndThenRefused) {
  WriteAccess(R"("max_tokens_per_second": 1000)");
  Restart();
  const auto acme = As(kAcmeWrite);
  const absl::Time begin = absl::Now();
  TestStream stream(*acme);
  stream.Write(OpenRequest("book", /*create=*/true));
  ASSERT_TRUE(stream.Read().has_opened());
  for (uint64_t sequence = 1; sequence <= 9; ++sequence) stream.Write(TextRequest(sequence, Story(500)));
  stream.WritesDone();
  EXPECT_OK(stream.Finish());
  // 4,500 tokens: the last append's are not waited for, and a second's worth may be saved up.
  EXPECT_GE(absl::Now() - begin, absl::Seconds(2.9));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(60));

  WriteAccess(R"("max_tokens_per_second": 1)");
  ASSERT_OK(access_->Reload());
  EXPECT_THAT(Tell(*acme, "other", "x"), StatusIs(StatusCode::kResourceExhausted, HasSubstr("max_tokens_per_second")));
}

TEST_F(TenantsTest, AStreamWithoutATokenIsRefusedBeforeItSaysAnything) {
  TestStream stream(*As("wrong-secret"));
  EXPECT_THAT(stream.Finish(), StatusIs(StatusCode::kUnauthenticated));  // it has sent no message
}

TEST_F(TenantsTest, AWithdrawnTokensFlushEndsItsStreamToo) {
  const auto acme = As(kAcmeWrite);
  TestStream stream(*acme);
  stream.Write(OpenRequest("book", /*create=*/true));
  ASSERT_TRUE(stream.Read().has_opened());
  ASSERT_OK(WriteFileAtomically(folder_.File("access.json"),
                                R"({"format": "mnemosyne-access-1", "tenants": {"acme": {}}, "tokens": []})"));
  ASSERT_OK(access_->Reload());
  stream.Write(FlushRequest());
  EXPECT_THAT(stream.Finish(), StatusIs(StatusCode::kUnauthenticated, HasSubstr("withdrawn")));
}

TEST_F(TenantsTest, AQuotaOfNoneIsNone) {
  WriteAccess(R"("max_sessions": 0)");
  Restart();
  EXPECT_THAT(Create(*As(kAcmeWrite), "one"), StatusIs(StatusCode::kResourceExhausted, HasSubstr("has 0 sessions")));
  EXPECT_OK(Create(*As(kLabWrite), "one"));
}

TEST_F(TenantsTest, AnImportCountsForWhatItsTenantMayStoreBeforeItIsOver) {
  const auto lab = As(kLabWrite);
  ASSERT_OK(Tell(*lab, "book", Story(4000)));
  const auto bytes = Exported(*lab, "book");
  ASSERT_OK(bytes);
  ASSERT_GT(bytes->size(), 4000u);
  WriteAccess(R"("max_stored_bytes": 3000)");
  Restart();
  const auto acme = As(kAcmeWrite);
  std::vector<v1::ImportSessionRequest> parts;
  for (size_t at = 0; at < bytes->size(); at += 1000) {
    parts.push_back(ImportRequest(at == 0 ? "book" : "", bytes->substr(at, 1000)));
  }
  EXPECT_THAT(Import(*acme, parts), StatusIs(StatusCode::kResourceExhausted, HasSubstr("max_stored_bytes")));
  EXPECT_THAT(Ids(*acme), IsEmpty());
  EXPECT_OK(Import(*As(kLabWrite), {ImportRequest("copy", *bytes)}));
}

TEST_F(TenantsTest, AWithdrawnTokenEndsItsStream) {
  const auto acme = As(kAcmeWrite);
  TestStream stream(*acme);
  stream.Write(OpenRequest("book", /*create=*/true));
  ASSERT_TRUE(stream.Read().has_opened());
  stream.Write(TextRequest(1, "before"));
  ASSERT_TRUE(stream.Read().has_ack());
  ASSERT_OK(WriteFileAtomically(folder_.File("access.json"),
                                R"({"format": "mnemosyne-access-1", "tenants": {"acme": {}}, "tokens": []})"));
  ASSERT_OK(access_->Reload());
  stream.Write(TextRequest(2, "after"));
  EXPECT_THAT(stream.Finish(), StatusIs(StatusCode::kUnauthenticated, HasSubstr("withdrawn")));
}

TEST_F(TenantsTest, TheAuditLogHasEveryCallAndNoContent) {
  ASSERT_OK(Tell(*As(kAcmeWrite), "book", "the key is under the third stone"));
  EXPECT_THAT(EveryCall(*As(kLabWrite), "book").size(), 9u);
  EXPECT_THAT(Create(*As("wrong-secret"), "x"), StatusIs(StatusCode::kUnauthenticated));
  absl::StatusOr<std::string> text;
  for (int i = 0; i < 1000; ++i) {  // it is written by a thread of its own
    text = ReadFile(folder_.File("audit.jsonl"));
    ASSERT_OK(text);
    if (std::count(text->begin(), text->end(), '\n') >= 11) break;
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(std::count(text->begin(), text->end(), '\n'), 11);
  EXPECT_THAT(*text, HasSubstr(R"("token":"aw","tenant":"acme","peer":"ipv4:127.0.0.1:)"));
  EXPECT_THAT(*text, HasSubstr(R"("method":"Stream","session":"book","code":"OK")"));
  EXPECT_THAT(*text, HasSubstr(R"("token":"lw","tenant":"lab",)"));
  EXPECT_THAT(*text, HasSubstr(R"("method":"DeleteSession","session":"book","code":"NOT_FOUND")"));
  EXPECT_THAT(*text, HasSubstr(R"("token":"","tenant":"","peer")"));
  EXPECT_THAT(*text, HasSubstr(R"("code":"UNAUTHENTICATED")"));
  for (const char* secret : {"stone", "what?", "secret"}) EXPECT_THAT(*text, Not(HasSubstr(secret)));
}

}  // namespace
}  // namespace mnemosyne
