// mnemo-train: makes a model from a config, a recipe and text.
#include <malloc.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_format.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/model.h"
#include "train/loaded_titans.h"
#include "train/recall_evaluation.h"
#include "train/recall_inspection.h"
#include "train/trainer.h"

ABSL_FLAG(std::string, config, "", "the model's config.json");
ABSL_FLAG(std::string, recipe, "", "how to train it: a recipe.json");
ABSL_FLAG(std::vector<std::string>, corpus, {}, "text files that training reads");
ABSL_FLAG(std::vector<std::string>, held_out, {}, "text files that only evaluation reads");
ABSL_FLAG(std::string, words, "/usr/share/wordnet", "the folder of WordNet's index files (Debian: wordnet-base)");
ABSL_FLAG(std::string, out, "", "the folder that gets config.json, model.safetensors, checkpoint and train.jsonl");
ABSL_FLAG(std::string, init, "",
          "a model's folder to start from in place of random weights; it may have fewer blocks and a smaller ff_dim");
ABSL_FLAG(bool, resume, false, "go on from the checkpoint in --out");
ABSL_FLAG(int64_t, stop_after, 0, "stop after this step of the recipe; 0: at its end");
ABSL_FLAG(int, threads, static_cast<int>(std::thread::hardware_concurrency()),
          "cores to train on; changes no bit of the result");
ABSL_FLAG(int, log_every, 20, "steps between lines of the log");
ABSL_FLAG(int, save_every, 200, "steps between checkpoints");
ABSL_FLAG(int, evaluate_every, 1000, "steps between evaluations by generation; 0: only at the end");
ABSL_FLAG(int, evaluate_samples, 20, "haystacks a cell in an evaluation");
ABSL_FLAG(std::vector<std::string>, evaluate_facts, std::vector<std::string>({"1", "8"}),
          "facts a haystack, each asked for");
ABSL_FLAG(
    std::vector<std::string>, evaluate_tasks, std::vector<std::string>({"number", "passkey"}),
    "number, word, uuid, everyday, untaught: such facts in English; passkey: a number in noise; text: nats a byte");
ABSL_FLAG(std::vector<std::string>, evaluate_bytes, std::vector<std::string>({"2048", "16384"}), "haystack sizes");

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
                                   .number_share = 1,
                                   .word_share = 0};
  ASSIGN_OR_RETURN(const RecallInspection of, InspectRecall(folder, options, absl::GetFlag(FLAGS_inspect_documents),
                                                            /*seed=*/1, vocabulary, held_out));
  const Json line = {
      {"answers", of.answers}, {"characters", of.characters}, {"signal", of.signal}, {"noise", of.noise},
      {"found", of.found},     {"linear", of.linear},         {"right", of.right},   {"exact", of.exact}};
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

