// Evaluation beside training: copies of the model are evaluated in a thread of their own while training goes on.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "train/evaluation.h"
#include "train/trainer.h"
#include "train/training_log.h"

namespace mnemosyne {

// Of all evaluations the best one's model, by the mean share of right answers, is kept in `folder`/best, with that
// share in a file of its own, so that a resumed run knows it. Thread-compatible.
class SideEvaluation {
 public:
  // vocabulary, english, log: not owned.
  // `resumes`: goes on from what `folder`/best says; else that is removed.
  SideEvaluation(std::string folder, bool resumes, EvaluationPlan plan, const Vocabulary* vocabulary,
                 const Haystack* english, TrainingLog* log);
  ~SideEvaluation();  // waits

  // Waits for the evaluation before, if there is one, and returns its error, if it had one.
  absl::Status Begin(const Trainer& trainer);
  absl::Status Wait();
  // Of those that are done, the last that in a row were no better than the best.
  int64_t no_better() const { return no_better_; }

 private:
  absl::Status Run(int64_t step);

  const std::string folder_;
  const EvaluationPlan plan_;
  const Vocabulary* const vocabulary_;
  const Haystack* const english_;
  TrainingLog* const log_;
  std::thread thread_;
  std::atomic<int64_t> no_better_ = 0;
  // The thread's, while it runs.
  absl::Status status_;
  double best_ = -1;
};

}  // namespace mnemosyne
