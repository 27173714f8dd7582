// A model as the engine sees it: batches, forks, the state's bytes, decoding.
#include "core/model/model.h"

#include <cstring>
#include <set>

#include "absl/strings/match.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/base/utf8.h"
#include "core/kernels/tile_product.h"
#include "core/model/decoder.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

class ModelTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteRandomModel(folder_.path(), SmallConfig(), 5);
    auto loaded = Model::Load(folder_.path(), {});
    ASSERT_OK(loaded);
    model_ = *std::move(loaded);
  }
  std::vector<int32_t> RandomTokens(int64_t count) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i) tokens.push_back(random_() % 256);
    return tokens;
  }
  StatePtr After(int64_t blocks) {
    StatePtr state = model_->InitialState();
    for (int64_t i = 0; i < blocks; ++i) {
      const auto tokens = RandomTokens(model_->config().block_tokens());
      state = model_->StepBlocks({{state, tokens}})[0].state;
    }
    return state;
  }

  TempFolder folder_;
  std::unique_ptr<Model> model_;
  std::mt19937_64 random_{11};
};

TEST_F(ModelTest, ABatchGivesEachTheBitsItHasAlone) {
  std::vector<StatePtr> states;
  std::vector<std::vector<int32_t>> tokens;
  for (int i = 0; i < 7; ++i) {
    states.push_back(After(i % 3));
    tokens.push_back(RandomTokens(model_->config().block_tokens()));
  }
  std::vector<BlockInput> inputs;
  for (int i = 0; i < 7; ++i) inputs.push_back({states[i], tokens[i]});
  const std::vector<BlockResult> together = model_->StepBlocks(inputs);
  for (int i = 0; i < 7; ++i) {
    const BlockResult alone = model_->StepBlocks({inputs[i]})[0];
    EXPECT_EQ(model_->EncodeState(*together[i].state), model_->EncodeState(*alone.state));
    EXPECT_EQ(together[i].mean_surprise, alone.mean_surprise);
  }
}

// States in a table, stepped and answered from together: as each alone, to the bit where kernels compute.
TEST_F(ModelTest, SessionsThatShareATableHaveTheBitsTheyHaveAlone) {
  const auto tabled = Model::Load(folder_.path(), {.batch_sessions = 5});
  ASSERT_OK(tabled);
  EXPECT_EQ(model_->batch_sessions(), 1);
  EXPECT_EQ((*tabled)->batch_sessions(), 5);
  EXPECT_EQ((*tabled)->fingerprint(), model_->fingerprint());
  EXPECT_EQ((*tabled)->state_bytes(), model_->state_bytes());
  const int64_t block = model_->config().block_tokens();
  std::vector<StatePtr> alone(12, model_->InitialState()), together(12, (*tabled)->InitialState());
  for (int step = 0; step < 4; ++step) {
    std::vector<std::vector<int32_t>> tokens;
    for (int i = 0; i < 12; ++i) tokens.push_back(RandomTokens(block));
    tokens[3][1] = -1;
    std::vector<BlockInput> inputs;
    for (int i = step; i < 12; ++i) inputs.push_back({together[i], tokens[i]});
    const std::vector<BlockResult> results = (*tabled)->StepBlocks(inputs);
    ASSERT_EQ(results.size(), inputs.size());
    for (int i = step; i < 12; ++i) {
      const BlockResult& result = results[i - step];
      const BlockResult expected = model_->StepBlocks({{alone[i], tokens[i]}})[0];
      EXPECT_EQ(result.status, expected.status) << result.status;
      if (!result.status.ok()) continue;
      EXPECT_NEAR(result.mean_surprise, expected.mean_surprise, 1e-5 * (1 + expected.mean_surprise));
      alone[i] = expected.state;
      together[i] = result.state;
      EXPECT_EQ((*tabled)->EncodeState(*result.state), model_->EncodeState(*expected.state));
    }
  }
  // The bytes of one are the other's, and forks go on while the sessions' rows are given back.
  const auto decoded = (*tabled)->DecodeState(model_->EncodeState(*alone[7]));
  ASSERT_OK(decoded);
  std::unique_ptr<Fork> fork = (*tabled)->NewFork(*decoded), expected = model_->NewFork(alone[7]);
  together.clear();
  const std::vector<int32_t> question = RandomTokens(block + 3);
  EXPECT_OK(fork->Feed(question));
  EXPECT_OK(expected->Feed(question));
  for (int token = 0; token < 20; ++token) {
    EXPECT_EQ(fork->logits(), expected->logits());
    ASSERT_OK((*tabled)->FeedTogether({fork.get()}, {token})[0]);
    ASSERT_OK(expected->Feed({token}));
  }
}

