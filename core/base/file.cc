#include "core/base/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace mnemosyne {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open '", path, "'"));
  std::string bytes;
  char buffer[1 << 16];
  ssize_t got;
  while ((got = read(fd, buffer, sizeof(buffer))) > 0) bytes.append(buffer, got);
  const int read_errno = errno;
  close(fd);
  if (got < 0) return absl::ErrnoToStatus(read_errno, absl::StrCat("cannot read '", path, "'"));
  return bytes;
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes) {
  const std::string beside = absl::StrCat(path, ".new");
  const int fd = open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create '", beside, "'"));
  while (!bytes.empty()) {
    const ssize_t put = write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      const int write_errno = errno;
      close(fd);
      return absl::ErrnoToStatus(write_errno, absl::StrCat("cannot write '", beside, "'"));
    }
    bytes.remove_prefix(put);
  }
  const bool synced = fsync(fd) == 0;
  const int sync_errno = errno;
  if (close(fd) != 0 || !synced) return absl::ErrnoToStatus(sync_errno, absl::StrCat("cannot sync '", beside, "'"));
  if (rename(beside.c_str(), path.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename '", beside, "' to '", path, "'"));
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
