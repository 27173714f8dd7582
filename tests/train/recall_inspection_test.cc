#include "train/recall_inspection.h"

#include <gtest/gtest.h>

#include "core/base/file.h"
#include "tests/core/model/random_model.h"
#include "tests/status_matchers.h"
#include "tests/train/train_folder.h"

namespace mnemosyne {
namespace {

using testing::HasSubstr;

class RecallInspectionTest : public TrainFolderTest {
 protected:
  absl::StatusOr<RecallInspection> Inspect() {
    return InspectRecall(folder_.path(), options_, 2, 9, Words(), Haystack::Noise());
  }
  const DocumentOptions options_ = {.min_tokens = 768,
                                    .max_tokens = 768,
                                    .min_facts = 5,
                                    .max_facts = 5,
                                    .split = Split::kHeldOut,
                                    .facts = {.number = 1}};
};

TEST_F(RecallInspectionTest, CountsEveryCharacterOfEveryFact) {
  WriteRandomModel(folder_.path(), SmallConfig(), 3);
  const auto of = Inspect();
  ASSERT_OK(of);
  EXPECT_EQ(of->answers, 10);
  EXPECT_EQ(of->characters, 70);
  EXPECT_LE(std::abs(of->signal), 1);
  EXPECT_GT(of->noise, 0);
  for (const double share : {of->found, of->linear, of->right, of->exact}) {
    EXPECT_GE(share, 0);
    EXPECT_LE(share, 1);
  }
}

// Keys and queries that are blind (silu of a bias) have everything in common with everything: the cosine of any two is
// one, and the noise is the number of the other facts' characters.
TEST_F(RecallInspectionTest, BlindKeysAreAllNoise) {
  const ModelConfig config = SmallConfig();
  WriteRandomModel(folder_.path(), config, 4);
  auto tensors = LoadParameters(config, *ReadFile(folder_.File("model.safetensors")));
  ASSERT_OK(tensors);
  for (NamedTensor& one : *tensors) {
    const auto ends = [&](const char* suffix) { return one.name.ends_with(suffix); };
    if (ends("memory.q.weight") || ends("memory.k.weight")) std::fill(one.values.begin(), one.values.end(), 0.0f);
    if (ends("q_conv.bias") || ends("k_conv.bias")) std::fill(one.values.begin(), one.values.end(), 1.0f);
  }
  ASSERT_OK(WriteFileAtomically(folder_.File("model.safetensors"), FormatSafetensors(*tensors)));
  const auto of = Inspect();
  ASSERT_OK(of);
  EXPECT_NEAR(of->signal, 1, 1e-5);
  EXPECT_NEAR(of->noise, 4 * 7, 1e-3);
}

TEST_F(RecallInspectionTest, AModelWhoseKeysAreNotToBeHadIsRefused) {
  ModelConfig config = SmallConfig();
  config.blocks = {BlockKind::kSwa, BlockKind::kMac};
  WriteRandomModel(folder_.path(), config, 5);
  EXPECT_THAT(Inspect(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lmm")));
}

TEST_F(RecallInspectionTest, AMissingModelIsNamed) {
  EXPECT_THAT(Inspect(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

}  // namespace
}  // namespace mnemosyne
