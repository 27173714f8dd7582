// Nothing that was acknowledged is lost, and nothing is applied twice, whenever the server is killed.
//
// Three clients stream to sessions of their own, and fork, reset, erase, export, import, delete, update and ask, while
// the server gets SIGKILL at random instants: amid all that, while it drains, and while it starts. Each client knows of
// its sessions what was acknowledged, and what was on its way. After every kill the server must have the first, and of
// the second a beginning of the appends, and all or nothing of anything else. Sessions are compared, by the bits of
// their answers' probabilities, with new ones on another server that is never disturbed and gets the same text at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "core/base/checksum.h"
#include "tests/core/model/random_model.h"
#include "tests/temp_folder.h"
#include "tests/torture/server_process.h"
#include "tests/torture/torture.h"

namespace mnemosyne {
namespace {

using Random = std::mt19937_64;
using Stub = v1::MemoryService::Stub;
using grpc::StatusCode;

constexpr int kClients = 3, kSessionsOfAClient = 5, kForksOfASession = 2;
constexpr size_t kLongest = 3000;  // bytes of a session that is then cut short, so that comparing stays quick

enum class What { kNone, kCreate, kFork, kImport, kReset, kErase, kDelete, kUpdate };
constexpr int kQuestion = 8;  // no change
constexpr const char* kWhatNames[] = {"append", "create", "fork", "import", "reset", "erase", "delete", "update"};

// A change that was sent and is not known to have happened.
struct Change {
  What what = What::kNone;
  size_t begin = 0, end = 0;         // of kReset, kErase
  std::string tag;                   // of kUpdate, kCreate, kFork, kImport
  std::string text;                  // of kFork, kImport: what the session has from then on
  uint64_t next_sequence = 1;        // and this
  std::deque<std::string> may_have;  // of kFork: appends to its source that were on their way
};

// What a client knows of a session.
struct Session {
  std::string id;
  bool exists = false, is_trimmed = false;
  std::string text, tag;
  uint64_t next_sequence = 1, epoch = 1;
  std::deque<std::string> sent;  // from next_sequence on, not acknowledged
  Change change;
};

struct Counts {
  std::atomic<int64_t> acknowledged{0}, repeated{0}, in_flight{0}, in_flight_kept{0}, compared{0}, compared_past{0};
  std::atomic<int64_t> questions{0}, refused{0}, changes[8]{}, changes_in_flight[8]{}, changes_in_flight_kept[8]{};
};

// Every append is another, and says whose it is.
std::string Piece(const std::string& id, uint64_t sequence, Random random = Random()) {
  random.seed(Checksum64(absl::StrCat(id, "#", sequence)));
  std::string piece = absl::StrCat("<", id, ":", sequence, ">");
  for (int i = random() % (random() % 4 == 0 ? 400 : 60); i > 0; --i) piece += static_cast<char>(random() % 256);
  return piece;
}

// A call that is not answered is a failure, not the end of the test.
constexpr absl::Duration kPatience = absl::Seconds(60);
struct Context : grpc::ClientContext {
  Context() { set_deadline(absl::ToChronoTime(absl::Now() + kPatience)); }
};

// The server went away, or was going.
bool IsGone(const grpc::Status& status) {
  return status.error_code() == StatusCode::UNAVAILABLE || status.error_code() == StatusCode::CANCELLED ||
         (status.error_code() == StatusCode::UNKNOWN && absl::StrContains(status.error_message(), "Stream removed"));
}

// Too much at once: try again.
bool IsBusy(const grpc::Status& status) {
  return status.error_code() == StatusCode::RESOURCE_EXHAUSTED || status.error_code() == StatusCode::ABORTED;
}

struct Answer {
  grpc::Status status;
  std::string tokens, bits;  // and those of their probabilities
  bool operator==(const Answer& other) const { return tokens == other.tokens && bits == other.bits; }
};

Answer Ask(Stub& stub, const std::string& id, std::optional<int64_t> as_of_offset = std::nullopt) {
  Answer answer;
  const absl::Time deadline = absl::Now() + kPatience;
  do {
    if (!answer.status.ok()) absl::SleepFor(absl::Milliseconds(2));
    Context context;
    v1::QueryRequest request;
    request.set_session_id(id);
    request.set_text("and then?");
    request.set_max_tokens(6);
    if (as_of_offset) request.set_as_of_offset(*as_of_offset);
    answer.tokens.clear();
    answer.bits.clear();
    const auto reader = stub.Query(&context, request);
    for (v1::QueryResponse response; reader->Read(&response);) {
      for (const int32_t token : response.delta().token_ids()) absl::StrAppend(&answer.tokens, token, " ");
      for (const float one : response.delta().log_probabilities()) {
        uint32_t bits = 0;
        std::memcpy(&bits, &one, sizeof(bits));
        absl::StrAppend(&answer.bits, absl::Hex(bits), " ");
      }
    }
    answer.status = reader->Finish();
  } while (IsBusy(answer.status) && absl::Now() < deadline);
  return answer;
}

class KillTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* given = std::getenv("MNEMOSYNE_TEST_SEED");
    seed_ = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::printf("seed %llu (repeat with MNEMOSYNE_TEST_SEED)\n", static_cast<unsigned long long>(seed_));
    WriteRandomModel(folder_.File("model"), SmallConfig(), 7);
    undisturbed_ = Start("undisturbed", {});
    ASSERT_TRUE(undisturbed_->WaitUntilItServes()) << undisturbed_->Log();
    undisturbed_stub_ = undisturbed_->Connect();
    Context context;
    v1::ListModelsResponse models;
    ASSERT_TRUE(undisturbed_stub_->ListModels(&context, {}, &models).ok());
    // Each client pins a session or two; the others that are used are evicted in turn, and written when they changed.
    flags_ = {"--snapshot_every_tokens=64", absl::StrCat("--max_resident_bytes=", 10 * models.models(0).state_bytes()),
              "--workers=2"};
    for (int client = 0; client < kClients; ++client) {
      for (int i = 0; i < kSessionsOfAClient; ++i) {
        Session session = {.id = absl::StrCat("c", client, "s", i), .is_trimmed = i == 0};
        clients_[client].push_back(session);
        for (int fork = 0; fork < kForksOfASession; ++fork) {
          clients_[client].push_back({.id = absl::StrCat(session.id, "f", fork)});
        }
      }
    }
  }

