// Recall, measured through a running server: how often a needle is found, and how many facts a state holds.
//
// One line a cell goes to standard output as it is done, and to the results' file; a cell that is in the file already
// is not measured again.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/result_file.h"
#include "client/client.h"
#include "train/recall_evaluation.h"

namespace mnemosyne {

class RecallBench {
 public:
  struct Options {
    std::string model;  // empty: the server's default
    int parallel = 2;   // sessions at a time
  };
  // NOT_FOUND: the server has no such model. client, vocabulary, english, results: not owned.
  static absl::StatusOr<RecallBench> Create(const Options& options, client::Client* client,
                                            const Vocabulary* vocabulary, const Haystack* english, ResultFile* results);

  // INVALID_ARGUMENT: the facts do not fit. A story's haystack of 0 bytes is the story alone.
  absl::Status RunCell(const RecallCell& cell);
  // Facts 1, 2, 4 ... up to `max_facts` in haystacks of `bytes` bytes, at least `questions` questions each.
  absl::Status RunCapacity(const RecallTask& task, int64_t bytes, int64_t max_facts, int64_t questions, uint64_t seed);
  // How long text is in the model's tokens, of the haystack.
  absl::StatusOr<double> BytesAToken();

 private:
  RecallBench(const Options& options, client::Client* client, client::ModelInfo model, const Vocabulary* vocabulary,
              const Haystack* english, ResultFile* results)
      : options_(options),
        client_(client),
        model_(std::move(model)),
        vocabulary_(vocabulary),
        english_(english),
        results_(results) {}

  // What the file has of a cell, or what is measured now and put there.
  absl::StatusOr<nlohmann::json> Measure(const RecallCell& cell);
  // Streams the sample's text to a session of its own, asks, and removes the session.
  absl::StatusOr<std::vector<std::string>> Ask(const std::string& session, const RecallSample& sample, int64_t* tokens);

  const Options options_;
  client::Client* const client_;
  const client::ModelInfo model_;
  const Vocabulary* const vocabulary_;
  const Haystack* const english_;
  ResultFile* const results_;
};

}  // namespace mnemosyne
