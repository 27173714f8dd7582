#include "client/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mnemosyne::client {
namespace {

std::atomic<int> signal_pipe{-1};

void OnSignal(int) {
  const int saved = errno;
  const char byte = 1;
  [[maybe_unused]] ssize_t written = write(signal_pipe.load(), &byte, 1);
  errno = saved;
}

void MakePipe(int* pipe) {
  if (pipe2(pipe, O_CLOEXEC | O_NONBLOCK) != 0) {
    std::perror("mnemo: pipe");
    std::abort();
  }
}

bool Readable(int file) {
  pollfd wait = {.fd = file, .events = POLLIN};
  return poll(&wait, 1, 0) > 0;
}

}  // namespace

Interrupt::Interrupt() {
  MakePipe(pipe_);
  MakePipe(stop_pipe_);
  signal_pipe = pipe_[1];
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART | SA_RESETHAND;
  sigaction(SIGINT, &action, nullptr);
  watcher_ = std::thread([this] { Watch(); });
}

Interrupt::~Interrupt() {
  signal(SIGINT, SIG_DFL);
  close(stop_pipe_[1]);
  watcher_.join();
  signal_pipe = -1;
  for (int file : {pipe_[0], pipe_[1], stop_pipe_[0]}) close(file);
}

bool Interrupt::happened() const { return Readable(pipe_[0]); }

void Interrupt::SetAction(std::function<void()> action) {
  absl::MutexLock lock(&mutex_);
  action_ = std::move(action);
  if (happened_ && action_ != nullptr) action_();
}

void Interrupt::Watch() {
  pollfd waits[] = {{.fd = pipe_[0], .events = POLLIN}, {.fd = stop_pipe_[0], .events = POLLIN}};
  while (poll(waits, 2, -1) < 0 && errno == EINTR) {
  }
  absl::MutexLock lock(&mutex_);
  if (waits[0].revents == 0) return;
  happened_ = true;
  if (action_ != nullptr) action_();
}

absl::StatusOr<size_t> Interrupt::Read(int file, absl::Span<char> buffer) const {
  pollfd waits[] = {{.fd = pipe_[0], .events = POLLIN}, {.fd = file, .events = POLLIN}};
  while (true) {
    if (poll(waits, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return absl::InternalError(absl::StrCat("cannot wait for input: ", strerror(errno)));
    }
    if (waits[0].revents != 0) return absl::CancelledError("interrupted");
    const ssize_t size = read(file, buffer.data(), buffer.size());
    if (size >= 0) return static_cast<size_t>(size);
    if (errno != EINTR && errno != EAGAIN) {
      return absl::InternalError(absl::StrCat("cannot read the input: ", strerror(errno)));
    }
  }
}

}  // namespace mnemosyne::client
