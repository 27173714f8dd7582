// Whether a step stays on the device of its weights, without one here but LibTorch's `meta`: tensors that have shapes
// and no values. No operator may get a tensor that was made elsewhere, and the host may ask for no value, which on a
// GPU would be a synchronisation.
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <torch/library.h>

#include <memory>
#include <set>
#include <string>
#include <tuple>

#include "core/model/batch_stepper.h"
#include "core/model/state_table.h"
#include "core/model/titans.h"
#include "tests/core/model/model_fixture.h"
#include "tests/core/model/random_model.h"

namespace mnemosyne {
namespace {

using at::Tensor;

// What LibTorch 1.13 lacks on `meta`: shapes of results. The memory's convolution comes as one of images of height one.
Tensor ConvolutionOnMeta(const Tensor& input, const Tensor& weight, const c10::optional<Tensor>& /*bias*/,
                         at::IntArrayRef /*stride*/, at::IntArrayRef /*padding*/, at::IntArrayRef /*dilation*/,
                         bool /*transposed*/, at::IntArrayRef /*output_padding*/, int64_t /*groups*/) {
  return at::empty({input.size(0), weight.size(0), input.size(2), input.size(3) - weight.size(3) + 1}, input.options());
}
std::tuple<Tensor, Tensor> LogSigmoidOnMeta(const Tensor& input) {
  return {at::empty_like(input), at::empty({0}, input.options())};
}
TORCH_LIBRARY_IMPL(aten, Meta, library) {
  library.impl("convolution_overrideable", ConvolutionOnMeta);
  library.impl("log_sigmoid_forward", LogSigmoidOnMeta);
}

// Looks at the inputs of every operator that this thread calls.
class Watch {
 public:
  Watch() {
    elsewhere_.clear();
    calls_ = asked_ = 0;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&Watch::See).needsInputs(true));
  }
  ~Watch() { at::removeCallback(handle_); }

  static const std::set<std::string>& elsewhere() {
    return elsewhere_;
  }  // operators that got a tensor of another device
  static int calls() { return calls_; }
  static int asked() { return asked_; }  // values that the host asked for

 private:
  static std::unique_ptr<at::ObserverContext> See(const at::RecordFunction& function) {
    const std::string name = function.name();
    calls_ += 1;
    asked_ += name == "aten::item" || name == "aten::_local_scalar_dense";
    // What is brought to the device comes from elsewhere.
    if (name == "aten::to" || name == "aten::_to_copy" || name == "aten::copy_") return nullptr;
    for (const c10::IValue& input : function.inputs()) {
      if (input.isTensor()) Check(name, input.toTensor());
      if (!input.isTensorList()) continue;
      for (const Tensor& tensor : input.toTensorVector()) Check(name, tensor);
    }
    return nullptr;
  }
  static void Check(const std::string& name, const Tensor& tensor) {
    const bool is_scalar = tensor.defined() && tensor.dim() == 0;  // a number, which goes along
    if (tensor.defined() && !is_scalar && !tensor.is_meta()) elsewhere_.insert(name);
  }

  static inline std::set<std::string> elsewhere_;
  static inline int calls_ = 0, asked_ = 0;
  at::CallbackHandle handle_;
};

void ExpectOnMeta(const Tensor& tensor, at::IntArrayRef shape) {
  ASSERT_TRUE(tensor.defined());
  EXPECT_TRUE(tensor.is_meta());
  EXPECT_EQ(tensor.sizes(), shape);
}

void ExpectOnMeta(const BatchState& state) {
  for (const BlockState& block : state.blocks) {
    std::vector<Tensor> all = block.memory.weights;
    all.insert(all.end(), block.memory.velocity.begin(), block.memory.velocity.end());
    for (const Tensor& tensor : {block.memory.conv_tail, block.window.keys, block.window.values}) all.push_back(tensor);
    for (const Tensor& tensor : all) EXPECT_TRUE(!tensor.defined() || tensor.is_meta());
  }
}

