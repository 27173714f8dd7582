// mnemo-bench: measures a running server (docs/recall.md).
//
//   mnemo-bench recall --haystack=held_out.txt     how often a needle is found, by kind, haystack and size
//   mnemo-bench capacity --haystack=held_out.txt   how many facts one state holds
//   mnemo-bench facts --samples=20                 facts that no model of ours was trained on, a JSON line each
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/recall_bench.h"
#include "core/base/status_macros.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "the server's HOST:PORT");
ABSL_FLAG(std::vector<std::string>, tasks, std::vector<std::string>({"number", "passkey", "uuid", "word"}),
          "number, word, uuid, everyday, untaught: such facts in English; passkey: a number in noise");
ABSL_FLAG(std::vector<std::string>, bytes, std::vector<std::string>({"2048", "4096", "8192", "16384"}),
          "recall: haystack sizes");
ABSL_FLAG(int, facts, 1, "recall: needles a haystack");
ABSL_FLAG(int, asked, 0, "recall: of them asked for, drawn at random; 0: each");
ABSL_FLAG(int, samples, 100, "recall: haystacks a cell; facts: how many");
ABSL_FLAG(int64_t, capacity_bytes, 65536, "capacity: the haystacks' size");
ABSL_FLAG(int, max_facts, 512, "capacity: the most facts in a haystack");
ABSL_FLAG(int, questions, 128, "capacity: questions for each number of facts");
ABSL_FLAG(int, parallel, 2, "sessions at a time");
ABSL_FLAG(std::vector<std::string>, haystack, {}, "text files that the model was not trained on");
ABSL_FLAG(std::string, words, "/usr/share/wordnet", "the folder of WordNet's files (Debian: wordnet-base)");
ABSL_FLAG(uint64_t, seed, 1, "which needles, depths and places of the haystack");
ABSL_FLAG(std::string, model, "", "the model; empty: the server's default");
ABSL_FLAG(std::string, json, "", "a file that also gets a JSON object a line");

namespace mnemosyne {
namespace {

absl::Status Measure(const std::string& what) {
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  ASSIGN_OR_RETURN(const Haystack english, Haystack::FromFiles(absl::GetFlag(FLAGS_haystack)));
  std::vector<RecallTask> tasks;
  for (const std::string& name : absl::GetFlag(FLAGS_tasks)) {
    ASSIGN_OR_RETURN(tasks.emplace_back(), FindRecallTask(name));
  }
  ASSIGN_OR_RETURN(const auto client, client::Client::Connect(absl::GetFlag(FLAGS_server), {}));
  RecallBench::Options options = {.model = absl::GetFlag(FLAGS_model), .parallel = absl::GetFlag(FLAGS_parallel)};
  const std::string json = absl::GetFlag(FLAGS_json);
  if (!json.empty()) options.json = std::fopen(json.c_str(), "w");
  if (!json.empty() && options.json == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("--json: '", json, "'"));
  const absl::Cleanup close = [&] {
    if (options.json != nullptr) std::fclose(options.json);
  };
  RecallBench bench(options, client.get(), &vocabulary, &english);
  for (const RecallTask& task : tasks) {
    if (what == "capacity") {
      RETURN_IF_ERROR(bench.RunCapacity(task, absl::GetFlag(FLAGS_capacity_bytes), absl::GetFlag(FLAGS_max_facts),
                                        absl::GetFlag(FLAGS_questions), absl::GetFlag(FLAGS_seed)));
      continue;
    }
    RecallCell cell = {.task = task,
                       .facts = std::max(1, absl::GetFlag(FLAGS_facts)),
                       .asked = absl::GetFlag(FLAGS_asked),
                       .samples = absl::GetFlag(FLAGS_samples),
                       .seed = absl::GetFlag(FLAGS_seed)};
    for (const std::string& bytes : absl::GetFlag(FLAGS_bytes)) {
      if (!absl::SimpleAtoi(bytes, &cell.bytes) || cell.bytes < 256) {
        return absl::InvalidArgumentError(absl::StrCat("--bytes: '", bytes, "' is not a number of at least 256"));
      }
      RETURN_IF_ERROR(bench.RunCell(cell));
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
    const Fact fact = vocabulary.Draw(FactKind::kNumber, Split::kHeldOut, random);
    const nlohmann::json line = {{"statement", Statement(fact, i % StatementWordings(fact))},
                                 {"question", Question(fact, 1 + i % (QuestionWordings(fact) - 1))},
                                 {"value", fact.value}};
    std::printf("%s\n", line.dump().c_str());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace mnemosyne

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "mnemo-bench recall|capacity|facts [flags]: measures a running server; see docs/recall.md");
  const std::vector<char*> words = absl::ParseCommandLine(argc, argv);
  const std::string what = words.size() == 2 ? words[1] : "";
  if (what != "recall" && what != "capacity" && what != "facts") {
    std::fprintf(stderr, "mnemo-bench: say what to do: recall, capacity or facts\n");
    return 2;
  }
  const absl::Status status = what == "facts" ? mnemosyne::Facts() : mnemosyne::Measure(what);
  if (status.ok()) return 0;
  std::fprintf(stderr, "mnemo-bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