  std::unique_ptr<ServerProcess> Start(const std::string& name, std::vector<std::string> flags) const {
    flags.push_back("--models=small=" + folder_.File("model"));
    flags.push_back("--data=" + folder_.File(name));
    return std::make_unique<ServerProcess>(MNEMOSYNED, flags, folder_.File(name + ".log"));
  }

  // ---- What a client knows

  // The server said how the session is, after a kill or an answer: takes what was on its way as it turned out.
  void Settle(Session& session, const v1::Session& info, bool has_happened) {
    SCOPED_TRACE(absl::StrCat("session ", session.id, ": ", info.ShortDebugString()));
    const Change change = std::exchange(session.change, {});
    const bool makes_anew = change.what == What::kCreate || change.what == What::kFork || change.what == What::kImport;
    bool happened = has_happened;
    if (!session.exists) {
      ASSERT_TRUE(makes_anew) << "it was never made, or deleted";
      happened = true;
      session.exists = true;
      session.epoch = info.epoch();
      session.text = change.text;
      session.tag = change.tag;
      session.next_sequence = change.next_sequence;
      // Its sequence numbers go on behind all that the source had accepted, whether it came in time or not.
      if (change.what == What::kFork) {
        for (size_t i = 0; session.text.size() < info.watermarks().accepted() && i < change.may_have.size(); ++i) {
          session.text += change.may_have[i];
        }
        ASSERT_GE(info.next_sequence(), session.next_sequence);
        ASSERT_LE(info.next_sequence(), session.next_sequence + change.may_have.size());
        session.next_sequence = info.next_sequence();
      }
    }
    ASSERT_GE(info.next_sequence(), session.next_sequence) << "acknowledged appends are missing";
    const uint64_t kept = info.next_sequence() - session.next_sequence;
    ASSERT_LE(kept, session.sent.size()) << "there are appends that were never sent";
    counts_.in_flight += session.sent.size();
    counts_.in_flight_kept += kept;
    for (uint64_t i = 0; i < kept; ++i) session.text += session.sent[i];
    session.sent.clear();
    session.next_sequence = info.next_sequence();
    if (info.epoch() != session.epoch) {
      ASSERT_EQ(info.epoch(), session.epoch + 1);
      ASSERT_TRUE(change.what == What::kReset || change.what == What::kErase) << "it is in another epoch";
      happened = true;
      session.epoch += 1;
      if (change.what == What::kReset) session.text.resize(change.begin);
      if (change.what == What::kErase) session.text.erase(change.begin, change.end - change.begin);
    } else {
      ASSERT_FALSE(has_happened && (change.what == What::kReset || change.what == What::kErase));
    }
    const auto label = info.labels().find("tag");
    const std::string tag = label == info.labels().end() ? "" : label->second;
    if (change.what == What::kUpdate && (has_happened || tag != session.tag)) {
      happened = true;
      session.tag = change.tag;
    }
    ASSERT_EQ(tag, session.tag);
    ASSERT_EQ(info.watermarks().accepted(), session.text.size());
    CountChange(change, has_happened, happened);
  }
  void SettleGone(Session& session) {
    const Change change = std::exchange(session.change, {});
    ASSERT_TRUE(!session.exists || change.what == What::kDelete) << "session " << session.id << " is gone";
    CountChange(change, false, change.what == What::kDelete);
    session = {.id = session.id, .is_trimmed = session.is_trimmed};
  }
  void CountChange(const Change& change, bool acknowledged, bool happened) {
    const int what = static_cast<int>(change.what);
    if (change.what == What::kNone) return;
    counts_.changes[what] += acknowledged;
    counts_.changes_in_flight[what] += !acknowledged;
    counts_.changes_in_flight_kept[what] += !acknowledged && happened;
  }

