// Many sessions, many streams, clients that do not read, that send as fast as they can, that ask all at once: the
// server's memory stays within what was said, and the others get their turns.
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <random>

#include "absl/time/clock.h"
#include "tests/server/service_fixture.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"
#include "tests/torture/server_process.h"
#include "tests/torture/torture.h"

namespace mnemosyne {
namespace {

constexpr int64_t kMiB = 1 << 20;

std::string Letters(int64_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += static_cast<char>('a' + random() % 26);
  return text;
}

class ResourcesTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* source = std::getenv("MNEMOSYNE_SOURCE_DIR");
    ASSERT_NE(source, nullptr) << "ctest sets MNEMOSYNE_SOURCE_DIR";
    server_ = std::make_unique<ServerProcess>(
        MNEMOSYNED,
        std::vector<std::string>{absl::StrCat("--models=recall=", source, "/models/recall"),
                                 absl::StrCat("--data=", folder_.path(), "/data"), "--max_resident_bytes=1650MiB",
                                 "--max_queries=64"},
        folder_.path() + "/log");
    ASSERT_TRUE(server_->WaitUntilItServes()) << server_->Log();
    for (int i = 0; i < 8; ++i) stubs_.push_back(server_->Connect());  // a connection each
  }
  v1::MemoryService::Stub& stub(int64_t i) { return *stubs_[i % stubs_.size()]; }
  int64_t Resident() const { return server_->MemoryBytes("VmRSS"); }
  void Say(const char* what) const {
    std::printf("%-44s resident %5lld MiB, most so far %5lld MiB\n", what, static_cast<long long>(Resident() / kMiB),
                static_cast<long long>(server_->MemoryBytes("VmHWM") / kMiB));
  }
  static v1::StreamRequest Opening(const std::string& id) { return OpenRequest(id, /*create=*/true); }

  // Appends and waits until all of it is memorized.
  absl::Duration WriteAndWait(TestStream& stream, uint64_t sequence, const std::string& text) {
    const absl::Time begin = absl::Now();
    EXPECT_TRUE(stream.Write(TextRequest(sequence, text)));
    EXPECT_TRUE(stream.Write(FlushRequest()));
    while (true) {
      const v1::StreamResponse response = stream.Read();
      if (!response.has_ack()) {
        ADD_FAILURE() << "the stream ended";
        break;
      }
      if (response.ack().flushed()) break;
    }
    return absl::Now() - begin;
  }

  TempFolder folder_;
  std::unique_ptr<ServerProcess> server_;
  std::vector<std::unique_ptr<v1::MemoryService::Stub>> stubs_;
};

TEST_F(ResourcesTest, ManySessionsManyStreamsAndHostileClientsStayWithinTheBudget) {
  const bool is_long = IsLongForm();
  const int64_t idle = is_long ? 10000 : 200, streams = is_long ? 1000 : 60, queries = is_long ? 1000 : 200;
  Say("started");
  const int64_t base = Resident();

  std::vector<std::thread> threads;
  std::atomic<int64_t> next = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = next++; i < idle; i = next++) {
        grpc::ClientContext context;
        v1::CreateSessionRequest request;
        request.set_session_id(absl::StrCat("idle-", i));
        v1::CreateSessionResponse response;
        EXPECT_OK(FromGrpc(stub(t).CreateSession(&context, request, &response)));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  Say(absl::StrCat(idle, " idle sessions").c_str());

  // Open streams, each with something in its memory.
  std::vector<std::unique_ptr<TestStream>> open;
  for (int64_t i = 0; i < streams; ++i) {
    open.push_back(std::make_unique<TestStream>(stub(i)));
    ASSERT_TRUE(open.back()->Write(Opening(absl::StrCat("open-", i))));
    ASSERT_TRUE(open.back()->Read().has_opened()) << i;
  }
  Say(absl::StrCat(streams, " open streams, nothing memorized").c_str());
  for (int64_t i = 0; i < streams; ++i) ASSERT_TRUE(open[i]->Write(TextRequest(1, Letters(200, i))));
  for (int64_t i = 0; i < streams; ++i) WriteAndWait(*open[i], 2, "x");
  Say(absl::StrCat(streams, " open streams, each with a state").c_str());
  const int64_t before = Resident();

  // One that writes and never reads, and three that write as fast as they are let; the others get their turns.
  std::atomic<bool> stop = false;
  std::atomic<int64_t> sent = 0;
  for (int h = 0; h < 4; ++h) {
    threads.emplace_back([&, h] {
      TestStream hog(stub(h));
      const std::string text = Letters(64 << 10, h);
      hog.Write(Opening(absl::StrCat("hog-", h)));
      std::thread reader;
      if (h > 0) {
        reader = std::thread([&] {
          while (hog.Read().response_case() != v1::StreamResponse::RESPONSE_NOT_SET) {
          }
        });
      }
      std::thread stopper([&] {
        while (!stop) absl::SleepFor(absl::Milliseconds(20));
        hog.TryCancel();
      });
      for (uint64_t sequence = 1; !stop && hog.Write(TextRequest(sequence, text)); ++sequence) sent += text.size();
      stopper.join();
      if (reader.joinable()) reader.join();
    });
  }
  std::vector<double> waits;
  const int64_t turns = is_long ? 400 : 20;
  for (int64_t i = 0; i < turns; ++i) {
    waits.push_back(absl::ToDoubleMilliseconds(WriteAndWait(*open[i % streams], 3 + i / streams, Letters(128, i))));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  std::sort(waits.begin(), waits.end());
  const double median = waits[waits.size() / 2];
  std::printf("waits beside 4 clients that send all they can: median %.0f ms, worst %.0f ms (%.1f times)\n", median,
              waits.back(), waits.back() / median);
  Say(absl::StrCat(sent / kMiB, " MiB sent by them").c_str());
  EXPECT_LT(Resident() - before, 160 * kMiB);
  if (is_long) {
    EXPECT_LT(waits.back(), 10 * median);
  }

  // Questions all at once: as many as there may be are answered, the others are told so.
  std::atomic<int64_t> answered = 0, refused = 0;
  const int64_t before_queries = Resident();
  for (int64_t i = 0; i < queries; ++i) {
    threads.emplace_back([&, i] {
      v1::QueryRequest request;
      request.set_session_id(absl::StrCat("open-", i % streams));
      request.set_text("what?");
      request.set_max_tokens(4);
      const Answer answer = Ask(stub(i), request);
      if (answer.status.ok()) {
        answered += 1;
      } else {
        refused += 1;
        EXPECT_TRUE(absl::IsResourceExhausted(answer.status) || absl::IsUnavailable(answer.status)) << answer.status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("%lld queries at once: %lld answered, %lld refused\n", static_cast<long long>(queries),
              static_cast<long long>(answered), static_cast<long long>(refused));
  EXPECT_GE(answered, 64);
  EXPECT_EQ(answered + refused, queries);
  Say("after the queries");
  EXPECT_LT(Resident() - before_queries, 128 * kMiB);
  // 1,000 streams that have all learned hold 1,000 states of 1.6 MiB.
  EXPECT_LT(server_->MemoryBytes("VmHWM"), 2048 * kMiB);
  EXPECT_GT(base, 0);
}

}  // namespace
}  // namespace mnemosyne
