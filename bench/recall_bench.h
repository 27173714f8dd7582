// Recall, measured through a running server: how often a needle is found, and how many facts a state holds.
//
// One line a cell goes to standard output as it is done, and a JSON object a line to `json` when it is not null.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/client.h"
#include "train/recall_evaluation.h"

namespace mnemosyne {

class RecallBench {
 public:
  struct Options {
    std::string model;  // empty: the server's default
    int parallel = 2;   // sessions at a time
    std::FILE* json = nullptr;
  };
  // client, vocabulary, english: not owned.
  RecallBench(const Options& options, client::Client* client, const Vocabulary* vocabulary, const Haystack* english)
      : options_(options), client_(client), vocabulary_(vocabulary), english_(english) {}

  // INVALID_ARGUMENT: the facts do not fit. A story's haystack of 0 bytes is the story alone.
  absl::Status RunCell(const RecallCell& cell);
  // Facts 1, 2, 4 ... up to `max_facts` in haystacks of `bytes` bytes, at least `questions` questions each.
  absl::Status RunCapacity(const RecallTask& task, int64_t bytes, int64_t max_facts, int64_t questions, uint64_t seed);
  // How long text is in the model's tokens, of the haystack.
  absl::StatusOr<double> BytesAToken();

 private:
  struct Measured {
    RecallScore score;
    int64_t tokens = 0;  // read in all
    double seconds = 0;
    double exact() const { return 100.0 * score.right / score.questions; }
    double characters() const { return 100.0 * score.characters_right / score.characters; }
  };
  absl::StatusOr<Measured> Measure(const RecallCell& cell);
  // Streams the sample's text to a session of its own, asks, and removes the session.
  absl::StatusOr<std::vector<std::string>> Ask(const std::string& session, const RecallSample& sample, int64_t* tokens);

  const Options options_;
  client::Client* const client_;
  const Vocabulary* const vocabulary_;
  const Haystack* const english_;
};

}  // namespace mnemosyne
