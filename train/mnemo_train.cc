// mnemo-train: makes a model from a config, a recipe and text.
#include <malloc.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/model.h"
#include "train/evaluation.h"
#include "train/recall_inspection.h"
#include "train/side_evaluation.h"
#include "train/trainer.h"
#include "train/training_log.h"

ABSL_FLAG(std::string, config, "", "the model's config.json");
ABSL_FLAG(std::string, recipe, "", "how to train it: a recipe.json");
ABSL_FLAG(std::vector<std::string>, corpus, {}, "text files that training reads");
ABSL_FLAG(std::vector<std::string>, held_out, {}, "text files that only evaluation reads");
ABSL_FLAG(std::string, words, "/usr/share/wordnet", "the folder of WordNet's index files (Debian: wordnet-base)");
ABSL_FLAG(std::string, out, "", "the folder that gets config.json, model.safetensors, checkpoint and train.jsonl");
ABSL_FLAG(std::string, init, "",
          "a model's folder to start from in place of random weights; it may have fewer blocks and a smaller ff_dim");
ABSL_FLAG(std::vector<std::string>, only, {},
          "train only weights whose name has one of these parts, such as memory.gates; empty: all");
ABSL_FLAG(bool, resume, false, "go on from the checkpoint in --out");
ABSL_FLAG(int64_t, stop_after, 0, "stop after this step of the recipe; 0: at its end");
ABSL_FLAG(int, threads, static_cast<int>(std::thread::hardware_concurrency()),
          "cores to train on; changes no bit of the result");
ABSL_FLAG(std::string, device, "cpu", "what to train on: cpu, cuda or cuda:N; evaluations run on the CPU");
ABSL_FLAG(int, log_every, 20, "steps between lines of the log");
ABSL_FLAG(int, save_every, 200, "steps between checkpoints; 0: only one, at the end");
ABSL_FLAG(int, evaluate_every, 1000, "steps between evaluations by generation; 0: only at the end");
ABSL_FLAG(int, patience, 0, "stop when so many evaluations in a row were no better than the best; 0: at the end");
ABSL_FLAG(int64_t, evaluate_samples, 20, "haystacks a cell in an evaluation");
ABSL_FLAG(std::vector<std::string>, evaluate_facts, std::vector<std::string>({"1", "8"}),
          "facts a haystack, each asked for");
ABSL_FLAG(std::vector<std::string>, evaluate_tasks, std::vector<std::string>({"number", "passkey"}),
          "number, word, uuid, everyday, untaught: such facts in English; passkey: a number in noise; qa1 to qa5: "
          "stories; text: nats a byte");
ABSL_FLAG(std::vector<std::string>, evaluate_bytes, std::vector<std::string>({"2048", "16384"}), "haystack sizes");
ABSL_FLAG(bool, evaluate_show_wrong, false, "also print every wrong answer");

ABSL_FLAG(std::string, evaluate, "", "train nothing: evaluate the model in this folder");
ABSL_FLAG(std::string, inspect, "", "train nothing: print what limits the recall of the model in this folder");
ABSL_FLAG(int64_t, inspect_tokens, 4096, "tokens of each document; a multiple of 256");
ABSL_FLAG(int64_t, inspect_facts, 20, "facts in each document");
ABSL_FLAG(int64_t, inspect_documents, 10, "documents, of held-out text, names and numbers");

