// Sessions stepped in one batch against each alone, by the tensors that a GPU would compute with, in double; and the
// table that holds their states.
#include "core/model/batch_stepper.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "core/model/state_table.h"
#include "core/model/titans.h"
#include "tests/core/model/model_fixture.h"
#include "tests/core/model/random_model.h"

namespace mnemosyne {
namespace {

using at::Tensor;

Tensor RandomTokens(int64_t sessions, int64_t tokens, const ModelConfig& config) {
  return at::randint(config.vocab_size, {sessions, tokens}, at::TensorOptions().dtype(at::kLong));
}

void ExpectClose(const BatchState& a, const BatchState& b, double tolerance) {
  EXPECT_EQ(a.offsets, b.offsets);
  const std::vector<StateTensor> left = StateTensors(a), right = StateTensors(b);
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    ASSERT_EQ(left[i].tensor.sizes(), right[i].tensor.sizes()) << left[i].name;
    if (left[i].tensor.numel() == 0) continue;
    EXPECT_LE((left[i].tensor - right[i].tensor).abs().max().item<double>(), tolerance)
        << left[i].name << ", which has values up to " << right[i].tensor.abs().max().item<double>();
  }
}

TEST(BatchStepper, ABatchIsEachAlone) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const at::NoGradGuard no_grad;
  for (int round = 0; round < 10; ++round) {
    const ModelConfig config = RandomConfig(random);
    SCOPED_TRACE(FormatModelConfig(config));
    const Titans titans(config, RandomParameters(config, random(), at::kDouble));
    const BatchState initial = titans.InitialState(1);
    const auto table = std::make_shared<StateTable>(initial);
    const StateTable::RowPtr first = table->Put(StateTable::Pack(initial), {0})[0];
    const int64_t most = 1 + static_cast<int64_t>(random() % 6), block = config.block_tokens();
    const BatchStepper stepper(titans, table, first, most);

    // Sessions at different offsets; in each batch others meet.
    std::vector<StateTable::RowPtr> rows(8, first);
    std::vector<BatchState> alone(8, initial);
    for (int step = 0; step < 6; ++step) {
      std::vector<size_t> places = {0, 1, 2, 3, 4, 5, 6, 7};
      std::shuffle(places.begin(), places.end(), random);
      places.resize(1 + random() % most);
      const Tensor tokens = RandomTokens(static_cast<int64_t>(places.size()), block, config);
      std::vector<StateTable::RowPtr> batch;
      for (const size_t place : places) batch.push_back(rows[place]);
      const BatchStepper::Step taken = stepper.Take(batch, tokens);
      ASSERT_EQ(taken.rows.size(), places.size());
      for (size_t n = 0; n < places.size(); ++n) {
        const auto at = static_cast<int64_t>(n);
        const Titans::Output out = titans.Forward(tokens.narrow(0, at, 1), &alone[places[n]], Titans::Logits::kNone);
        rows[places[n]] = taken.rows[n];
        const BatchState together = table->Gather({taken.rows[n]});
        ExpectClose(together, alone[places[n]], 1e-9);
        alone[places[n]] = together;  // steps of weights drawn at random make a difference 10^8 times as large
        EXPECT_NEAR(taken.verdict[1][at].item<double>(), out.surprise.mean().item<double>(),
                    1e-9 * (1 + out.surprise.mean().item<double>()));
        EXPECT_EQ(taken.verdict[0][at].item<double>(), 0);
      }
    }
    // All that nobody holds has been given back.
    EXPECT_EQ(table->rows_in_use(),
              static_cast<int64_t>(std::set<StateTable::RowPtr>(rows.begin(), rows.end()).size()) +
                  (std::count(rows.begin(), rows.end(), first) == 0 ? 1 : 0));
  }
}

TEST(StateTable, ARowStaysWhileItIsHeldAndItsPlaceIsUsedAgain) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const at::NoGradGuard no_grad;
  const Titans titans(SmallConfig(), RandomParameters(SmallConfig(), 3, at::kDouble));
  const Tensor packed = StateTable::Pack(titans.InitialState(1));
  const auto table = std::make_shared<StateTable>(titans.InitialState(1));
  std::map<double, StateTable::RowPtr> held;  // by what is added to each value of the row
  int64_t peak = 0;
  for (int round = 0; round < 2000; ++round) {
    if (held.empty() || random() % 500 < 500 - held.size()) {
      const double mark = round;
      held[mark] = table->Put(packed + mark, {round})[0];
    }
    if (random() % 2 == 0 && !held.empty())
      held.erase(std::next(held.begin(), static_cast<int64_t>(random() % held.size())));
    peak = std::max(peak, static_cast<int64_t>(held.size()));
    EXPECT_EQ(table->rows_in_use(), static_cast<int64_t>(held.size()));
  }
  EXPECT_LE(table->rows(), std::max<int64_t>(64, peak * 3 / 2 + 1));
  std::vector<StateTable::RowPtr> rows;
  std::vector<double> marks;
  for (const auto& [mark, row] : held) {
    rows.push_back(row);
    marks.push_back(mark);
    EXPECT_EQ(row->offset(), static_cast<int64_t>(mark));
    EXPECT_TRUE(at::equal(StateTable::Pack(table->Bring(*row, at::kCPU)), packed + mark));
  }
  const BatchState all = table->Gather(rows);
  EXPECT_TRUE(at::equal(StateTable::Pack(all), packed + at::tensor(marks, at::kDouble).unsqueeze(1)));
  EXPECT_EQ(all.offsets, std::vector<int64_t>(marks.begin(), marks.end()));
}

}  // namespace
}  // namespace mnemosyne
