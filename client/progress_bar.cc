#include "client/progress_bar.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mnemosyne::client {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(100);
constexpr char kEraseLine[] = "\r\x1b[2K";

}  // namespace

std::string FormatBytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = larger;
  }
  return absl::StrFormat("%.1f %s", value, unit);
}

std::string FormatCount(int64_t count) {
  std::string digits = absl::StrCat(count);
  const size_t first = count < 0 ? 1 : 0;
  for (size_t end = digits.size(); end > first + 3; end -= 3) digits.insert(end - 3, ",");
  return digits;
}

ProgressBar::ProgressBar(std::ostream* out, absl::optional<int64_t> total_bytes, const Watermarks& start,
                         absl::Time now)
    : total_bytes_(total_bytes), start_(start), start_time_(now), out_(out) {}

std::string ProgressBar::Line(const StreamProgress& progress, int64_t sent_bytes, absl::optional<int64_t> total_bytes,
                              double tokens_per_second) {
  std::string line;
  if (total_bytes && *total_bytes > 0) {
    const int percent = static_cast<int>(100.0 * std::min(sent_bytes, *total_bytes) / *total_bytes);
    absl::StrAppendFormat(&line, "%3d%% of %s", percent, FormatBytes(*total_bytes));
  } else {
    line = FormatBytes(sent_bytes);
  }
  const Watermarks& watermarks = progress.watermarks;
  absl::StrAppend(&line, "  ", FormatCount(static_cast<int64_t>(tokens_per_second)), " tokens/s  accepted ",
                  FormatCount(watermarks.accepted), "  durable ", FormatCount(watermarks.durable), "  memorized ",
                  FormatCount(watermarks.memorized));
  if (progress.mean_surprise) absl::StrAppendFormat(&line, "  surprise %.4g", *progress.mean_surprise);
  return line;
}

void ProgressBar::Show(const StreamProgress& progress, int64_t sent_bytes, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (progress.mean_surprise) last_surprise_ = progress.mean_surprise;
  if (out_ == nullptr || now - last_shown_ < kInterval) return;
  StreamProgress shown = progress;
  shown.mean_surprise = last_surprise_;
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(now - start_time_));
  const double rate = (progress.watermarks.accepted - start_.accepted) / seconds;
  *out_ << kEraseLine << Line(shown, sent_bytes, total_bytes_, rate) << std::flush;
  shown_ = true;
  last_shown_ = now;
}

void ProgressBar::Clear() {
  absl::MutexLock lock(&mutex_);
  if (out_ == nullptr || !shown_) return;
  *out_ << kEraseLine << std::flush;
  shown_ = false;
  last_shown_ = absl::InfinitePast();
}

}  // namespace mnemosyne::client
