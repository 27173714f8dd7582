// mnemo-bench: measures a running server.
//
//   mnemo-bench recall --haystack=held_out.txt     how often a needle is found, by kind, haystack and size
//   mnemo-bench facts --samples=20                 facts that no model of ours was trained on, a JSON line each
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "core/base/status_macros.h"
#include "train/recall_evaluation.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "the server's HOST:PORT");
ABSL_FLAG(std::vector<std::string>, tasks, std::vector<std::string>({"number", "passkey", "uuid", "word"}),
          "number, word, uuid: that value in English; passkey: a number in noise");
ABSL_FLAG(std::vector<std::string>, bytes, std::vector<std::string>({"2048", "4096", "8192", "16384"}),
          "haystack sizes");
ABSL_FLAG(int, facts, 1, "needles a haystack, each asked for");
ABSL_FLAG(int, samples, 100, "haystacks a cell");
ABSL_FLAG(int, parallel, 2, "sessions at a time");
ABSL_FLAG(std::vector<std::string>, haystack, {}, "text files that the model was not trained on");
ABSL_FLAG(std::string, words, "/usr/share/wordnet", "the folder of WordNet's index files (Debian: wordnet-base)");
ABSL_FLAG(uint64_t, seed, 1, "which needles, depths and places of the haystack");
ABSL_FLAG(std::string, model, "", "the model; empty: the server's default");
ABSL_FLAG(bool, json, false, "one JSON object a cell");

namespace mnemosyne {
namespace {

using client::Client;

// Streams the sample's text to a session of its own, asks, and removes the session.
absl::StatusOr<std::vector<std::string>> AskServer(Client& client, const std::string& session,
                                                   const RecallSample& sample) {
  ASSIGN_OR_RETURN(const auto writer, client.OpenStream(session, {.model = absl::GetFlag(FLAGS_model)}));
  RETURN_IF_ERROR(writer->Append(sample.text));
  RETURN_IF_ERROR(writer->Close());
  client::QueryOptions options;
  options.max_tokens = 64;
  std::vector<std::string> answers;
  for (const std::string& question : sample.questions) {
    std::string& answer = answers.emplace_back();
    RETURN_IF_ERROR(
        client.Query(session, question, options, [&](const client::QueryDelta& delta) { answer += delta.text; })
            .status());
  }
  RETURN_IF_ERROR(client.DeleteSession(session));
  return answers;
}

absl::Status RunCell(Client& client, const std::string& task, const RecallCell& cell, const Vocabulary& vocabulary,
                     const Haystack& haystack) {
  const int parallel = std::max(1, absl::GetFlag(FLAGS_parallel));
  std::vector<RecallScore> scores(parallel);
  std::vector<absl::Status> statuses(parallel);
  std::vector<std::thread> threads;
  const absl::Time begin = absl::Now();
  for (int t = 0; t < parallel; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = t; i < cell.samples && statuses[t].ok(); i += parallel) {
        const RecallSample sample = MakeRecallSample(cell, i, vocabulary, haystack);
        const std::string session = absl::StrCat("recall-", task, "-", cell.bytes, "-", cell.seed, "-", i);
        const absl::StatusOr<std::vector<std::string>> answers = AskServer(client, session, sample);
        statuses[t] = answers.status();
        if (answers.ok()) scores[t].Add(sample, *answers);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  RecallScore total;
  for (int t = 0; t < parallel; ++t) {
    RETURN_IF_ERROR(statuses[t]);
    total.Add(scores[t]);
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  const double exact = 100.0 * total.right / total.questions;
  const double characters = 100.0 * total.characters_right / total.characters;
  if (absl::GetFlag(FLAGS_json)) {
    const nlohmann::json line = {{"task", task},           {"bytes", cell.bytes},
                                 {"facts", cell.facts},    {"questions", total.questions},
                                 {"exact_percent", exact}, {"characters_percent", characters},
                                 {"seconds", seconds}};
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf("%-8s %8lld bytes  %3lld facts  %5lld questions  exact %5.1f%%  characters %5.1f%%  %6.1f s\n",
                task.c_str(), static_cast<long long>(cell.bytes), static_cast<long long>(cell.facts),
                static_cast<long long>(total.questions), exact, characters, seconds);
  }
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Recall() {
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  const Haystack noise = Haystack::Noise();
  ASSIGN_OR_RETURN(const Haystack english, Haystack::FromFiles(absl::GetFlag(FLAGS_haystack)));
  ASSIGN_OR_RETURN(const auto client, Client::Connect(absl::GetFlag(FLAGS_server), {}));
  for (const std::string& task : absl::GetFlag(FLAGS_tasks)) {
    const bool is_passkey = task == "passkey";
    RecallCell cell = {.facts = std::max(1, absl::GetFlag(FLAGS_facts)),
                       .samples = absl::GetFlag(FLAGS_samples),
                       .seed = absl::GetFlag(FLAGS_seed)};
    if (task == "uuid") {
      cell.kind = ValueKind::kUuid;
    } else if (task == "word") {
      cell.kind = ValueKind::kWord;
    } else if (task != "number" && !is_passkey) {
      return absl::InvalidArgumentError(absl::StrCat("--tasks: '", task, "' is not number, passkey, uuid or word"));
    }
    for (const std::string& bytes : absl::GetFlag(FLAGS_bytes)) {
      if (!absl::SimpleAtoi(bytes, &cell.bytes) || cell.bytes < 256) {
        return absl::InvalidArgumentError(absl::StrCat("--bytes: '", bytes, "' is not a number of at least 256"));
      }
      if (cell.facts * 128 > cell.bytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("--facts: ", cell.facts, " facts do not fit in ", bytes, " bytes"));
      }
      RETURN_IF_ERROR(RunCell(*client, task, cell, vocabulary, is_passkey ? noise : english));
    }
  }
  return absl::OkStatus();
}

// Numbers, told in all the wordings that models/recall was trained on and asked for in all but RULER's long one; needs
// no server.
absl::Status Facts() {
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  Random random(absl::GetFlag(FLAGS_seed));
  for (int i = 0; i < absl::GetFlag(FLAGS_samples); ++i) {
    const Fact fact = vocabulary.Draw(ValueKind::kNumber, Split::kHeldOut, random);
    const nlohmann::json line = {{"statement", Statement(fact, i % kStatementWordings)},
                                 {"question", Question(fact, 1 + i % (kQuestionWordings - 1))},
                                 {"value", fact.value}};
    std::printf("%s\n", line.dump().c_str());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace mnemosyne

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("mnemo-bench recall|facts [flags]: measures a running server; see docs/recall.md");
  const std::vector<char*> words = absl::ParseCommandLine(argc, argv);
  const std::string what = words.size() == 2 ? words[1] : "";
  if (what != "recall" && what != "facts") {
    std::fprintf(stderr, "mnemo-bench: say what to do: recall or facts\n");
    return 2;
  }
  const absl::Status status = what == "recall" ? mnemosyne::Recall() : mnemosyne::Facts();
  if (status.ok()) return 0;
  std::fprintf(stderr, "mnemo-bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
