// Trains a Titans model on recall documents, through the same network code that serves it.
//
// Rows of documents are read side by side, `segment_tokens` at a step. A row's memory goes on from step to step and
// starts anew with its next document. After each step every row is asked about facts it was told, in forks of its
// state, as the server's queries are: a question is never learned from. A fact is asked many steps after it was told:
// gradients stay inside a step, and what a step writes is judged by whether older facts survive it.
//
// Bound to one thread.
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
#include "train/document.h"
#include "train/recipe.h"

namespace torch::optim {
class AdamW;
}

namespace mnemosyne {

class Trainer {
 public:
  struct Data {
    Vocabulary vocabulary;
    Haystack english;
    Haystack noise;
  };
  Trainer(const ModelConfig& config, const Recipe& recipe, Data data);
  ~Trainer();

  struct StepReport {
    int64_t step = 0;           // just done
    double text_loss = 0;       // nats a byte of the documents
    double answer_loss = 0;     // nats a byte of the answers; 0 when nothing could be asked
    double answer_accuracy = 0; // share of answer bytes whose most likely prediction is right
    double exact = 0;           // share of answers right in every byte, each given the ones before
    double write = 0;           // mean theta / theta_max outside facts
    double write_facts = 0;     // and inside them
    double gradient_norm = 0;   // before clipping; a step whose norm is not finite changes nothing
  };
  StepReport Step();
  int64_t step() const { return step_; }

  // Replaces `path` whole. A trainer that loads it goes on exactly as this one would, to the bit on one machine.
  absl::Status SaveCheckpoint(const std::string& path) const;
  absl::Status LoadCheckpoint(const std::string& path);

  // Starts from another model's weights in place of random ones.
  absl::Status LoadWeights(const std::string& safetensors_path);
  // Writes config.json and model.safetensors.
  absl::Status ExportModel(const std::string& folder) const;

 private:
  struct Row {
    uint64_t documents = 0;  // begun
    int64_t begun_at = 0;    // the step at which this document began
    int64_t cursor = 0;      // tokens of the document already read
    Document document;
  };
  struct Questions {
    // [rows * questions, longest]; is_answer: 1 where a target is an answer's; weights: of its loss.
    at::Tensor tokens, targets, is_answer, weights;
  };
  void BeginDocument(int64_t row);
  // The next segment of each row, [rows, segment_tokens]; `fresh` says whose document begins with it.
  // `outside` [rows, segment_tokens]: 1 where a token belongs to no fact.
  at::Tensor NextSegments(std::vector<bool>* fresh, at::Tensor* outside);
  Questions AskRows() const;

  const ModelConfig config_;
  const Recipe recipe_;
  const Data data_;
  std::map<std::string, at::Tensor> parameters_;
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  std::vector<Row> rows_;
  BatchState state_;
  int64_t step_ = 0;
};

}  // namespace mnemosyne
