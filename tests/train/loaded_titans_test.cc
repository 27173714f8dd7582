#include "train/loaded_titans.h"

#include <cmath>

#include "tests/core/model/random_model.h"
#include "tests/train/train_folder.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

using LoadedTitansTest = TrainFolderTest;

TEST_F(LoadedTitansTest, TextLossIsTheMeanOverAllBytesWhateverIsReadAtOnce) {
  WriteRandomModel(folder_.path() + "/model", SmallConfig(), 7);
  const auto model = LoadTitans(folder_.path() + "/model");
  ASSERT_OK(model);
  const double loss = TextLoss(*model, English(), /*samples=*/2, /*bytes=*/600, /*seed=*/3);

  Random random(3);
  double expected = 0;
  for (int i = 0; i < 2; ++i) {
    std::vector<int32_t> ids;
    for (const unsigned char byte : English().Draw(601, random)) ids.push_back(byte);
    const at::NoGradGuard no_grad;
    BatchState state = model->titans->InitialState(1);
    const at::Tensor tokens = AsBatch(ids);
    const at::Tensor logits = model->titans->Forward(tokens.narrow(1, 0, 600), &state, Titans::Logits::kAll).logits[0];
    for (int t = 0; t < 600; ++t) {
      const at::Tensor one = logits[t].to(at::kDouble);
      expected -= (one[ids[t + 1]] - one.logsumexp(0)).item<double>() / 1200;
    }
  }
  EXPECT_NEAR(loss, expected, 1e-4);
  EXPECT_GT(loss, std::log(258.0) / 2);  // it has learned nothing
}

TEST_F(LoadedTitansTest, AMissingModelIsNamed) {
  EXPECT_THAT(LoadTitans(folder_.path() + "/none").status().ToString(), HasSubstr("none/config.json"));
}

}  // namespace
}  // namespace mnemosyne
