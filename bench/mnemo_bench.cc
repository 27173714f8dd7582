// mnemo-bench: measures a running server (docs/recall.md), the engine alone or the whole service
// (docs/performance.md).
//
//   mnemo-bench recall --haystack=held_out.txt     how often a needle is found, by kind, haystack and size
//   mnemo-bench capacity --haystack=held_out.txt   how many facts one state holds
//   mnemo-bench babilong --haystack=held_out.txt   stories of the bAbI world, by task and size
//   mnemo-bench engine --models=models/recall      tokens/s of the engine alone, against the BLAS
//   mnemo-bench service --parts=ingest,queries     the service, with a server of its own
//   mnemo-bench facts --samples=20                 facts that no model of ours was trained on, a JSON line each
//   mnemo-bench stories --samples=20               stories as babilong has them, a JSON line each
#include <cstdio>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bench/engine_bench.h"
#include "bench/recall_bench.h"
#include "bench/service_bench.h"
#include "core/base/status_macros.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "the server's HOST:PORT");
ABSL_FLAG(
    std::vector<std::string>, tasks, std::vector<std::string>({"number", "passkey", "uuid", "word"}),
    "recall, capacity: number, word, uuid, everyday, untaught: such facts in English; passkey: a number in noise");
ABSL_FLAG(std::vector<std::string>, stories, std::vector<std::string>({"qa1", "qa2", "qa3", "qa4", "qa5"}),
          "babilong: tasks");
ABSL_FLAG(std::vector<std::string>, tokens, std::vector<std::string>({"0", "1024", "4096", "16384"}),
          "babilong: sizes in the model's tokens, story included; 0: the story alone");
ABSL_FLAG(std::vector<std::string>, bytes, std::vector<std::string>({"2048", "4096", "8192", "16384"}),
          "recall: haystack sizes");
ABSL_FLAG(int, facts, 1, "recall: needles a haystack");
ABSL_FLAG(int, asked, 0, "recall: of them asked for, drawn at random; 0: each");
ABSL_FLAG(int, samples, 100, "recall, babilong: haystacks a cell; facts: how many");
ABSL_FLAG(int64_t, capacity_bytes, 65536, "capacity: the haystacks' size");
ABSL_FLAG(int, max_facts, 512, "capacity: the most facts in a haystack");
ABSL_FLAG(int, questions, 128, "capacity: questions for each number of facts");
ABSL_FLAG(int, parallel, 2, "sessions at a time");
ABSL_FLAG(std::vector<std::string>, haystack, {}, "text files that the model was not trained on");
ABSL_FLAG(std::string, words, "/usr/share/wordnet", "the folder of WordNet's files (Debian: wordnet-base)");
ABSL_FLAG(uint64_t, seed, 1, "which needles, depths and places of the haystack");
ABSL_FLAG(std::string, model, "", "the model; empty: the server's default");
ABSL_FLAG(std::vector<std::string>, models, std::vector<std::string>({"models/recall"}),
          "engine: model folders; service: its first");
ABSL_FLAG(std::string, weights, "float32",
          "engine: what the models' weights are kept as: float32, bfloat16 or bfloat16_products");
ABSL_FLAG(std::string, only, "", "engine: measure only what has this in its name, such as \"memory, depth 2\"");
ABSL_FLAG(bool, kinds, true, "engine: also models of every kind, width 256 and 512, with weights drawn at random");
ABSL_FLAG(int, repeats, 9, "engine, service: of each measurement; medians are told");
ABSL_FLAG(std::vector<std::string>, parts,
          std::vector<std::string>({"start", "ingest", "appends", "offsets", "queries", "states", "crowd"}),
          "service: what is measured");
