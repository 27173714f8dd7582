#include "bench/recall_bench.h"

#include <algorithm>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

using Json = nlohmann::json;

absl::StatusOr<RecallBench> RecallBench::Create(const Options& options, client::Client* client,
                                                const Vocabulary* vocabulary, const Haystack* english,
                                                ResultFile* results) {
  ASSIGN_OR_RETURN(const std::vector<client::ModelInfo> models, client->ListModels());
  for (const client::ModelInfo& model : models) {
    const bool is_default = options.model.empty() && &model == models.data();
    if (is_default || model.name == options.model) {
      return RecallBench(options, client, model, vocabulary, english, results);
    }
  }
  return absl::NotFoundError(absl::StrCat("the server has no model '", options.model, "'"));
}

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

absl::StatusOr<Json> RecallBench::Measure(const RecallCell& cell) {
  constexpr int64_t kBytesAFact = 128;
  if (cell.task.story == 0 && cell.facts * kBytesAFact > cell.bytes) {
    return absl::InvalidArgumentError(absl::StrCat(cell.facts, " facts do not fit in ", cell.bytes, " bytes"));
  }
  const Json named = {{"model", model_.name},    {"fingerprint", model_.fingerprint},
                      {"task", cell.task.name},  {"bytes", cell.bytes},
                      {"facts", cell.facts},     {"asked", cell.asked},
                      {"samples", cell.samples}, {"seed", cell.seed}};
  if (const Json* const known = results_->Find(named)) return *known;
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
  RecallScore score;
  int64_t read = 0;
  for (int t = 0; t < parallel; ++t) {
    RETURN_IF_ERROR(statuses[t]);
    score.Add(scores[t]);
    read += tokens[t];
  }
  const auto percent = [](int64_t part, int64_t whole) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  };
  Json measured = {{"tokens", read / cell.samples},
                   {"questions", score.questions},
                   {"right", score.right},
                   {"exact_percent", percent(score.right, score.questions)},
                   {"contained_percent", percent(score.contained, score.questions)},
                   {"characters_percent", percent(score.characters_right, score.characters)},
                   {"state_bytes", model_.state_bytes},
                   {"seconds", absl::ToDoubleSeconds(absl::Now() - begin)}};
  RETURN_IF_ERROR(results_->Add(named, measured));
  measured.update(named);
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
  ASSIGN_OR_RETURN(const Json measured, Measure(cell));
  absl::PrintF("%-8s %8d bytes  %8d tokens  %3d facts  %5d questions  exact %5.1f%%  contained %5.1f%%  %6.1f s\n",
               cell.task.name, cell.bytes, measured["tokens"].get<int64_t>(), cell.facts,
               measured["questions"].get<int64_t>(), measured["exact_percent"].get<double>(),
               measured.value("contained_percent", measured["exact_percent"].get<double>()),
               measured["seconds"].get<double>());
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status RecallBench::RunCapacity(const RecallTask& task, int64_t bytes, int64_t max_facts, int64_t questions,
                                      uint64_t seed) {
  const double state_kib = static_cast<double>(model_.state_bytes) / 1024;
  for (int64_t facts = 1; facts <= max_facts; facts *= 2) {
    constexpr int64_t kAskedAtMost = 64;  // of one haystack: the cost is in reading it
    const int64_t asked = std::min({facts, kAskedAtMost, questions});
    const RecallCell cell = {.task = task,
                             .bytes = bytes,
                             .facts = facts,
                             .asked = asked,
                             .samples = (questions + asked - 1) / asked,
                             .seed = seed};
    ASSIGN_OR_RETURN(const Json measured, Measure(cell));
    const double exact = measured["exact_percent"].get<double>(), held = static_cast<double>(facts) * exact / 100;
    absl::PrintF("%-8s %8d bytes  %3d facts  %5d questions  exact %5.1f%%  held %6.1f  %.3f a KiB of state\n",
                 task.name, bytes, facts, measured["questions"].get<int64_t>(), exact, held, held / state_kib);
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
