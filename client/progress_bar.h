// One line on a terminal that says how a stream goes, written over itself.
//
//   ProgressBar bar(&std::cerr, /*total_bytes=*/file_size, start, absl::Now());
//   bar.Show(progress, sent_bytes, absl::Now());  // at most ten times a second
//   bar.Clear();                                  // before anything else is printed
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "client/stream_writer.h"

namespace mnemosyne::client {

// 1536 -> "1.5 KiB".
std::string FormatBytes(int64_t bytes);
// 1234567 -> "1,234,567".
std::string FormatCount(int64_t count);

class ProgressBar {
 public:
  // `out` null: nothing is shown. `total_bytes` unset: not known. `start`: the session as it was opened.
  ProgressBar(std::ostream* out, absl::optional<int64_t> total_bytes, const Watermarks& start, absl::Time now);

  void Show(const StreamProgress& progress, int64_t sent_bytes, absl::Time now);
  void Clear();

  // The line itself, without the control characters.
  static std::string Line(const StreamProgress& progress, int64_t sent_bytes, absl::optional<int64_t> total_bytes,
                          double tokens_per_second);

 private:
  const absl::optional<int64_t> total_bytes_;
  const Watermarks start_;
  const absl::Time start_time_;
  absl::Mutex mutex_;
  std::ostream* const out_ ABSL_PT_GUARDED_BY(mutex_);
  bool shown_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_shown_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::optional<float> last_surprise_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::client