ABSL_FLAG(std::string, mnemosyned, "mnemosyned", "service: the server's program");
ABSL_FLAG(std::string, scratch, "/tmp", "service: a folder on the disk to measure; mnemo-bench is made in it");
ABSL_FLAG(int, workers, 2, "service: the server's");
ABSL_FLAG(int64_t, session_tokens, 2048, "service: of each session in part ingest");
ABSL_FLAG(int64_t, far_offset, 1000000, "service: tokens of the long session in part offsets");
ABSL_FLAG(int, crowd, 1000, "service: sessions in part crowd; memory is allowed for a tenth");
ABSL_FLAG(double, seconds, 0.5, "engine: of each repeat, at least");
ABSL_FLAG(std::string, json, "", "a file that also gets a JSON object a cell");
ABSL_FLAG(bool, resume, false, "keep what --json has already, and measure only the cells that it lacks");

namespace mnemosyne {
namespace {

absl::StatusOr<std::vector<RecallTask>> Tasks(const char* flag, const std::vector<std::string>& names, bool stories) {
  std::vector<RecallTask> tasks;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(const RecallTask task, FindRecallTask(name));
    if ((task.story > 0) != stories) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, ": '", name, "' is none of these tasks"));
    }
    tasks.push_back(task);
  }
  return tasks;
}

absl::StatusOr<std::vector<int64_t>> Sizes(const char* flag, const std::vector<std::string>& words, int64_t least) {
  std::vector<int64_t> sizes;
  for (const std::string& word : words) {
    if (!absl::SimpleAtoi(word, &sizes.emplace_back()) || sizes.back() < least) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, ": '", word, "' is not a number of at least ", least));
    }
  }
  return sizes;
}

RecallCell CellFromFlags() {
  return {.facts = std::max(1, absl::GetFlag(FLAGS_facts)),
          .asked = absl::GetFlag(FLAGS_asked),
          .samples = std::max(1, absl::GetFlag(FLAGS_samples)),
          .seed = absl::GetFlag(FLAGS_seed)};
}

absl::Status Recall(RecallBench* bench) {
  ASSIGN_OR_RETURN(const std::vector<RecallTask> tasks, Tasks("tasks", absl::GetFlag(FLAGS_tasks), false));
  ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, Sizes("bytes", absl::GetFlag(FLAGS_bytes), 256));
  RecallCell cell = CellFromFlags();
  for (const RecallTask& task : tasks) {
    cell.task = task;
    for (const int64_t bytes : sizes) {
      cell.bytes = bytes;
      RETURN_IF_ERROR(bench->RunCell(cell));
    }
  }
  return absl::OkStatus();
}

absl::Status Capacity(RecallBench* bench) {
  ASSIGN_OR_RETURN(const std::vector<RecallTask> tasks, Tasks("tasks", absl::GetFlag(FLAGS_tasks), false));
  for (const RecallTask& task : tasks) {
    RETURN_IF_ERROR(bench->RunCapacity(task, absl::GetFlag(FLAGS_capacity_bytes), absl::GetFlag(FLAGS_max_facts),
                                       absl::GetFlag(FLAGS_questions), absl::GetFlag(FLAGS_seed)));
  }
  return absl::OkStatus();
}

absl::Status Babilong(RecallBench* bench) {
  ASSIGN_OR_RETURN(const std::vector<RecallTask> stories, Tasks("stories", absl::GetFlag(FLAGS_stories), true));
  ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, Sizes("tokens", absl::GetFlag(FLAGS_tokens), 0));
  ASSIGN_OR_RETURN(const double bytes_a_token, bench->BytesAToken());
  RecallCell cell = CellFromFlags();
  for (const RecallTask& story : stories) {
    cell.task = story;
    for (const int64_t tokens : sizes) {
      cell.bytes = static_cast<int64_t>(static_cast<double>(tokens) * bytes_a_token);
      RETURN_IF_ERROR(bench->RunCell(cell));
    }
  }
  return absl::OkStatus();
}

// With a running server.
absl::Status Measure(absl::Status (*measure)(RecallBench*)) {
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  ASSIGN_OR_RETURN(const Haystack english, Haystack::FromFiles(absl::GetFlag(FLAGS_haystack)));
  ASSIGN_OR_RETURN(const auto client, client::Client::Connect(absl::GetFlag(FLAGS_server), {}));
  if (absl::GetFlag(FLAGS_resume) && absl::GetFlag(FLAGS_json).empty()) {
    return absl::InvalidArgumentError("--resume needs --json");
  }
  ASSIGN_OR_RETURN(ResultFile results, ResultFile::Open(absl::GetFlag(FLAGS_json), absl::GetFlag(FLAGS_resume)));
  ASSIGN_OR_RETURN(RecallBench bench,
                   RecallBench::Create({.model = absl::GetFlag(FLAGS_model), .parallel = absl::GetFlag(FLAGS_parallel)},
                                       client.get(), &vocabulary, &english, &results));
  return measure(&bench);
}