TEST(Device, StepsStayOnTheDeviceOfTheWeights) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const at::NoGradGuard no_grad;
  for (int round = 0; round < 25; ++round) {
    ModelConfig config = round == 0 ? SmallConfig() : RandomConfig(random);
    if (round == 0)
      config.blocks = {BlockKind::kSwa, BlockKind::kLmm, BlockKind::kMag, BlockKind::kMal, BlockKind::kMac};
    SCOPED_TRACE(FormatModelConfig(config));
    std::map<std::string, Tensor> weights;
    for (const ParameterShape& one : ParameterShapes(config)) {
      weights[one.name] = at::empty(one.shape, at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
    }
    const Titans titans(config, weights);
    const int64_t sessions = 1 + static_cast<int64_t>(random() % 3), block = config.block_tokens();
    const auto tokens = [&](int64_t count) {
      return at::empty({sessions, count}, at::TensorOptions().dtype(at::kLong).device(at::kMeta));
    };
    BatchState state = titans.InitialState(sessions);
    ExpectOnMeta(state);
    const Watch watch;
    // A block, as sessions are stepped; then a question and answer's tokens, as a fork is.
    const Titans::Output stepped = titans.Forward(tokens(block), &state, Titans::Logits::kNone);
    ExpectOnMeta(stepped.surprise, {sessions, block, stepped.surprise.size(2), config.memory.heads});
    ExpectOnMeta(state);
    titans.Hold(&state);  // of no effect there
    for (const int64_t count : {static_cast<int64_t>(1 + random() % 90), int64_t{1}, int64_t{1}}) {
      ExpectOnMeta(titans.Forward(tokens(count), &state, Titans::Logits::kLast).logits,
                   {sessions, 1, config.vocab_size});
    }
    ExpectOnMeta(state);
    EXPECT_THAT(Watch::elsewhere(), testing::IsEmpty());
    EXPECT_EQ(Watch::asked(), 0);
    EXPECT_GT(Watch::calls(), 20);
  }
}

int CallsOfABatch(const BatchStepper& stepper, const std::vector<StateTable::RowPtr>& rows, int64_t block) {
  const Tensor tokens =
      at::empty({static_cast<int64_t>(rows.size()), block}, at::TensorOptions().dtype(at::kLong).device(at::kMeta));
  const Watch watch;
  const BatchStepper::Step step = stepper.Take(rows, tokens);
  EXPECT_EQ(step.rows.size(), rows.size());
  for (const StateTable::RowPtr& row : step.rows) EXPECT_EQ(row->offset(), rows[0]->offset() + block);
  ExpectOnMeta(step.verdict, {2, stepper.sessions()});
  EXPECT_THAT(Watch::elsewhere(), testing::IsEmpty());
  EXPECT_EQ(Watch::asked(), 0);
  return Watch::calls();
}

// Sessions of a batch come from the table and go back with the same operators, one or a hundred.
TEST(Device, ABatchTakesAsManyOperatorsHoweverManySessionsAreInIt) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const at::NoGradGuard no_grad;
  for (int round = 0; round < 10; ++round) {
    const ModelConfig config = RandomConfig(random);
    SCOPED_TRACE(FormatModelConfig(config));
    std::map<std::string, Tensor> weights;
    for (const ParameterShape& one : ParameterShapes(config)) {
      weights[one.name] = at::empty(one.shape, at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
    }
    const Titans titans(config, weights);
    const BatchState initial = titans.InitialState(1);
    const auto table = std::make_shared<StateTable>(initial);
    const StateTable::RowPtr first = table->Put(StateTable::Pack(initial), {0})[0];
    // Given back at once: the table has grown, which takes a few more operators, and will not again.
    table->Put(StateTable::Pack(titans.InitialState(200)), std::vector<int64_t>(200, 0));
    std::set<int> calls;
    for (const int64_t sessions : {2, 128}) {
      const BatchStepper stepper(titans, table, first, sessions);
      for (const int64_t there : {int64_t{1}, sessions / 2, sessions}) {
        const std::vector<StateTable::RowPtr> rows(there, first);
        calls.insert(CallsOfABatch(stepper, rows, config.block_tokens()));
      }
    }
    EXPECT_THAT(calls, testing::SizeIs(1));
  }
}

// The tests above can fail.
TEST(Device, TheWatchSeesTensorsOfAnotherDeviceAndValuesThatAreAskedFor) {
  const Tensor tensor = at::empty({2, 2}, at::TensorOptions().device(at::kMeta));
  const Watch watch;
  at::mm(tensor, at::ones({2, 2}));  // LibTorch 1.13 lets it pass
  EXPECT_THAT(Watch::elsewhere(), testing::Contains("aten::mm"));
  EXPECT_ANY_THROW(tensor.sum().item<float>());
  EXPECT_GT(Watch::asked(), 0);
}

}  // namespace
}  // namespace mnemosyne