// The BLAS gives a row other bits in a taller product, so a companion would leak in.
TEST_F(ModelTest, AModelThatABlasComputesForIsSteppedAloneOnACpu) {
  ModelConfig config = SmallConfig();
  config.blocks.push_back(BlockKind::kMac);
  WriteRandomModel(folder_.path(), config, 5);
  const auto model = Model::Load(folder_.path(), {.batch_sessions = 5});
  ASSERT_OK(model);
  EXPECT_EQ((*model)->batch_sessions(), 1);
}

TEST_F(ModelTest, ASessionOfABatchThatIsNotFiniteIsRefusedAlone) {
  // With a key that nobody else has, a step of that size leaves the numbers there are.
  ModelConfig config = SmallConfig();
  config.memory.max_grad_norm = 0;
  config.memory.theta_max = 0.6;
  WriteRandomModel(folder_.path(), config, 5);
  const auto tabled = Model::Load(folder_.path(), {.batch_sessions = 3}), alone = Model::Load(folder_.path(), {});
  ASSERT_OK(tabled);
  ASSERT_OK(alone);
  const int64_t block = config.block_tokens();
  std::vector<StatePtr> states(3, (*tabled)->InitialState()), expected(3, (*alone)->InitialState());
  int refused = 0, passed = 0;
  for (int step = 0; step < 60 && refused == 0; ++step) {
    std::vector<std::vector<int32_t>> tokens = {RandomTokens(block), RandomTokens(block), RandomTokens(block)};
    std::vector<BlockInput> inputs;
    for (int i = 0; i < 3; ++i) inputs.push_back({states[i], tokens[i]});
    const std::vector<BlockResult> results = (*tabled)->StepBlocks(inputs);
    for (int i = 0; i < 3; ++i) {
      const BlockResult one = (*alone)->StepBlocks({{expected[i], tokens[i]}})[0];
      EXPECT_EQ(results[i].status, one.status) << results[i].status;
      (one.status.ok() ? passed : refused) += 1;
      if (one.status.ok()) states[i] = results[i].state, expected[i] = one.state;
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(passed, 0);
}

// And the state that comes back goes on to the bit: where its tensors lie otherwise in memory, no product may tell.
TEST_F(ModelTest, StateBytesGoThereAndBack) {
  for (const BlockKind kind : {BlockKind::kLmm, BlockKind::kMac}) {
    ModelConfig config = SmallConfig();
    config.blocks.push_back(kind);
    config.dim = 64;
    config.memory.head_dim = 40;
    config.memory.hidden = 72;
    config.segment = config.memory.chunk = 32;
    WriteRandomModel(folder_.path(), config, 5);
    const auto model = Model::Load(folder_.path(), {});
    ASSERT_OK(model);
    const auto next = [&](const StatePtr& state, const std::vector<int32_t>& tokens) {
      return (*model)->StepBlocks({{state, tokens}})[0].state;
    };
    StatePtr state = (*model)->InitialState();
    for (int64_t blocks = 0; blocks < 4; ++blocks) {
      const std::string bytes = (*model)->EncodeState(*state);
      const auto decoded = (*model)->DecodeState(bytes);
      ASSERT_OK(decoded);
      EXPECT_EQ((*model)->EncodeState(**decoded), bytes);
      EXPECT_EQ(StateOffset(**decoded), blocks * config.block_tokens());
      StatePtr here = state, there = *decoded;
      for (int step = 0; step < 3; ++step) {
        const auto tokens = RandomTokens(config.block_tokens());
        here = next(here, tokens);
        there = next(there, tokens);
        ASSERT_EQ((*model)->EncodeState(*there), (*model)->EncodeState(*here)) << blocks << " blocks, step " << step;
      }
      state = next(state, RandomTokens(config.block_tokens()));
    }
  }
}

// As version 1 has it: M and S as [heads, out, in].
std::string OfVersion1(absl::string_view bytes) {
  ByteReader in(bytes);
  ByteWriter out;
  out.Raw(*in.Raw(8));
  EXPECT_EQ(*in.U32(), 2);
  out.U32(1);
  out.Sized(*in.Sized());
  out.I64(*in.I64());
  const uint32_t tensors = *in.U32();
  out.U32(tensors);
  for (uint32_t i = 0; i < tensors; ++i) {
    const absl::string_view name = *in.Sized();
    out.Sized(name);
    std::vector<int64_t> sizes(*in.U32());
    for (int64_t& size : sizes) size = *in.I64();
    int64_t elements = 1;
    for (const int64_t size : sizes) elements *= size;
    const bool is_matrices = absl::StrContains(name, ".memory.M.") || absl::StrContains(name, ".memory.S.");
    std::vector<float> values(elements), stored(elements);
    std::memcpy(values.data(), in.Raw(elements * sizeof(float))->data(), elements * sizeof(float));
    if (is_matrices) {
      const int64_t rows = sizes[1], columns = sizes[2];
      for (int64_t e = 0; e < elements; ++e) {
        const int64_t matrix = e / (rows * columns), row = e / columns % rows, column = e % columns;
        stored[(matrix * columns + column) * rows + row] = values[e];
      }
      std::swap(sizes[1], sizes[2]);
    } else {
      stored = values;
    }
    out.U32(sizes.size());
    for (const int64_t size : sizes) out.I64(size);
    out.Raw({reinterpret_cast<const char*>(stored.data()), stored.size() * sizeof(float)});
  }
  out.U64(Checksum64(out.bytes()));
  return out.Take();
}

TEST_F(ModelTest, AStateOfVersion1IsRead) {
  ModelConfig config = SmallConfig();
  config.memory.hidden = 2 * config.memory.head_dim + 8;  // matrices that are no squares
  WriteRandomModel(folder_.path(), config, 5);
  const auto model = Model::Load(folder_.path(), {});
  ASSERT_OK(model);
  StatePtr state = (*model)->InitialState();
  for (int blocks = 0; blocks < 3; ++blocks) {
    const std::string bytes = (*model)->EncodeState(*state);
    const auto old = (*model)->DecodeState(OfVersion1(bytes));
    ASSERT_OK(old);
    EXPECT_EQ((*model)->EncodeState(**old), bytes);
    const auto tokens = RandomTokens(config.block_tokens());
    state = (*model)->StepBlocks({{state, tokens}})[0].state;
    EXPECT_EQ((*model)->EncodeState(*(*model)->StepBlocks({{*old, tokens}})[0].state), (*model)->EncodeState(*state));
  }
}

TEST_F(ModelTest, ADamagedStateIsRefused) {
  const std::string bytes = model_->EncodeState(*After(2));
  for (int i = 0; i < 300; ++i) {
    std::string damaged = bytes;
    damaged[random_() % damaged.size()] ^= 1 << random_() % 8;
    EXPECT_THAT(model_->DecodeState(damaged).status(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("checksum")));
    const size_t size = random_() % bytes.size();
    EXPECT_FALSE(model_->DecodeState(absl::string_view(bytes).substr(0, size)).ok());
  }
  EXPECT_FALSE(model_->DecodeState(bytes + "x").ok());
}

TEST_F(ModelTest, AnotherModelsStateIsRefused) {
  WriteRandomModel(folder_.path(), SmallConfig(), 6);
  const auto other = Model::Load(folder_.path(), {});
  ASSERT_OK(other);
  EXPECT_NE((*other)->fingerprint(), model_->fingerprint());
  EXPECT_THAT((*other)->DecodeState(model_->EncodeState(*After(1))).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(model_->fingerprint())));
}

TEST_F(ModelTest, WeightsOfBFloat16AreAnotherModelThatAnswersNearly) {
  std::set<std::string> fingerprints = {model_->fingerprint()};
  const auto tokens = RandomTokens(150);
  const auto exact = model_->NewFork(model_->InitialState());
  ASSERT_OK(exact->Feed(tokens));
  for (const char* weights : {"bfloat16", "bfloat16_products"}) {
    const auto narrow = Model::Load(folder_.path(), {.weights = weights});
    if (weights == std::string("bfloat16_products") && !HasTiles()) {
      EXPECT_THAT(narrow.status(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("AMX")));
      continue;
    }
    ASSERT_OK(narrow);
    EXPECT_TRUE(fingerprints.insert((*narrow)->fingerprint()).second) << weights;
    const auto rounded = (*narrow)->NewFork((*narrow)->InitialState());
    ASSERT_OK(rounded->Feed(tokens));
    double difference = 0, size = 0;
    for (size_t i = 0; i < exact->logits().size(); ++i) {
      difference += std::pow(exact->logits()[i] - rounded->logits()[i], 2);
      size += std::pow(exact->logits()[i], 2);
    }
    EXPECT_GT(difference, 0) << weights;
    EXPECT_LT(std::sqrt(difference / size), 0.1) << weights;

    // A token's bits depend neither on those that are read with it nor on its company.
    const auto one_by_one = (*narrow)->NewFork((*narrow)->InitialState());
    for (const int32_t token : tokens) ASSERT_OK(one_by_one->Feed({token}));
    EXPECT_EQ(std::vector<float>(one_by_one->logits().begin(), one_by_one->logits().end()),
              std::vector<float>(rounded->logits().begin(), rounded->logits().end()))
        << weights;
  }
  EXPECT_THAT(Model::Load(folder_.path(), {.weights = "int3"}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'int3'")));
  EXPECT_THAT(Model::Load(folder_.path(), {.device = "cuda", .weights = "bfloat16"}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cuda")));
}

TEST_F(ModelTest, AForkLeavesTheStateAsItWas) {
  const StatePtr state = After(2);
  const std::string before = model_->EncodeState(*state);
  const auto fork = model_->NewFork(state);
  ASSERT_OK(fork->Feed(RandomTokens(200)));
  EXPECT_EQ(model_->EncodeState(*state), before);
}

// So that an answer does not depend on the turns in which its question was read.
TEST_F(ModelTest, AForkHasTheSameBitsHoweverItIsFed) {
  const std::vector<int32_t> tokens = RandomTokens(300);
  for (int round = 0; round < 5; ++round) {
    const StatePtr state = After(round % 2);
    const auto whole = model_->NewFork(state), cut = model_->NewFork(state);
    ASSERT_OK(whole->Feed(tokens));
    for (size_t done = 0, size = 0; done < tokens.size(); done += size) {
      size = std::min<size_t>(round == 0 ? 1 : 1 + random_() % 70, tokens.size() - done);
      ASSERT_OK(cut->Feed(absl::MakeConstSpan(tokens).subspan(done, size)));
    }
    EXPECT_EQ(cut->logits(), whole->logits());
  }
}

TEST_F(ModelTest, ForksFedTogetherAreAsFedAlone) {
  for (const bool mac : {false, true}) {
    ModelConfig config = SmallConfig();
    if (mac) config.blocks.push_back(BlockKind::kMac);
    WriteRandomModel(folder_.path(), config, 5);
    const auto model = Model::Load(folder_.path(), {});
    ASSERT_OK(model);
    constexpr size_t kForks = 7;
    std::vector<std::unique_ptr<Fork>> alone, together;
    for (size_t i = 0; i < kForks; ++i) {  // each at a place of its own
      const StatePtr state =
          i % 2 == 0 ? (*model)->InitialState()
                     : (*model)->StepBlocks({{(*model)->InitialState(), RandomTokens(config.block_tokens())}})[0].state;
      const std::vector<int32_t> begun = RandomTokens(1 + random_() % 90);
      for (auto* forks : {&alone, &together}) ASSERT_OK(forks->emplace_back((*model)->NewFork(state))->Feed(begun));
    }
    for (int round = 0; round < 80; ++round) {
      std::vector<Fork*> forks;
      std::vector<int32_t> tokens;
      std::vector<size_t> places;
      for (size_t i = 0; i < kForks; ++i) {
        if (random_() % 4 == 0) continue;  // in other company each time
        forks.push_back(together[i].get());
        places.push_back(i);
        tokens.push_back(static_cast<int32_t>(random_() % config.vocab_size));
      }
      if (round == 5 && !tokens.empty()) tokens[0] = -1;
      const std::vector<absl::Status> statuses = (*model)->FeedTogether(forks, tokens);
      for (size_t n = 0; n < places.size(); ++n) {
        ASSERT_EQ(alone[places[n]]->Feed({tokens[n]}).code(), statuses[n].code());
        ASSERT_EQ(forks[n]->logits(), alone[places[n]]->logits()) << "fork " << places[n] << ", round " << round;
        ASSERT_EQ(forks[n]->offset(), alone[places[n]]->offset());
      }
    }
  }
}

TEST_F(ModelTest, ATokenOutsideTheVocabularyIsRefused) {
  EXPECT_THAT(model_->NewFork(model_->InitialState())->Feed({1, 258}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("258")));
  std::vector<int32_t> tokens(model_->config().block_tokens(), 1);
  tokens[5] = -1;
  EXPECT_THAT(model_->StepBlocks({{model_->InitialState(), tokens}})[0].status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
  tokens.pop_back();
  EXPECT_THAT(model_->StepBlocks({{model_->InitialState(), tokens}})[0].status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a block is")));
}

TEST_F(ModelTest, AStepWhoseSurpriseIsNotFiniteIsRefused) {
  // The gradients are bounded, so the memory stays finite; its error is too large to square.
  WriteRandomModel(folder_.path(), SmallConfig(), 5, /*memory_value_scale=*/1e20f);
  const auto model = Model::Load(folder_.path(), {});
  ASSERT_OK(model);
  const auto tokens = RandomTokens((*model)->config().block_tokens());
  const BlockResult result = (*model)->StepBlocks({{(*model)->InitialState(), tokens}})[0];
  EXPECT_THAT(result.status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not finite")));
  EXPECT_EQ(result.state, nullptr);
}

// A fork that says what it is told to, whatever it is fed.
class ScriptedFork final : public Fork {
 public:
  explicit ScriptedFork(std::vector<int32_t> script) : script_(std::move(script)), logits_(258, 0.0f) { Point(); }
  absl::Status Feed(absl::Span<const int32_t> tokens) override {
    offset_ += tokens.size();
    next_ += 1;
    Point();
    return absl::OkStatus();
  }
  absl::Span<const float> logits() const override { return logits_; }
  int64_t offset() const override { return offset_; }

 private:
  void Point() {
    std::fill(logits_.begin(), logits_.end(), 0.0f);
    if (next_ < script_.size()) logits_[script_[next_]] = 20.0f;
  }
  const std::vector<int32_t> script_;
  std::vector<float> logits_;
  size_t next_ = 0;
  int64_t offset_ = 0;
};

std::vector<int32_t> Bytes(absl::string_view text) {
  std::vector<int32_t> out;
  for (const unsigned char c : text) out.push_back(c);
  return out;
}

struct Decoded {
  std::string text;
  std::vector<int32_t> tokens;
  StopReason reason;
};
Decoded DecodeScript(const Tokenizer& tokenizer, std::vector<int32_t> script, DecodingOptions options) {
  Decoder decoder(std::make_unique<ScriptedFork>(std::move(script)), &tokenizer, std::move(options));
  Decoded out;
  while (!decoder.stop_reason()) {
    const auto piece = decoder.Next();
    EXPECT_OK(piece);
    EXPECT_EQ(ToValidUtf8(piece->text), piece->text);
    out.text += piece->text;
    out.tokens.insert(out.tokens.end(), piece->tokens.begin(), piece->tokens.end());
  }
  out.reason = *decoder.stop_reason();
  return out;
}

TEST_F(ModelTest, DecodingEndsWhereItShould) {
  const Tokenizer& tokenizer = model_->tokenizer();
  std::vector<int32_t> answer = Bytes("blue sky");
  answer.push_back(kByteEndOfAnswer);
  const Decoded ended = DecodeScript(tokenizer, answer, {.max_tokens = 50});
  EXPECT_EQ(ended.text, "blue sky");
  EXPECT_EQ(ended.tokens.size(), 8);
  EXPECT_EQ(ended.reason, StopReason::kEndOfAnswer);
  const Decoded full = DecodeScript(tokenizer, answer, {.max_tokens = 4});
  EXPECT_EQ(full.text, "blue");
  EXPECT_EQ(full.reason, StopReason::kMaxTokens);
  const Decoded stopped = DecodeScript(tokenizer, answer, {.max_tokens = 50, .stop = {"zzz", "e s"}});
  EXPECT_EQ(stopped.text, "blu");
  EXPECT_EQ(stopped.reason, StopReason::kStopString);
}

TEST_F(ModelTest, TextIsWholeCharacters) {
  std::vector<int32_t> answer = Bytes("a\xc3\xa9\xe2\x82\xac\xff z\xe2\x82");
  answer.push_back(kByteEndOfAnswer);
  EXPECT_EQ(DecodeScript(model_->tokenizer(), answer, {.max_tokens = 50}).text,
            "a\xc3\xa9\xe2\x82\xac\xef\xbf\xbd z\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_F(ModelTest, SamplingRepeatsWithItsSeed) {
  const StatePtr state = After(1);
  const auto sample = [&](uint64_t seed) {
    Decoder decoder(model_->NewFork(state), &model_->tokenizer(),
                    {.max_tokens = 40, .temperature = 1.5f, .top_k = 50, .top_p = 0.9f, .seed = seed});
    EXPECT_OK(decoder.Read({1, 2, 3}));
    while (!decoder.stop_reason()) EXPECT_OK(decoder.Next());
    return decoder.answer();
  };
  EXPECT_EQ(sample(1), sample(1));
  EXPECT_NE(sample(1), sample(2));
}

}  // namespace
}  // namespace mnemosyne