absl::Status Engine() {
  ASSIGN_OR_RETURN(ResultFile results, ResultFile::Open(absl::GetFlag(FLAGS_json), /*resume=*/false));
  return RunEngineBench({.models = absl::GetFlag(FLAGS_models),
                         .weights = absl::GetFlag(FLAGS_weights),
                         .kinds = absl::GetFlag(FLAGS_kinds),
                         .only = absl::GetFlag(FLAGS_only),
                         .repeats = std::max(1, absl::GetFlag(FLAGS_repeats)),
                         .seconds = absl::GetFlag(FLAGS_seconds)},
                        &results);
}

absl::Status Service() {
  ASSIGN_OR_RETURN(ResultFile results, ResultFile::Open(absl::GetFlag(FLAGS_json), /*resume=*/false));
  const std::vector<std::string> models = absl::GetFlag(FLAGS_models);
  if (models.empty()) return absl::InvalidArgumentError("--models names no folder");
  return RunServiceBench({.mnemosyned = absl::GetFlag(FLAGS_mnemosyned),
                          .model = models[0],
                          .scratch = absl::GetFlag(FLAGS_scratch),
                          .parts = absl::GetFlag(FLAGS_parts),
                          .workers = std::max(1, absl::GetFlag(FLAGS_workers)),
                          .repeats = std::max(1, absl::GetFlag(FLAGS_repeats)),
                          .session_tokens = absl::GetFlag(FLAGS_session_tokens),
                          .far_offset = absl::GetFlag(FLAGS_far_offset),
                          .crowd = std::max(20, absl::GetFlag(FLAGS_crowd))},
                         &results);
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

// Stories of the tasks in turn; needs no server.
absl::Status Stories() {
  ASSIGN_OR_RETURN(const std::vector<RecallTask> tasks, Tasks("stories", absl::GetFlag(FLAGS_stories), true));
  Random random(absl::GetFlag(FLAGS_seed));
  for (int i = 0; i < absl::GetFlag(FLAGS_samples); ++i) {
    const RecallTask& task = tasks[static_cast<size_t>(i) % tasks.size()];
    const BabiStory story = MakeBabiStory(task.story, random);
    const BabiStory::Question& question = story.questions.back();
    const nlohmann::json line = {{"task", task.name},
                                 {"story", absl::StrJoin(story.statements, " ")},
                                 {"question", question.text},
                                 {"answer", question.answer}};
    std::printf("%s\n", line.dump().c_str());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace mnemosyne

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "mnemo-bench recall|capacity|babilong|engine|service|facts|stories [flags]: measures a running server or the "
      "engine; see "
      "docs/recall.md and docs/performance.md");
  const std::vector<char*> words = absl::ParseCommandLine(argc, argv);
  const std::string what = words.size() == 2 ? words[1] : "";
  const std::map<std::string, std::function<absl::Status()>> commands = {
      {"recall", [] { return mnemosyne::Measure(mnemosyne::Recall); }},
      {"capacity", [] { return mnemosyne::Measure(mnemosyne::Capacity); }},
      {"babilong", [] { return mnemosyne::Measure(mnemosyne::Babilong); }},
      {"engine", mnemosyne::Engine},
      {"service", mnemosyne::Service},
      {"facts", mnemosyne::Facts},
      {"stories", mnemosyne::Stories}};
  const auto command = commands.find(what);
  if (command == commands.end()) {
    std::fprintf(stderr,
                 "mnemo-bench: say what to do: recall, capacity, babilong, engine, service, facts or stories\n");
    return 2;
  }
  const absl::Status status = command->second();
  if (status.ok()) return 0;
  std::fprintf(stderr, "mnemo-bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
