// A server over an engine that does what the test says, and a client of it.
#pragma once

#include <memory>

#include "tests/server/fake_engine.h"
#include "tests/server/service_fixture.h"
#include "tests/status_matchers.h"

namespace mnemosyne {

class FakeEngineTest : public testing::Test {
 protected:
  FakeEngineTest() {
    absl::StatusOr<std::unique_ptr<Server>> server =
        Server::Start({.listen = "127.0.0.1:0", .metrics_address = ""}, engine_);
    EXPECT_OK(server);
    server_ = *std::move(server);
    stub_ = StubFor(server_->port());
    engine_.AddSession("book");
  }

  FakeEngine engine_;  // has a session "book"
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::MemoryService::Stub> stub_;
};

}  // namespace mnemosyne