namespace mnemosyne {
namespace {

using Json = nlohmann::json;

absl::Status Inspect(const std::string& folder) {
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  ASSIGN_OR_RETURN(const Haystack held_out, Haystack::FromFiles(absl::GetFlag(FLAGS_held_out)));
  const int64_t tokens = absl::GetFlag(FLAGS_inspect_tokens), facts = absl::GetFlag(FLAGS_inspect_facts);
  if (tokens < 256 || facts < 1 || absl::GetFlag(FLAGS_inspect_documents) < 1) {
    return absl::InvalidArgumentError(
        "--inspect_tokens must be at least 256, --inspect_facts and _documents at least 1");
  }
  const DocumentOptions options = {.min_tokens = tokens,
                                   .max_tokens = tokens,
                                   .min_facts = facts,
                                   .max_facts = facts,
                                   .split = Split::kHeldOut,
                                   .noise_share = 0,
                                   .facts = {.number = 1}};
  ASSIGN_OR_RETURN(const RecallInspection of, InspectRecall(folder, options, absl::GetFlag(FLAGS_inspect_documents),
                                                            /*seed=*/1, vocabulary, held_out));
  const Json line = {
      {"answers", of.answers}, {"characters", of.characters}, {"signal", of.signal}, {"noise", of.noise},
      {"found", of.found},     {"linear", of.linear},         {"right", of.right},   {"exact", of.exact}};
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> Numbers(const char* flag, const std::vector<std::string>& words) {
  std::vector<int64_t> numbers;
  for (const std::string& word : words) {
    if (!absl::SimpleAtoi(word, &numbers.emplace_back()) || numbers.back() < 0) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, ": '", word, "' is not a number of at least 0"));
    }
  }
  return numbers;
}

absl::StatusOr<EvaluationPlan> PlanFromFlags() {
  EvaluationPlan plan = {.tasks = absl::GetFlag(FLAGS_evaluate_tasks),
                         .samples = absl::GetFlag(FLAGS_evaluate_samples),
                         .show_wrong = absl::GetFlag(FLAGS_evaluate_show_wrong)};
  ASSIGN_OR_RETURN(plan.bytes, Numbers("evaluate_bytes", absl::GetFlag(FLAGS_evaluate_bytes)));
  ASSIGN_OR_RETURN(plan.facts, Numbers("evaluate_facts", absl::GetFlag(FLAGS_evaluate_facts)));
  return plan;
}

absl::StatusOr<at::Device> DeviceFromFlag() {
  const std::string name = absl::GetFlag(FLAGS_device);
  try {
    const at::Device device(name);
    at::empty({1}, at::TensorOptions().device(device));
    return device;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device=", name, ": ", absl::string_view(error.what()).substr(0, 300)));
  }
}

absl::Status EvaluateAlone(const std::string& folder) {
  ASSIGN_OR_RETURN(const EvaluationPlan plan, PlanFromFlags());
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  ASSIGN_OR_RETURN(const Haystack held_out, Haystack::FromFiles(absl::GetFlag(FLAGS_held_out)));
  return Evaluate(folder, plan, vocabulary, held_out,
                  [](const Json& line) {
                    std::printf("%s\n", line.dump().c_str());
                    std::fflush(stdout);
                  })
      .status();
}

