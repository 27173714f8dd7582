#include "train/training_log.h"

#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mnemosyne {

namespace {

using Report = Trainer::StepReport;

constexpr std::pair<const char*, double Report::*> kFields[] = {{"text_loss", &Report::text_loss},
                                                                {"answer_loss", &Report::answer_loss},
                                                                {"answer_accuracy", &Report::answer_accuracy},
                                                                {"exact", &Report::exact},
                                                                {"write_outside_facts", &Report::write},
                                                                {"write_in_facts", &Report::write_facts},
                                                                {"found", &Report::found},
                                                                {"spread", &Report::spread},
                                                                {"drill_found", &Report::drill_found},
                                                                {"drill_noise", &Report::drill_noise},
                                                                {"drill_confused", &Report::drill_confused},
                                                                {"keys_alike", &Report::keys_alike},
                                                                {"gradient_norm", &Report::gradient_norm}};

constexpr double kKeep = 0.95;

}  // namespace

absl::StatusOr<std::unique_ptr<TrainingLog>> TrainingLog::Open(const std::string& path, bool append) {
  std::FILE* const file = std::fopen(path.c_str(), append ? "a" : "w");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path, "'"));
  return absl::WrapUnique(new TrainingLog(file));
}

TrainingLog::~TrainingLog() { std::fclose(file_); }

void TrainingLog::Write(const nlohmann::json& line, absl::string_view for_the_eye) {
  const absl::MutexLock lock(&mutex_);
  std::fprintf(file_, "%s\n", line.dump().c_str());
  std::fflush(file_);
  std::printf("%s\n", std::string(for_the_eye).c_str());
  std::fflush(stdout);
}

void SmoothedReport::Add(const Report& report) {
  const double keep = values_.empty() ? 0.0 : kKeep;
  for (const auto& [name, field] : kFields) values_[name] = keep * values_[name] + (1 - keep) * (report.*field);
}

std::string SmoothedReport::ForTheEye() const {
  const auto at = [&](const char* name) { return values_.at(name); };
  return absl::StrFormat(
      "text %.3f  answer %.4f  right %.1f%%  exact %.1f%%  write %.6f / %.4f  found %.1f%%  drill %.2f%% %.4f %.3f  "
      "|grad| %.2f",
      at("text_loss"), at("answer_loss"), 100 * at("answer_accuracy"), 100 * at("exact"), at("write_outside_facts"),
      at("write_in_facts"), 100 * at("found"), 100 * at("drill_found"), at("drill_noise"), at("drill_confused"),
      at("gradient_norm"));
}

}  // namespace mnemosyne
