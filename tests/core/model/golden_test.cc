// Every golden case (tests/golden, and any folder named by MNEMOSYNE_GOLDEN_DIR) against the float64 oracle's answers
// (tests/reference), however its tokens are split into calls.
#include <nlohmann/json.hpp>

#include "core/model/model.h"
#include "core/model/safetensors.h"
#include "tests/core/model/model_fixture.h"

namespace mnemosyne {
namespace {

constexpr double kTolerance = 5e-5;  // of max(1, max |expected|)

struct GoldenCase {
  std::string folder;
  LoadedParameters model;
  std::vector<int32_t> tokens;
  std::map<std::string, at::Tensor> expected;
};

std::vector<std::string> CaseFolders() {
  std::vector<std::string> roots = {std::string(std::getenv("MNEMOSYNE_SOURCE_DIR")) + "/tests/golden"};
  if (const char* more = std::getenv("MNEMOSYNE_GOLDEN_DIR")) roots.push_back(more);
  std::vector<std::string> folders;
  for (const std::string& root : roots) {
    for (const auto& entry : std::filesystem::directory_iterator(root)) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

GoldenCase ReadCase(const std::string& folder) {
  GoldenCase out;
  out.folder = folder;
  out.model = ReadModelFolder(folder);
  out.tokens = nlohmann::json::parse(*ReadFile(folder + "/tokens.json")).get<std::vector<int32_t>>();
  const std::string bytes = *ReadFile(folder + "/expected.safetensors");
  const auto views = ParseSafetensors(bytes);
  EXPECT_TRUE(views.ok()) << views.status();
  for (const TensorView& view : *views) out.expected[view.name] = at::tensor(view.ToFloats()).view(view.shape).clone();
  return out;
}

using Tensors = std::map<std::string, at::Tensor>;  // by the names of expected.safetensors

void AddMemories(const GoldenCase& golden, const Titans& titans, const BatchState& state, Tensors* out) {
  for (size_t i = 0; i < golden.model.config.blocks.size(); ++i) {
    if (!HasMemory(golden.model.config.blocks[i])) continue;
    const MemoryState memory = titans.Memory(state, i);
    for (size_t l = 0; l < memory.weights.size(); ++l) {
      (*out)["blocks." + std::to_string(i) + ".memory.M." + std::to_string(l)] = memory.weights[l];
      (*out)["blocks." + std::to_string(i) + ".memory.S." + std::to_string(l)] = memory.velocity[l];
    }
  }
}

Tensors ReadCut(const GoldenCase& golden, const std::vector<int64_t>& sizes) {
  const Titans titans(golden.model.config, golden.model.tensors);
  BatchState state = titans.InitialState(1);
  const at::Tensor ids = at::tensor(golden.tokens).to(at::kLong).unsqueeze(0);
  std::vector<at::Tensor> logits, surprise;
  int64_t done = 0;
  for (const int64_t size : sizes) {
    const Titans::Output out = titans.Forward(ids.narrow(1, done, size), &state, Titans::Logits::kAll);
    logits.push_back(out.logits[0]);
    surprise.push_back(out.surprise[0]);
    done += size;
  }
  Tensors result = {{"logits", at::cat(logits)}, {"surprise", at::cat(surprise)}};
  AddMemories(golden, titans, state, &result);
  return result;
}

void ExpectClose(const GoldenCase& golden, const Tensors& got, const std::string& how) {
  EXPECT_EQ(got.size(), golden.expected.size());
  for (const auto& [name, expected] : golden.expected) {
    ASSERT_TRUE(got.contains(name)) << name;
    EXPECT_LE(RelativeError(got.at(name), expected), kTolerance) << golden.folder << " " << how << " " << name;
  }
}

std::vector<int64_t> RandomCuts(int64_t tokens, std::mt19937_64& random) {
  std::vector<int64_t> sizes;
  for (int64_t rest = tokens; rest > 0; rest -= sizes.back()) {
    sizes.push_back(std::uniform_int_distribution<int64_t>(1, std::min<int64_t>(rest, 40))(random));
  }
  return sizes;
}

TEST(Golden, WholeTokenByTokenAndCutAnywhereAgreeWithTheOracle) {
  const at::NoGradGuard no_grad;
  std::mt19937_64 random(TestSeed());
  const auto folders = CaseFolders();
  ASSERT_GE(folders.size(), 18);
  for (const std::string& folder : folders) {
    const GoldenCase golden = ReadCase(folder);
    const int64_t tokens = golden.tokens.size();
    ExpectClose(golden, ReadCut(golden, {tokens}), "whole");
    ExpectClose(golden, ReadCut(golden, std::vector<int64_t>(tokens, 1)), "token by token");
    for (int i = 0; i < 5; ++i) ExpectClose(golden, ReadCut(golden, RandomCuts(tokens, random)), "cut at random");
  }
}

// A session as the server keeps it: whole blocks are stepped, the pending rest is read by a fork.
struct SessionReading {
  std::string state_bytes;
  std::vector<float> last_logits;
};

SessionReading ReadAsSession(const Model& model, const std::vector<int32_t>& tokens,
                             const std::vector<int64_t>& sizes) {
  StatePtr state = model.InitialState();
  const int64_t block = model.config().block_tokens();
  SessionReading reading;
  int64_t accepted = 0;
  for (const int64_t size : sizes) {
    accepted += size;
    while (accepted - StateOffset(*state) >= block) {
      const BlockInput input = {state, absl::MakeSpan(tokens).subspan(StateOffset(*state), block)};
      BlockResult step = model.StepBlocks({input})[0];
      EXPECT_TRUE(step.status.ok()) << step.status;
      state = step.state;
    }
    const std::unique_ptr<Fork> fork = model.NewFork(state);
    const int64_t from = StateOffset(*state);
    EXPECT_TRUE(fork->Feed(absl::MakeSpan(tokens).subspan(from, accepted - from)).ok());
    reading.last_logits.assign(fork->logits().begin(), fork->logits().end());
  }
  reading.state_bytes = model.EncodeState(*state);
  return reading;
}

TEST(Golden, ASessionHasTheSameBitsInAllCuts) {
  std::mt19937_64 random(TestSeed());
  for (const std::string& folder : CaseFolders()) {
    const GoldenCase golden = ReadCase(folder);
    const auto model = Model::Load(folder, {});
    ASSERT_TRUE(model.ok()) << model.status();
    const int64_t tokens = golden.tokens.size();
    const SessionReading whole = ReadAsSession(**model, golden.tokens, {tokens});
    for (int i = 0; i < 6; ++i) {
      const auto sizes = i == 0 ? std::vector<int64_t>(tokens, 1) : RandomCuts(tokens, random);
      const SessionReading cut = ReadAsSession(**model, golden.tokens, sizes);
      EXPECT_EQ(cut.state_bytes, whole.state_bytes) << folder;
      EXPECT_EQ(cut.last_logits, whole.last_logits) << folder;
    }
    if (!whole.last_logits.empty()) {
      const at::Tensor expected = golden.expected.at("logits")[tokens - 1];
      EXPECT_LE(RelativeError(at::tensor(whole.last_logits), expected), kTolerance) << folder;
    }
  }
}

}  // namespace
}  // namespace mnemosyne
