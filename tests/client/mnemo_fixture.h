// mnemo as its user sees it, against the fake service.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/reflection.h"
#include "client/command_line.h"
#include "client/commands.h"
#include "client/error_text.h"
#include "tests/client/fake_memory_service.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne::client {

inline absl::StatusOr<CommandLine> Parse(const std::vector<std::string>& arguments) {
  absl::FlagSaver saver;
  return ParseCommandLine(arguments);
}

class MnemoTest : public testing::Test {
 protected:
  // Runs a command; out() and err() are what it printed, main()'s error line included. With `interrupt_when`, its input
  // does not end, and SIGINT comes when that is true of the server.
  int Run(const std::vector<std::string>& arguments, const std::string& typed = "",
          bool (*interrupt_when)(FakeMemoryService*) = nullptr) {
    out_.str("");
    err_.str("");
    absl::StatusOr<CommandLine> line = Parse(arguments);
    EXPECT_OK(line);
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(fake_.target(), {});
    EXPECT_OK(client);
    int input[2];
    EXPECT_EQ(pipe(input), 0);
    EXPECT_EQ(write(input[1], typed.data(), typed.size()), typed.size());
    if (interrupt_when == nullptr) close(input[1]);
    absl::Status status;
    {
      Interrupt interrupt;
      std::thread interrupts;
      if (interrupt_when != nullptr) {
        interrupts = std::thread([&] {
          fake_.service.mutex.LockWhen(absl::Condition(interrupt_when, &fake_.service));
          fake_.service.mutex.Unlock();
          kill(getpid(), SIGINT);
        });
      }
      status = RunCommand(*line, client->get(), &interrupt, {.out = out_, .err = err_, .input = input[0]});
      if (interrupts.joinable()) interrupts.join();
    }
    if (interrupt_when != nullptr) close(input[1]);
    close(input[0]);
    if (!status.ok()) err_ << "mnemo: " << ErrorText(*line, status);
    return ExitCodeOf(status);
  }

  std::string Write(const std::string& text) {
    const std::string path = folder_.File("input.txt");
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  std::string Content(const std::string& id) {
    absl::MutexLock lock(&fake_.service.mutex);
    return fake_.service.sessions[id].content;
  }

  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }

  FakeServer fake_;
  TempFolder folder_;
  std::ostringstream out_, err_;
};

}  // namespace mnemosyne::client
