// What a training run says while it runs.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "train/trainer.h"

namespace mnemosyne {

// Lines of standard output and of a file of JSON lines. Thread-safe.
class TrainingLog {
 public:
  // The status says which file cannot be written.
  static absl::StatusOr<std::unique_ptr<TrainingLog>> Open(const std::string& path, bool append);
  ~TrainingLog();

  void Write(const nlohmann::json& line, absl::string_view for_the_eye);

 private:
  explicit TrainingLog(std::FILE* file) : file_(file) {}
  absl::Mutex mutex_;
  std::FILE* const file_ ABSL_PT_GUARDED_BY(mutex_);
};

// Steps' numbers, smoothed. Thread-compatible.
class SmoothedReport {
 public:
  void Add(const Trainer::StepReport& report);
  nlohmann::json json() const { return values_; }
  std::string ForTheEye() const;

 private:
  std::map<std::string, double> values_;
};

}  // namespace mnemosyne