  // Asks the server how the session is, once nothing is on its way to the disk. False: the server is gone, the next
  // one tells.
  bool LookAgain(Stub& stub, Session& session) {
    for (const absl::Time deadline = absl::Now() + kPatience; absl::Now() < deadline;) {
      Context context;
      v1::GetSessionRequest request;
      v1::GetSessionResponse response;
      request.set_session_id(session.id);
      const grpc::Status status = stub.GetSession(&context, request, &response);
      if (status.ok() && response.session().watermarks().durable() == response.session().watermarks().accepted()) {
        Settle(session, response.session(), false);
        return true;
      }
      if (status.error_code() == StatusCode::NOT_FOUND) {
        SettleGone(session);
        return true;
      }
      if (IsGone(status)) return false;
      EXPECT_TRUE(status.ok() || IsBusy(status)) << status.error_code() << " " << status.error_message();
      if (HasFailure()) return false;
      absl::SleepFor(absl::Milliseconds(1));
    }
    ADD_FAILURE() << session.id << " is not told of, or never durable";
    return false;
  }

  // ---- What a client does

  // Sends some appends, and `amid` them something else; false: which ends the stream.
  void Append(Stub& stub, Session& session, int count, Random& random, const std::function<bool()>& amid) {
    Context context;
    const auto stream = stub.Stream(&context);
    v1::StreamRequest request;
    request.mutable_open()->set_session_id(session.id);
    request.mutable_open()->set_create_if_missing(true);
    request.mutable_open()->set_take_over(true);  // from this client's own, before the server noticed its end
    (*request.mutable_open()->mutable_labels())["tag"] = "streamed";
    if (session.is_trimmed) request.mutable_open()->mutable_settings()->set_retention(v1::RETENTION_TRIM);
    if (!session.exists) session.change = {.what = What::kCreate, .tag = "streamed"};
    v1::StreamResponse response;
    stream->Write(request);
    const bool is_open = stream->Read(&response);
    if (is_open) {
      Settle(session, response.opened().session(), !session.exists);
      if (HasFailure()) return;
      // What was acknowledged before, once more: nothing comes of it.
      if (session.next_sequence > 1 && random() % 3 == 0) {
        const uint64_t again = session.next_sequence - 1;
        Send(*stream, again, Piece(session.id, again));
        counts_.repeated += 1;
      }
      for (int i = 0; i < count; ++i) {
        const uint64_t sequence = session.next_sequence + session.sent.size();
        session.sent.push_back(Piece(session.id, sequence));
        if (!Send(*stream, sequence, session.sent.back())) break;
        if (i == count / 2 && !amid()) break;
      }
      stream->WritesDone();
      while (stream->Read(&response)) {
        for (; session.next_sequence <= response.ack().durable_sequence() && !session.sent.empty();
             session.next_sequence += 1) {
          session.text += session.sent.front();
          session.sent.pop_front();
          counts_.acknowledged += 1;
        }
      }
    }
    const grpc::Status status = stream->Finish();
    if (status.ok()) {
      EXPECT_TRUE(session.sent.empty()) << session.id << ": the stream ended well and not all is durable";
    } else if (IsBusy(status) || status.error_code() == StatusCode::NOT_FOUND) {
      counts_.refused += 1;
    } else {
      EXPECT_TRUE(IsGone(status)) << session.id << ": " << status.error_code() << " " << status.error_message();
    }
    if (!status.ok() || session.change.what != What::kNone) LookAgain(stub, session);
  }
  template <typename Stream>
  static bool Send(Stream& stream, uint64_t sequence, const std::string& piece) {
    v1::StreamRequest request;
    request.mutable_append()->set_sequence(sequence);
    request.mutable_append()->set_text(piece);
    return stream.Write(request);
  }

