#include "bench/recall_bench.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

using Json = nlohmann::json;

absl::StatusOr<std::vector<std::string>> RecallBench::Ask(const std::string& session, const RecallSample& sample,
                                                          int64_t* tokens) {
  ASSIGN_OR_RETURN(const auto writer, client_->OpenStream(session, {.model = options_.model}));
  RETURN_IF_ERROR(writer->Append(sample.text));
  RETURN_IF_ERROR(writer->Close());
  *tokens += writer->progress().watermarks.accepted;
  client::QueryOptions options;
  options.max_tokens = 64;
  std::vector<std::string> answers;
  for (const std::string& question : sample.questions) {
    std::string& answer = answers.emplace_back();
    RETURN_IF_ERROR(
        client_->Query(session, question, options, [&](const client::QueryDelta& delta) { answer += delta.text; })
            .status());
  }
  RETURN_IF_ERROR(client_->DeleteSession(session));
  return answers;
}

absl::StatusOr<RecallBench::Measured> RecallBench::Measure(const RecallCell& cell) {
  constexpr int64_t kBytesAFact = 128;
  if (cell.task.story == 0 && cell.facts * kBytesAFact > cell.bytes) {
    return absl::InvalidArgumentError(absl::StrCat(cell.facts, " facts do not fit in ", cell.bytes, " bytes"));
  }
  const int parallel = std::max(1, options_.parallel);
  std::vector<RecallScore> scores(parallel);
  std::vector<int64_t> tokens(parallel);
  std::vector<absl::Status> statuses(parallel);
  std::vector<std::thread> threads;
  const absl::Time begin = absl::Now();
  for (int t = 0; t < parallel; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = t; i < cell.samples && statuses[t].ok(); i += parallel) {
        const RecallSample sample = MakeRecallSample(cell, i, *vocabulary_, *english_);
        const std::string session =
            absl::StrCat("recall-", cell.task.name, "-", cell.bytes, "-", cell.facts, "-", cell.seed, "-", i);
        const absl::StatusOr<std::vector<std::string>> answers = Ask(session, sample, &tokens[t]);
        statuses[t] = answers.status();
        if (answers.ok()) scores[t].Add(sample, *answers);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Measured measured;
  for (int t = 0; t < parallel; ++t) {
    RETURN_IF_ERROR(statuses[t]);
    measured.score.Add(scores[t]);
    measured.tokens += tokens[t];
  }
  measured.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return measured;
}

absl::StatusOr<double> RecallBench::BytesAToken() {
  constexpr int64_t kBytes = 1 << 16;
  Random random(1);
  int64_t tokens = 0;
  RETURN_IF_ERROR(Ask("recall-bytes-a-token", {.text = english_->Draw(kBytes, random)}, &tokens).status());
  if (tokens == 0) return absl::InternalError("the server read no token of the haystack");
  return static_cast<double>(kBytes) / static_cast<double>(tokens);
}

absl::Status RecallBench::RunCell(const RecallCell& cell) {
  ASSIGN_OR_RETURN(const Measured measured, Measure(cell));
  const RecallTask& task = cell.task;
  const int64_t tokens = measured.tokens / cell.samples;
  std::printf(
      "%-8s %8lld bytes  %8lld tokens  %3lld facts  %5lld questions  exact %5.1f%%  characters %5.1f%%  %6.1f s\n",
      task.name.c_str(), static_cast<long long>(cell.bytes), static_cast<long long>(tokens),
      static_cast<long long>(cell.facts), static_cast<long long>(measured.score.questions), measured.exact(),
      measured.characters(), measured.seconds);
  std::fflush(stdout);
  if (options_.json == nullptr) return absl::OkStatus();
  const Json line = {{"task", task.name},
                     {"bytes", cell.bytes},
                     {"tokens", tokens},
                     {"facts", cell.facts},
                     {"seed", cell.seed},
                     {"questions", measured.score.questions},
                     {"right", measured.score.right},
                     {"exact_percent", measured.exact()},
                     {"characters_percent", measured.characters()},
                     {"seconds", measured.seconds}};
  std::fprintf(options_.json, "%s\n", line.dump().c_str());
  std::fflush(options_.json);
  return absl::OkStatus();
}

absl::Status RecallBench::RunCapacity(const RecallTask& task, int64_t bytes, int64_t max_facts, int64_t questions,
                                      uint64_t seed) {
  ASSIGN_OR_RETURN(const std::vector<client::ModelInfo> models, client_->ListModels());
  double state_kib = 0;
  for (const client::ModelInfo& model : models) {
    if (model.name == options_.model || (options_.model.empty() && &model == models.data())) {
      state_kib = static_cast<double>(model.state_bytes) / 1024;
    }
  }
  if (state_kib == 0) return absl::NotFoundError(absl::StrCat("the server has no model '", options_.model, "'"));
  for (int64_t facts = 1; facts <= max_facts; facts *= 2) {
    constexpr int64_t kAskedAtMost = 64;  // of one haystack: the cost is in reading it
    const int64_t asked = std::min({facts, kAskedAtMost, questions});
    const RecallCell cell = {.task = task,
                             .bytes = bytes,
                             .facts = facts,
                             .asked = asked,
                             .samples = (questions + asked - 1) / asked,
                             .seed = seed};
    ASSIGN_OR_RETURN(const Measured measured, Measure(cell));
    const double held = static_cast<double>(facts) * measured.exact() / 100;
    std::printf("%-8s %8lld bytes  %3lld facts  %5lld questions  exact %5.1f%%  held %6.1f  %.3f a KiB of state\n",
                task.name.c_str(), static_cast<long long>(bytes), static_cast<long long>(facts),
                static_cast<long long>(measured.score.questions), measured.exact(), held, held / state_kib);
    std::fflush(stdout);
    if (options_.json == nullptr) continue;
    const Json line = {{"task", task.name},
                       {"bytes", bytes},
                       {"facts", facts},
                       {"seed", seed},
                       {"questions", measured.score.questions},
                       {"right", measured.score.right},
                       {"exact_percent", measured.exact()},
                       {"characters_percent", measured.characters()},
                       {"facts_held", held},
                       {"facts_a_kib", held / state_kib},
                       {"seconds", measured.seconds}};
    std::fprintf(options_.json, "%s\n", line.dump().c_str());
    std::fflush(options_.json);
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
