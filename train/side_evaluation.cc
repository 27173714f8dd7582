#include "train/side_evaluation.h"

#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/model.h"

namespace mnemosyne {

SideEvaluation::SideEvaluation(std::string folder, bool resumes, EvaluationPlan plan, const Vocabulary* vocabulary,
                               const Haystack* english, TrainingLog* log)
    : folder_(std::move(folder)), plan_(std::move(plan)), vocabulary_(vocabulary), english_(english), log_(log) {
  std::error_code ignored;
  if (!resumes) std::filesystem::remove_all(folder_ + "/best", ignored);
  const absl::StatusOr<std::string> share = ReadFile(folder_ + "/best/share");
  if (share.ok() && !absl::SimpleAtod(absl::StripAsciiWhitespace(*share), &best_)) best_ = -1;
}

SideEvaluation::~SideEvaluation() {
  if (thread_.joinable()) thread_.join();
}

absl::Status SideEvaluation::Wait() {
  if (thread_.joinable()) thread_.join();
  return status_;
}

absl::Status SideEvaluation::Begin(const Trainer& trainer) {
  RETURN_IF_ERROR(Wait());
  std::error_code error;
  std::filesystem::create_directories(folder_ + "/evaluated", error);
  RETURN_IF_ERROR(trainer.ExportModel(folder_ + "/evaluated"));
  thread_ = std::thread([this, step = trainer.step()] {
    EnterWorkerThread();
    status_ = Run(step);
  });
  return absl::OkStatus();
}

absl::Status SideEvaluation::Run(int64_t step) {
  const auto write = [&](nlohmann::json line) {
    line["step"] = step;
    log_->Write(line, line.dump());
  };
  ASSIGN_OR_RETURN(const double share, Evaluate(folder_ + "/evaluated", plan_, *vocabulary_, *english_, write));
  if (share <= best_) {
    ++no_better_;
    return absl::OkStatus();
  }
  best_ = share;
  no_better_ = 0;
  RETURN_IF_ERROR(WriteFileAtomically(folder_ + "/evaluated/share", absl::StrCat(share, "\n")));
  std::error_code error;
  std::filesystem::remove_all(folder_ + "/best", error);
  std::filesystem::rename(folder_ + "/evaluated", folder_ + "/best", error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot write '", folder_, "/best'"));
  return absl::OkStatus();
}

}  // namespace mnemosyne
