// Trains a Titans model on lessons (lessons.h), through the same network code that serves it.
//
// Rows of lessons are read side by side, `segment_tokens` at a step. A row's memory goes on from step to step and
// starts anew with its next lesson. After each step every row is asked about facts it was told, in forks of its
// state, as the server's queries are: a question is never learned from. A fact is asked many steps after it was told:
// gradients stay inside a step, and what a step writes is judged by whether older facts survive it.
//
// Rows are worked through in groups of a few, small enough for a core's cache, on `threads` threads; groups, not
// threads, say in which order gradients add up, so that the number of threads changes no bit. On a device that is no
// CPU all rows are one group. The trainer itself is bound to one thread.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.h"
#include "core/model/titans.h"
#include "train/lessons.h"
#include "train/recipe.h"

namespace torch::optim {
class AdamW;
}

namespace mnemosyne {

// A value that was told in the step's segment: `length` queries of a question, from `from` on, look for the keys of
// as many tokens of the segment, from `to` on.
struct Match {
  int64_t question = 0, row = 0, from = 0, to = 0, length = 0;
};

class Trainer {
 public:
  struct Options {
    std::vector<std::string> only{};           // train only weights whose name has one of these parts; empty: all
    int threads = 1;                           // on a CPU; changes no bit of the result
    at::Device device = at::Device(at::kCPU);  // on another than a CPU all rows are one group
  };
  // INVALID_ARGUMENT: the recipe cannot train such a model, or a part of `only` is in no weight's name.
  static absl::Status Check(const ModelConfig& config, const Recipe& recipe, const std::vector<std::string>& only = {});
  // All have been checked.
  Trainer(const ModelConfig& config, const Recipe& recipe, LessonData data, const Options& options);
  ~Trainer();

  struct StepReport {
    int64_t step = 0;            // just done
    int64_t tokens = 0;          // that went through the network: of lessons, questions and drills
    double text_loss = 0;        // nats a token of the lessons
    double answer_loss = 0;      // nats a token of the answers; 0 when nothing could be asked
    double answer_accuracy = 0;  // share of answer tokens whose most likely prediction is right
    double exact = 0;            // share of answers right in every token, each given the ones before
    double write = 0;            // mean theta / theta_max outside facts
    double write_facts = 0;      // and inside them
    double found = 0;            // share of those answer tokens whose own key is the nearest; 0 without a match_cost
    double spread = 0;       // mean square of what two values' characters' keys have in common; 0 without a spread_cost
    double keys_alike = 0;   // mean cosine between keys, summed over blocks; 0 without a key_cost
    double drill_found = 0;  // of a drill's characters whose own key is the nearest; 0 without drills
    double drill_noise = 0;  // see drill.h
    double drill_confused = 0;  // see drill.h
    double gradient_norm = 0;   // before clipping; a step whose norm is not finite changes nothing
  };
  StepReport Step();
  int64_t step() const { return step_; }

  // Replaces `path` whole. A trainer that loads it goes on exactly as this one would, to the bit on one machine.
  absl::Status SaveCheckpoint(const std::string& path) const;
  absl::Status LoadCheckpoint(const std::string& path);

  // Starts from the weights of the model in `folder` in place of random ones; it may be smaller (grow.h).
  absl::Status StartFrom(const std::string& folder);
  // Writes config.json, model.safetensors and the tokenizer's file, if it has one.
  absl::Status ExportModel(const std::string& folder) const;

 private:
  struct Row {
    uint64_t lessons = 0;  // begun
    int64_t begun_at = 0;  // the step at which this one began
    int64_t cursor = 0;    // tokens of it already read
    bool carried = false;  // it begins in the state that the one before left
    Lesson lesson;
  };
  // Rows that are computed together, and their states.
  struct Group {
    int64_t begin = 0, end = 0;
    BatchState state;
  };
  struct Segments {
    at::Tensor tokens;   // [rows, segment_tokens]
    at::Tensor outside;  // alike: 1 where a token belongs to no fact
    at::Tensor values;   // [n], where characters of values are, of rows * segment_tokens
    at::Tensor of_fact;  // alike, a number for each fact
    at::Tensor spread;   // alike, what each counts in spread_cost
    at::Tensor answers;  // [rows, segment_tokens - 1], 1 where the next token answers a question of the text itself
    std::vector<bool> fresh;  // whose lesson begins with it
    Segments On(at::Device device) const;
  };
  // Questions of about one length.
  struct Questions {
    std::vector<int64_t> rows;  // n, of the group
    // [n, longest]; is_answer: 1 where a target is an answer's; weights: of its loss.
    at::Tensor tokens, targets, is_answer, weights;
    std::vector<Match> matches;
    Questions On(at::Device device) const;
  };
  struct Batch {
    Segments segments;
    std::vector<Questions> questions;
  };
  // Of all groups: what a group's losses are divided by.
  struct Totals {
    double rows = 0, inline_answers = 0, outside = 0, answer_bytes = 0, answer_weights = 0, matches = 0, values = 0;
  };

  struct GroupReport {
    int64_t tokens = 0;
    std::vector<at::Tensor> gradients;  // undefined where a weight had no part
    BatchState state;
    // Sums, not means.
    double text = 0, answer = 0, wrong = 0, exact = 0, asked = 0, write = 0, write_facts = 0, alike = 0, found = 0,
           spread = 0, drill_found = 0, drill_noise = 0, drill_confused = 0;
  };
  static constexpr size_t kDrills = 2;  // a step, each against itself

  void BeginLesson(int64_t row);
  Segments NextSegments(const Group& group);
  std::vector<Questions> AskRows(const Group& group) const;
  GroupReport RunGroup(const Group& group, const Batch& batch, const Totals& totals) const;
  GroupReport RunDrill(uint64_t index) const;
  void ForgetStates();

  const ModelConfig config_;
  const Recipe recipe_;
  const LessonData data_;
  std::map<std::string, at::Tensor> parameters_;
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  std::vector<at::Tensor> weights_;  // the same, in order
  std::vector<Row> rows_;
  std::vector<Group> groups_;
  const int threads_;
  const at::Device device_;
  int64_t step_ = 0;
};

}  // namespace mnemosyne