void WriteEvaluation(const Json& line, std::FILE* log) {
  std::fprintf(log, "%s\n", line.dump().c_str());
  std::fflush(log);
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

absl::Status EvaluateText(const std::string& folder, int64_t step, const Haystack& english, std::FILE* log) {
  ASSIGN_OR_RETURN(const LoadedTitans model, LoadTitans(folder));
  for (const std::string& bytes : absl::GetFlag(FLAGS_evaluate_bytes)) {
    const int64_t length = std::atoll(bytes.c_str());
    const double nats = TextLoss(model, english, absl::GetFlag(FLAGS_evaluate_samples), length, /*seed=*/1);
    WriteEvaluation({{"step", step}, {"task", "text"}, {"bytes", length}, {"nats_a_byte", nats}}, log);
  }
  return absl::OkStatus();
}

absl::Status Evaluate(const std::string& folder, int64_t step, const Vocabulary& vocabulary, const Haystack& english,
                      std::FILE* log) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Load(folder, {}));
  const Haystack noise = Haystack::Noise();
  for (const std::string& name : absl::GetFlag(FLAGS_evaluate_tasks)) {
    if (name == "text") {
      RETURN_IF_ERROR(EvaluateText(folder, step, english, log));
      continue;
    }
    ASSIGN_OR_RETURN(const RecallTask task, FindRecallTask(name));
    for (const std::string& bytes : absl::GetFlag(FLAGS_evaluate_bytes)) {
      for (const std::string& facts : absl::GetFlag(FLAGS_evaluate_facts)) {
        const RecallCell cell = {.kind = task.kind,
                                 .bytes = std::atoll(bytes.c_str()),
                                 .facts = std::atoll(facts.c_str()),
                                 .samples = absl::GetFlag(FLAGS_evaluate_samples)};
        ASSIGN_OR_RETURN(const RecallScore score,
                         ScoreRecall(cell, vocabulary, task.is_in_noise ? noise : english,
                                     [&](const RecallSample& sample) { return ReadAndAnswer(*model, sample); }));
        WriteEvaluation({{"step", step},
                         {"task", task.name},
                         {"bytes", cell.bytes},
                         {"facts", cell.facts},
                         {"questions", score.questions},
                         {"right", score.right},
                         {"exact_percent", 100.0 * score.right / score.questions},
                         {"characters", static_cast<double>(score.characters_right) / score.characters}},
                        log);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Run() {
  if (const std::string folder = absl::GetFlag(FLAGS_inspect); !folder.empty()) return Inspect(folder);
  ASSIGN_OR_RETURN(const std::string config_text, ReadFile(absl::GetFlag(FLAGS_config)));
  ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(config_text));
  ASSIGN_OR_RETURN(const std::string recipe_text, ReadFile(absl::GetFlag(FLAGS_recipe)));
  ASSIGN_OR_RETURN(const Recipe recipe, ParseRecipe(recipe_text));
  RETURN_IF_ERROR(Trainer::Check(config, recipe));
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(absl::GetFlag(FLAGS_words)));
  ASSIGN_OR_RETURN(const Haystack english, Haystack::FromFiles(absl::GetFlag(FLAGS_corpus)));
  ASSIGN_OR_RETURN(const Haystack held_out, Haystack::FromFiles(absl::GetFlag(FLAGS_held_out)));
  const std::string out = absl::GetFlag(FLAGS_out), checkpoint = out + "/checkpoint";
  std::error_code error;
  std::filesystem::create_directories(out, error);
  std::FILE* log = std::fopen((out + "/train.jsonl").c_str(), absl::GetFlag(FLAGS_resume) ? "a" : "w");
  if (log == nullptr) return absl::ErrnoToStatus(errno, "cannot write '" + out + "/train.jsonl'");

  Trainer trainer(config, recipe, {vocabulary, english, Haystack::Noise()}, std::max(1, absl::GetFlag(FLAGS_threads)));
  if (absl::GetFlag(FLAGS_resume)) RETURN_IF_ERROR(trainer.LoadCheckpoint(checkpoint));
  if (const std::string init = absl::GetFlag(FLAGS_init); !init.empty()) RETURN_IF_ERROR(trainer.StartFrom(init));

  const auto begin = std::chrono::steady_clock::now();
  const int64_t first = trainer.step(), tokens_a_step = recipe.rows * recipe.segment_tokens;
  double answer_loss = 0, text_loss = 0, accuracy = 0, exact = 0, write = 0, write_facts = 0, keys_alike = 0, found = 0,
         spread = 0, drill_found = 0, drill_noise = 0, drill_confused = 0;
  const int64_t stop_after = absl::GetFlag(FLAGS_stop_after),
                last = stop_after > 0 ? std::min(stop_after, recipe.steps()) : recipe.steps();
  while (trainer.step() < last) {
    const Trainer::StepReport report = trainer.Step();
    const double keep = report.step == first + 1 ? 0.0 : 0.95;  // smoothed for the eye
    answer_loss = keep * answer_loss + (1 - keep) * report.answer_loss;
    text_loss = keep * text_loss + (1 - keep) * report.text_loss;
    accuracy = keep * accuracy + (1 - keep) * report.answer_accuracy;
    exact = keep * exact + (1 - keep) * report.exact;
    write = keep * write + (1 - keep) * report.write;
    spread = keep * spread + (1 - keep) * report.spread;
    drill_found = keep * drill_found + (1 - keep) * report.drill_found;
    drill_noise = keep * drill_noise + (1 - keep) * report.drill_noise;
    drill_confused = keep * drill_confused + (1 - keep) * report.drill_confused;
    found = keep * found + (1 - keep) * report.found;
    keys_alike = keep * keys_alike + (1 - keep) * report.keys_alike;
    write_facts = keep * write_facts + (1 - keep) * report.write_facts;
    if (report.step % absl::GetFlag(FLAGS_log_every) == 0) {
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      const double rate = (report.step - first) * tokens_a_step / seconds;
      std::printf(
          "step %d/%d  text %.3f  answer %.4f  right %.1f%%  exact %.1f%%  write %.6f / %.4f  found %.1f%%  "
          "alike %.2f  spread %.4f  drill %.2f%% %.4f %.3f  |grad| %.2f  %.0f tokens/s  %.0f min left\n",
          static_cast<int>(report.step), static_cast<int>(last), text_loss, answer_loss, 100 * accuracy, 100 * exact,
          write, write_facts, 100 * found, keys_alike, spread, 100 * drill_found, drill_noise, drill_confused,
          report.gradient_norm, rate, (last - report.step) * tokens_a_step / rate / 60);
      std::fflush(stdout);
      const Json line = {{"step", report.step},
                         {"text_loss", text_loss},
                         {"answer_loss", answer_loss},
                         {"answer_accuracy", accuracy},
                         {"exact", exact},
                         {"write_outside_facts", write},
                         {"write_in_facts", write_facts},
                         {"found", found},
                         {"spread", spread},
                         {"drill_found", drill_found},
                         {"drill_noise", drill_noise},
                         {"drill_confused", drill_confused},
                         {"keys_alike", keys_alike},
                         {"gradient_norm", report.gradient_norm},
                         {"seconds", seconds},
                         {"tokens_per_second", rate}};
      std::fprintf(log, "%s\n", line.dump().c_str());
      std::fflush(log);
    }
    const bool is_last = report.step == last;
    if (report.step % absl::GetFlag(FLAGS_save_every) == 0 || is_last) {
      RETURN_IF_ERROR(trainer.SaveCheckpoint(checkpoint));
      RETURN_IF_ERROR(trainer.ExportModel(out));
    }
    const int evaluate_every = absl::GetFlag(FLAGS_evaluate_every);
    if (is_last || (evaluate_every > 0 && report.step % evaluate_every == 0)) {
      RETURN_IF_ERROR(trainer.ExportModel(out));
      RETURN_IF_ERROR(Evaluate(out, report.step, vocabulary, held_out, log));
    }
  }
  std::fclose(log);
  return absl::OkStatus();
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