  // Calls a method that changes a session.
  template <typename Method, typename Request, typename Response>
  void Call(Stub& stub, Method method, const Request& request, Response response, Session& session, Change change) {
    session.change = std::move(change);
    last_sent_ = session.change.what;
    Context context;
    const grpc::Status status = (stub.*method)(&context, request, &response);
    if (status.ok()) {
      if constexpr (std::is_same_v<Response, v1::DeleteSessionResponse>) {
        CountChange(session.change, true, true);
        session = {.id = session.id, .is_trimmed = session.is_trimmed};
      } else if (session.change.what == What::kUpdate) {  // appends may still be on their way
        CountChange(session.change, true, true);
        session.tag = std::exchange(session.change, {}).tag;
      } else {
        Settle(session, response.session(), true);
      }
      return;
    }
    const bool is_before_log = session.is_trimmed && status.error_code() == StatusCode::FAILED_PRECONDITION;
    EXPECT_TRUE(IsGone(status) || IsBusy(status) || is_before_log)
        << session.id << ": " << status.error_code() << " " << status.error_message();
    if (IsGone(status)) return;
    counts_.refused += 1;
    // Without room for the session's state, a change that happened may find none to tell of it.
    if (status.error_code() != StatusCode::RESOURCE_EXHAUSTED) session.change = {};
    if (session.sent.empty()) LookAgain(stub, session);
  }

