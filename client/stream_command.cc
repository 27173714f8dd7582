#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands.h"
#include "client/json_output.h"
#include "client/progress_bar.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

constexpr size_t kReadBytes = size_t{256} << 10;

// Reads past what the session has. Also where the input cannot seek.
absl::Status Skip(const Input& input, int64_t bytes, Interrupt* interrupt) {
  std::vector<char> buffer(kReadBytes);
  for (int64_t left = bytes; left > 0;) {
    ASSIGN_OR_RETURN(size_t size, interrupt->Read(input.file, absl::MakeSpan(buffer).subspan(
                                                                  0, std::min<int64_t>(left, kReadBytes))));
    if (size == 0) {
      return absl::OutOfRangeError(absl::StrCat("the session has ", bytes, " bytes and ", input.name, " only ",
                                                bytes - left,
                                                ": it was not streamed from here, or not from here alone"));
    }
    left -= size;
  }
  return absl::OkStatus();
}

absl::Status Copy(const Input& input, StreamWriter* writer, Interrupt* interrupt) {
  std::vector<char> buffer(kReadBytes);
  while (true) {
    ASSIGN_OR_RETURN(size_t size, interrupt->Read(input.file, absl::MakeSpan(buffer)));
    if (size == 0) return absl::OkStatus();
    RETURN_IF_ERROR(writer->Append(absl::string_view(buffer.data(), size)));
  }
}

std::string TotalsText(const StreamTotals& totals) {
  const double seconds = absl::ToDoubleSeconds(totals.elapsed);
  const Watermarks& watermarks = totals.progress.watermarks;
  std::string text = absl::StrFormat(
      "streamed %s to '%s' in %.1f s: %s tokens (%s tokens/s); accepted %s, durable %s, memorized %s",
      FormatBytes(totals.sent_bytes), totals.session_id, seconds, FormatCount(totals.accepted_tokens),
      FormatCount(static_cast<int64_t>(totals.accepted_tokens / std::max(seconds, 1e-3))),
      FormatCount(watermarks.accepted), FormatCount(watermarks.durable), FormatCount(watermarks.memorized));
  if (totals.progress.mean_surprise) absl::StrAppendFormat(&text, "; surprise %.4g", *totals.progress.mean_surprise);
  if (totals.skipped_bytes > 0) absl::StrAppend(&text, "; ", FormatBytes(totals.skipped_bytes), " were there already");
  return text;
}

}  // namespace

absl::StatusOr<Input> OpenInput(const std::string& path, const Terminal& terminal) {
  Input input = {.file = terminal.input, .name = "standard input", .bytes = absl::nullopt};
  if (path != "-") {
    input.name = path;
    input.file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (input.file < 0) return absl::InvalidArgumentError(absl::StrCat("cannot open '", path, "': ", strerror(errno)));
  }
  struct stat info;
  if (fstat(input.file, &info) == 0) {
    if (S_ISDIR(info.st_mode)) {
      close(input.file);
      return absl::InvalidArgumentError(absl::StrCat("'", path, "' is a folder"));
    }
    if (S_ISREG(info.st_mode)) input.bytes = info.st_size;
  }
  return input;
}

void CloseInput(const Input& input, const Terminal& terminal) {
  if (input.file != terminal.input) close(input.file);
}

absl::Status RunStream(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal) {
  ASSIGN_OR_RETURN(const Input input, OpenInput(line.arguments.size() > 1 ? line.arguments[1] : "-", terminal));
  absl::Cleanup close_input = [&] { CloseInput(input, terminal); };

  // The callbacks come before the bar can be made: it needs to know where the session was.
  std::atomic<ProgressBar*> bar_to_show{nullptr};
  int64_t bytes_before_input = 0;  // accepted bytes of the session that are none of this input; set before the bar
  std::string last_reason;         // the writer's thread's
  StreamOptions options;
  options.model = line.model;
  options.take_over = line.take_over;
  options.labels = line.labels;
  options.settings = line.settings;
  options.on_progress = [&](const StreamProgress& progress) {
    ProgressBar* const bar = bar_to_show;
    if (bar == nullptr) return;
    bar->Show(progress, progress.watermarks.accepted_bytes - bytes_before_input, absl::Now());
  };
  options.on_reconnect = [&](const absl::Status& why, absl::Duration) {
    if (ProgressBar* bar = bar_to_show) bar->Clear();
    if (why.message() != last_reason) terminal.err << "mnemo: connecting again: " << why.message() << std::endl;
    last_reason = std::string(why.message());
  };
  const absl::Time start_time = absl::Now();
  ASSIGN_OR_RETURN(std::unique_ptr<StreamWriter> writer, client->OpenStream(line.arguments[0], options));
  const StreamOpening& opened = writer->opened();
  const Watermarks start = opened.session.watermarks;
  const int64_t skipped_bytes = line.resume ? start.accepted_bytes : 0;
  bytes_before_input = start.accepted_bytes - skipped_bytes;
  ProgressBar bar(terminal.shows_progress ? &terminal.err : nullptr, input.bytes, start, start_time);
  bar_to_show = &bar;
  interrupt->SetAction([&] { writer->Cancel(); });

  absl::Status status = Skip(input, skipped_bytes, interrupt);
  // Nothing was sent, so a close is quick; broken off, the stream would keep its seat a moment longer than this
  // command.
  if (!status.ok()) writer->Close(absl::Now() + absl::Seconds(5)).IgnoreError();
  if (status.ok()) status = Copy(input, writer.get(), interrupt);
  if (status.ok()) status = writer->Await(line.wait);
  // What is accepted stays, also when its stream is broken off: only the higher levels are worth a close.
  if (status.ok() && line.wait != DeliveryLevel::kAccepted) status = writer->Close();
  interrupt->SetAction(nullptr);
  StreamTotals totals = {.session_id = opened.session.session_id,
                         .created = opened.created,
                         .skipped_bytes = skipped_bytes,
                         .sent_bytes = writer->appended_bytes(),
                         .elapsed = absl::Now() - start_time,
                         .progress = writer->progress()};
  totals.accepted_tokens = totals.progress.watermarks.accepted - start.accepted;
  writer.reset();  // no callback from here on
  bar.Clear();
  if (status.ok() || absl::IsCancelled(status)) {
    terminal.out << (line.json ? StreamJson(totals) : TotalsText(totals)) << std::endl;
  }
  return status;
}

}  // namespace mnemosyne::client
