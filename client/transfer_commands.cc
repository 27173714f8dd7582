// mnemo's commands that move sessions whole: export, import, backup.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/json_output.h"
#include "client/progress_bar.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

constexpr size_t kReadBytes = size_t{256} << 10;

// A file that appears whole, under its name, at Commit; destroyed before, it leaves nothing.
class NewFile {
 public:
  static absl::StatusOr<std::unique_ptr<NewFile>> Create(const std::string& path) {
    std::string part = path + ".XXXXXX";
    const int file = mkostemp(part.data(), O_CLOEXEC);
    if (file < 0) return absl::InvalidArgumentError(absl::StrCat("cannot write '", path, "': ", strerror(errno)));
    const mode_t mask = umask(0);
    umask(mask);
    fchmod(file, 0666 & ~mask);  // mkostemp's is for the user alone
    return std::unique_ptr<NewFile>(new NewFile(path, std::move(part), file));
  }
  ~NewFile() {
    if (file_ < 0) return;
    close(file_);
    unlink(part_.c_str());
  }

  absl::Status Write(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(file_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return Failed();
      bytes.remove_prefix(written);
    }
    return absl::OkStatus();
  }
  absl::Status Commit() {
    if (fsync(file_) != 0 || rename(part_.c_str(), path_.c_str()) != 0) return Failed();
    close(std::exchange(file_, -1));
    return absl::OkStatus();
  }

 private:
  NewFile(std::string path, std::string part, int file) : path_(std::move(path)), part_(std::move(part)), file_(file) {}
  absl::Status Failed() const {
    return absl::InvalidArgumentError(absl::StrCat("cannot write '", path_, "': ", strerror(errno)));
  }

  const std::string path_, part_;
  int file_;
};

absl::Status RunExport(const CommandLine& line, Client* client, const Terminal& terminal) {
  const std::string& id = line.arguments[0];
  const std::string path = line.arguments.size() > 1 ? line.arguments[1] : "-";
  if (path == "-") {
    if (terminal.out_is_terminal) {
      return absl::InvalidArgumentError("an export is no text for a terminal: name a file, or send it on");
    }
    RETURN_IF_ERROR(client->ExportSession(id, [&](absl::string_view bytes) {
      terminal.out << bytes;
      return terminal.out ? absl::OkStatus() : absl::InvalidArgumentError("standard output takes no more");
    }));
    return terminal.out.flush() ? absl::OkStatus() : absl::InvalidArgumentError("standard output takes no more");
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<NewFile> file, NewFile::Create(path));
  int64_t written_bytes = 0;
  RETURN_IF_ERROR(client->ExportSession(id, [&](absl::string_view bytes) {
    written_bytes += static_cast<int64_t>(bytes.size());
    return file->Write(bytes);
  }));
  RETURN_IF_ERROR(file->Commit());
  if (line.json) {
    terminal.out << ExportedJson(id, path, written_bytes) << "\n";
  } else {
    terminal.out << "exported '" << id << "' to '" << path << "': " << FormatBytes(written_bytes) << "\n";
  }
  return absl::OkStatus();
}

absl::Status RunImport(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal) {
  ASSIGN_OR_RETURN(const Input input, OpenInput(line.arguments.empty() ? "-" : line.arguments[0], terminal));
  absl::Cleanup close_input = [&] { CloseInput(input, terminal); };
  std::vector<char> buffer(kReadBytes);
  const auto source = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const size_t size, interrupt->Read(input.file, absl::MakeSpan(buffer)));
    return std::string(buffer.data(), size);
  };
  ASSIGN_OR_RETURN(const SessionInfo session, client->ImportSession(line.session, source));
  PrintSession(line, session, terminal);
  return absl::OkStatus();
}

}  // namespace

absl::Status RunTransfer(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal) {
  if (line.command == "export") return RunExport(line, client, terminal);
  if (line.command == "import") return RunImport(line, client, interrupt, terminal);
  ASSIGN_OR_RETURN(const BackupInfo backup, client->CreateBackup());
  if (line.json) {
    terminal.out << BackupJson(backup) << "\n";
  } else {
    terminal.out << "backup " << backup.backup_id << ": " << FormatBytes(backup.bytes) << ", "
                 << absl::FormatTime(backup.create_time) << "\n";
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::client