  void Reset(Stub& stub, Session& session, size_t offset) {
    v1::ResetRequest request;
    request.set_session_id(session.id);
    request.set_offset(offset);
    Call(stub, &Stub::Reset, request, v1::ResetResponse(), session, {.what = What::kReset, .begin = offset});
  }
  void Erase(Stub& stub, Session& session, Random& random) {
    if (session.text.empty()) return;
    const size_t begin = random() % session.text.size(), end = begin + 1 + random() % (session.text.size() - begin);
    v1::EraseSpanRequest request;
    request.set_session_id(session.id);
    request.set_begin_offset(begin);
    request.set_end_offset(end);
    Call(stub, &Stub::EraseSpan, request, v1::EraseSpanResponse(), session,
         {.what = What::kErase, .begin = begin, .end = end});
  }
  void Delete(Stub& stub, Session& session) {
    v1::DeleteSessionRequest request;
    request.set_session_id(session.id);
    Call(stub, &Stub::DeleteSession, request, v1::DeleteSessionResponse(), session, {.what = What::kDelete});
  }
  void Update(Stub& stub, Session& session, Random& random) {
    const std::string tag = absl::StrCat(random());
    v1::UpdateSessionRequest request;
    request.set_session_id(session.id);
    request.mutable_update_mask()->add_paths("labels");
    (*request.mutable_labels())["tag"] = tag;
    Call(stub, &Stub::UpdateSession, request, v1::UpdateSessionResponse(), session,
         {.what = What::kUpdate, .tag = tag});
  }
  void Fork(Stub& stub, const Session& session, Session& fork, Random& random) {
    Change change = {.what = What::kFork, .tag = session.tag, .text = session.text};
    change.next_sequence = session.next_sequence;
    v1::ForkSessionRequest request;
    request.set_session_id(session.id);
    request.set_fork_id(fork.id);
    if (random() % 2 == 0 && session.sent.empty()) {
      change.text.resize(random() % (session.text.size() + 1));
      request.set_offset(change.text.size());
    } else {
      change.may_have = session.sent;
    }
    fork.is_trimmed = session.is_trimmed;
    Call(stub, &Stub::ForkSession, request, v1::ForkSessionResponse(), fork, std::move(change));
  }
  void CopyByExport(Stub& stub, const Session& session, Session& copy) {
    std::vector<std::string> parts;
    {
      Context context;
      v1::ExportSessionRequest request;
      request.set_session_id(session.id);
      const auto reader = stub.ExportSession(&context, request);
      for (v1::ExportSessionResponse response; reader->Read(&response);) parts.push_back(response.data());
      const grpc::Status status = reader->Finish();
      EXPECT_TRUE(status.ok() || IsGone(status) || IsBusy(status))
          << status.error_code() << " " << status.error_message();
      if (!status.ok()) return;
    }
    copy.is_trimmed = session.is_trimmed;
    copy.change = {.what = What::kImport, .tag = session.tag, .text = session.text};
    copy.change.next_sequence = session.next_sequence;
    last_sent_ = What::kImport;
    Context context;
    v1::ImportSessionResponse response;
    const auto writer = stub.ImportSession(&context, &response);
    v1::ImportSessionRequest request;
    request.set_session_id(copy.id);
    for (const std::string& part : parts) {
      request.set_data(part);
      if (!writer->Write(request)) break;
      request.clear_session_id();
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    if (status.ok()) return Settle(copy, response.session(), true);
    EXPECT_TRUE(IsGone(status) || IsBusy(status)) << status.error_code() << " " << status.error_message();
    if (IsGone(status)) return;
    LookAgain(stub, copy);
  }

  // What this server is to be killed by comes more often.
  void Client(Stub& stub, std::vector<Session>& sessions, What favourite, uint64_t seed) {
    Random random(seed);
    while (!stopping_ && !HasFailure()) {
      Session* session = &sessions[random() % sessions.size()];
      if (session->change.what != What::kNone || !session->sent.empty()) return;  // the server is gone
      const bool is_fork = absl::StrContains(session->id, 'f');
      if (!session->exists) {
        if (!is_fork) Append(stub, *session, 1 + random() % 10, random, [] { return true; });
        continue;
      }
      What what = random() % 3 == 0 ? favourite : static_cast<What>(random() % (kQuestion + 5));
      if (session->text.size() > kLongest) what = is_fork ? What::kDelete : What::kReset;
      if (what == What::kDelete && !is_fork && random() % 4 != 0) what = What::kUpdate;
      Session* fork = nullptr;
      if (what == What::kFork || what == What::kImport) {
        for (Session& other : sessions) {
          const bool is_its = !is_fork && absl::StartsWith(other.id, session->id + "f");
          if (is_its && (fork == nullptr || !other.exists)) fork = &other;
        }
        if (fork == nullptr || fork->exists) {  // no room: makes some
          if (fork != nullptr) session = fork;
          what = What::kDelete;
        }
        if (session->change.what != What::kNone || !session->sent.empty()) return;
      }
      const auto act = [&] {
        if (what == What::kFork) Fork(stub, *session, *fork, random);
        if (what == What::kReset) Reset(stub, *session, random() % (session->text.size() + 1));
        if (what == What::kErase) Erase(stub, *session, random);
        if (what == What::kDelete) Delete(stub, *session);
        if (what == What::kUpdate) Update(stub, *session, random);
        return what == What::kFork || what == What::kUpdate;
      };
      if (what == What::kImport) {
        CopyByExport(stub, *session, *fork);
      } else if (static_cast<int>(what) >= kQuestion && random() % 2 == 0) {
        const Answer answer = Ask(stub, session->id);
        EXPECT_TRUE(answer.status.ok() || IsGone(answer.status)) << answer.status.error_message();
        counts_.questions += 1;
      } else if (what <= What::kCreate || static_cast<int>(what) >= kQuestion) {
        Append(stub, *session, 1 + random() % 20, random, [] { return true; });
      } else if (random() % 2 == 0) {
        Append(stub, *session, 2 + random() % 10, random, act);
      } else {
        act();
      }
    }
  }

  // ---- Killing

  std::vector<Session*> AllSessions() {
    std::vector<Session*> all;
    for (std::vector<Session>& sessions : clients_) {
      for (Session& session : sessions) all.push_back(&session);
    }
    return all;
  }

  // The session answers as one that was told the same, at once, where nothing ever happens.
  void Compare(Stub& stub, const Session& session, Random& random) {
    if (!session.exists || HasFailure()) return;
    SCOPED_TRACE(absl::StrCat("session ", session.id, ", ", session.text.size(), " tokens"));
    const std::string id = absl::StrCat("r", ++references_);
    {
      Context context;
      const auto stream = undisturbed_stub_->Stream(&context);
      v1::StreamRequest open;
      open.mutable_open()->set_session_id(id);
      open.mutable_open()->set_create_if_missing(true);
      stream->Write(open);
      if (!session.text.empty()) Send(*stream, 1, session.text);
      stream->WritesDone();
      for (v1::StreamResponse response; stream->Read(&response);) {
      }
      const grpc::Status status = stream->Finish();
      ASSERT_TRUE(status.ok()) << status.error_message();
    }
    const Answer answer = Ask(stub, session.id), want = Ask(*undisturbed_stub_, id);
    ASSERT_TRUE(answer.status.ok() && want.status.ok()) << answer.status.error_message();
    EXPECT_TRUE(answer == want) << "answers " << answer.tokens << answer.bits << "and not " << want.tokens << want.bits;
    counts_.compared += 1;
    const int64_t offset = random() % (session.text.size() + 1);
    const Answer past = Ask(stub, session.id, offset);
    if (session.is_trimmed && past.status.error_code() == StatusCode::FAILED_PRECONDITION) return;
    ASSERT_TRUE(past.status.ok()) << past.status.error_message();
    EXPECT_TRUE(past == Ask(*undisturbed_stub_, id, offset)) << "answers otherwise as of " << offset;
    counts_.compared_past += 1;
  }

  // A server on the folder of the killed ones, that has all that it must. Null: it does not serve.
  std::unique_ptr<ServerProcess> Recover(std::unique_ptr<Stub>* stub, Random& random) {
    std::vector<std::string> flags = flags_;
    // One in two with a backlog of little more than what lies between snapshots: who goes back far reads on in the log.
    if (random() % 2 == 0) flags.push_back("--max_backlog_tokens=100");
    auto server = Start("data", flags);
    EXPECT_TRUE(server->WaitUntilItServes()) << server->Log();
    if (HasFailure()) return nullptr;
    *stub = server->Connect();
    for (Session* session : AllSessions()) EXPECT_TRUE(LookAgain(**stub, *session)) << session->id;
    return server;
  }

  void CompareAll(Stub& stub, Random& random) {
    for (const Session* session : AllSessions()) Compare(stub, *session, random);
  }

  // Kills one server in the phase; returns whether it was still alive.
  bool KillOne(const std::string& phase, bool compares_all, Random& random) {
    const auto sleep = [&](int64_t most_ms) { absl::SleepFor(absl::Microseconds(random() % (1000 * most_ms))); };
    if (phase == "starting") {
      const auto server = Start("data", flags_);
      sleep(150);
      const bool killed = server->Kill();
      EXPECT_TRUE(killed) << server->Log();
      return killed;
    }
    std::unique_ptr<Stub> stub;
    const auto server = Recover(&stub, random);
    if (HasFailure()) return false;
    if (compares_all) CompareAll(*stub, random);
    for (int i = 0; i < 2; ++i) Compare(*stub, *AllSessions()[random() % AllSessions().size()], random);

    What favourite = phase == "asking" ? static_cast<What>(kQuestion) : What::kNone;
    for (int what = 1; what < kQuestion; ++what) {
      if (phase == kWhatNames[what]) favourite = static_cast<What>(what);
    }
    last_sent_ = What::kNone;
    stopping_ = false;
    std::vector<std::thread> clients;
    for (std::vector<Session>& sessions : clients_) {
      clients.emplace_back([&, seed = random()] { Client(*stub, sessions, favourite, seed); });
    }
    const bool is_change = favourite != What::kNone && phase != "asking";
    if (is_change) {
      sleep(200);
      last_sent_ = What::kNone;
      const absl::Time deadline = absl::Now() + absl::Seconds(5);
      while (last_sent_ != favourite && absl::Now() < deadline && !HasFailure()) {
        absl::SleepFor(absl::Microseconds(100));
      }
      sleep(random() % 2 == 0 ? 2 : 20);
    } else {
      sleep(400);
    }
    if (phase == "draining") {
      server->Signal(SIGTERM);
      sleep(60);
    }
    const bool killed = server->Kill();
    stopping_ = true;
    for (std::thread& client : clients) client.join();
    return killed;
  }

  TempFolder folder_;
  uint64_t seed_ = 0;
  std::vector<std::string> flags_;
  std::unique_ptr<ServerProcess> undisturbed_;
  std::unique_ptr<Stub> undisturbed_stub_;
  int64_t references_ = 0;  // sessions there
  std::vector<Session> clients_[kClients];
  std::atomic<bool> stopping_{false};
  std::atomic<What> last_sent_{What::kNone};
  Counts counts_;
};

TEST_F(KillTest, LosesNothingThatWasAcknowledgedAndAppliesNothingTwice) {
  Random random(seed_);
  std::vector<std::string> phases = {"streaming", "asking", "fork",   "import",   "reset",
                                     "erase",     "delete", "update", "draining", "starting"};
  std::map<std::string, int> kills;
  const int64_t cases = Cases(10, 200);
  int64_t done = 0, attempts = 0;
  for (; done < cases && !HasFailure(); ++attempts) {
    if (attempts % phases.size() == 0) std::shuffle(phases.begin(), phases.end(), random);
    const std::string& phase = phases[attempts % phases.size()];
    SCOPED_TRACE(absl::StrCat("kill ", done + 1, ", ", phase, ", seed ", seed_));
    const bool killed = KillOne(phase, attempts % 10 == 9, random);
    done += killed;
    kills[phase] += killed;
    if (killed && done % 50 == 0) {
      std::printf("%lld kills\n", static_cast<long long>(done));
      std::fflush(stdout);
    }
  }
  ASSERT_FALSE(HasFailure());
  std::unique_ptr<Stub> stub;
  auto server = Recover(&stub, random);
  ASSERT_FALSE(HasFailure());
  CompareAll(*stub, random);
  server->Signal(SIGTERM);
  for (int i = 0; i < 30000 && server->IsRunning(); ++i) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(server->EndedWell()) << server->Log();
  server = Recover(&stub, random);  // from what the drain wrote
  ASSERT_FALSE(HasFailure());
  CompareAll(*stub, random);

  const auto count = [](const std::atomic<int64_t>& one) { return static_cast<long long>(one.load()); };
  std::printf("%lld kills, in %lld runs\n", static_cast<long long>(done), static_cast<long long>(attempts));
  for (const auto& [phase, killed] : kills) std::printf("  %-10s %4d\n", phase.c_str(), killed);
  std::printf(
      "%lld appends acknowledged, %lld of them sent again; %lld never answered, or their stream refused, of which %lld "
      "stayed\n",
      count(counts_.acknowledged), count(counts_.repeated), count(counts_.in_flight), count(counts_.in_flight_kept));
  for (int what = 1; what < kQuestion; ++what) {
    std::printf("  %-10s %4lld acknowledged, %3lld never answered or refused, of which %lld happened\n",
                kWhatNames[what], count(counts_.changes[what]), count(counts_.changes_in_flight[what]),
                count(counts_.changes_in_flight_kept[what]));
  }
  std::printf("%lld questions, %lld calls refused; %lld sessions compared, %lld of them at an earlier offset too\n",
              count(counts_.questions), count(counts_.refused), count(counts_.compared), count(counts_.compared_past));
}

}  // namespace
}  // namespace mnemosyne