absl::Status Train() {
  ASSIGN_OR_RETURN(const std::string config_text, ReadFile(absl::GetFlag(FLAGS_config)));
  ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(config_text));
  ASSIGN_OR_RETURN(const std::string recipe_text, ReadFile(absl::GetFlag(FLAGS_recipe)));
  ASSIGN_OR_RETURN(const Recipe recipe, ParseRecipe(recipe_text));
  const std::vector<std::string> only = absl::GetFlag(FLAGS_only);
  RETURN_IF_ERROR(Trainer::Check(config, recipe, only));
  ASSIGN_OR_RETURN(const EvaluationPlan plan, PlanFromFlags());
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  ASSIGN_OR_RETURN(const Haystack english, Haystack::FromFiles(absl::GetFlag(FLAGS_corpus)));
  ASSIGN_OR_RETURN(const Haystack held_out, Haystack::FromFiles(absl::GetFlag(FLAGS_held_out)));
  LessonData data = {vocabulary, english, Haystack::Noise()};
  const std::string parent = std::filesystem::path(absl::GetFlag(FLAGS_config)).parent_path();
  const std::string folder = parent.empty() ? "." : parent;
  ASSIGN_OR_RETURN(data.tokenizer, Tokenizer::Create(config, folder));
  if (!data.tokenizer->end_of_answer()) {
    return absl::InvalidArgumentError(absl::StrCat("the tokenizer in '", folder, "' has no token that ends an answer"));
  }
  if (config.tokenizer.kind == TokenizerKind::kSentencePiece) {
    ASSIGN_OR_RETURN(data.tokenizer_file, ReadFile(absl::StrCat(folder, "/", config.tokenizer.file)));
  }
  const std::string out = absl::GetFlag(FLAGS_out), checkpoint = out + "/checkpoint";
  std::error_code error;
  std::filesystem::create_directories(out, error);
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainingLog> log,
                   TrainingLog::Open(out + "/train.jsonl", absl::GetFlag(FLAGS_resume)));

  Trainer::Options options = {.only = only, .threads = std::max(1, absl::GetFlag(FLAGS_threads))};
  ASSIGN_OR_RETURN(options.device, DeviceFromFlag());
  Trainer trainer(config, recipe, std::move(data), options);
  if (absl::GetFlag(FLAGS_resume)) RETURN_IF_ERROR(trainer.LoadCheckpoint(checkpoint));
  if (const std::string init = absl::GetFlag(FLAGS_init); !init.empty()) RETURN_IF_ERROR(trainer.StartFrom(init));
  SideEvaluation evaluation(out, absl::GetFlag(FLAGS_resume), plan, &vocabulary, &held_out, log.get());

  const auto begin = std::chrono::steady_clock::now();
  const int64_t first = trainer.step();
  int64_t tokens = 0;
  SmoothedReport smoothed;
  const int64_t stop_after = absl::GetFlag(FLAGS_stop_after), patience = absl::GetFlag(FLAGS_patience),
                evaluate_every = absl::GetFlag(FLAGS_evaluate_every),
                last = stop_after > 0 ? std::min(stop_after, recipe.steps()) : recipe.steps();
  for (bool is_last = trainer.step() >= last; !is_last;) {
    const Trainer::StepReport report = trainer.Step();
    smoothed.Add(report);
    tokens += report.tokens;
    is_last = report.step == last || (patience > 0 && evaluation.no_better() >= patience);
    const int log_every = absl::GetFlag(FLAGS_log_every);
    if (log_every > 0 && report.step % log_every == 0) {
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      Json line = smoothed.json();
      line["step"] = report.step;
      line["seconds"] = seconds;
      line["tokens_per_second"] = static_cast<double>(tokens) / seconds;
      const double minutes =
          seconds / static_cast<double>(report.step - first) * static_cast<double>(last - report.step) / 60;
      log->Write(line, absl::StrFormat("step %d/%d  %s  %.0f tokens/s  %.0f min left", report.step, last,
                                       smoothed.ForTheEye(), static_cast<double>(tokens) / seconds, minutes));
    }
    const int save_every = absl::GetFlag(FLAGS_save_every);
    if (is_last || (save_every > 0 && report.step % save_every == 0)) {
      RETURN_IF_ERROR(trainer.SaveCheckpoint(checkpoint));
      RETURN_IF_ERROR(trainer.ExportModel(out));
    }
    if (is_last || (evaluate_every > 0 && report.step % evaluate_every == 0)) {
      RETURN_IF_ERROR(evaluation.Begin(trainer));
    }
  }
  return evaluation.Wait();
}

absl::Status Run() {
  if (const std::string folder = absl::GetFlag(FLAGS_inspect); !folder.empty()) return Inspect(folder);
  if (const std::string folder = absl::GetFlag(FLAGS_evaluate); !folder.empty()) return EvaluateAlone(folder);
  return Train();
}

}  // namespace
}  // namespace mnemosyne

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("trains a Titans model; see docs/training.md");
  absl::ParseCommandLine(argc, argv);
  // A step's tensors come and go by the gigabyte: memory that went back to the system would be cleared again each time.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mnemosyne::EnterWorkerThread();
  const absl::Status status = mnemosyne::Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "mnemo-train: %s\n", std::string(status.message()).c_str());
  return 1;
}
