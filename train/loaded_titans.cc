#include "train/loaded_titans.h"

#include <algorithm>
#include <map>

#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/model/parameters.h"

namespace mnemosyne {

using at::Tensor;

absl::StatusOr<LoadedTitans> LoadTitans(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string config_text, ReadFile(folder + "/config.json"));
  ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(config_text));
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(folder + "/model.safetensors"));
  ASSIGN_OR_RETURN(const std::vector<NamedTensor> loaded, LoadParameters(config, bytes));
  const at::NoGradGuard no_grad;  // so that kernels are used where they fit
  std::map<std::string, Tensor> parameters;
  for (const NamedTensor& one : loaded) parameters[one.name] = at::tensor(one.values).view(one.shape);
  return LoadedTitans{config, std::make_unique<const Titans>(config, parameters)};
}

Tensor AsBatch(const std::vector<int32_t>& tokens) {
  return at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end())).unsqueeze(0);
}

double TextLoss(const LoadedTitans& model, const Haystack& haystack, int64_t samples, int64_t bytes, uint64_t seed) {
  constexpr int64_t kTokensAtOnce = 256;
  const at::NoGradGuard no_grad;
  Random random(seed);
  double sum = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < samples; ++i) {
    std::vector<int32_t> ids;
    for (const unsigned char byte : haystack.Draw(bytes + 1, random)) ids.push_back(byte);
    const Tensor tokens = AsBatch(ids);
    BatchState state = model.titans->InitialState(1);
    for (int64_t at = 0; at < bytes; at += kTokensAtOnce) {
      const int64_t length = std::min(kTokensAtOnce, bytes - at);
      const Tensor logits = model.titans->Forward(tokens.narrow(1, at, length), &state, Titans::Logits::kAll).logits;
      const Tensor targets = tokens.narrow(1, at + 1, length).unsqueeze(2);
      sum -= logits.log_softmax(-1).gather(2, targets).sum().item<double>();
      count += length;
    }
  }
  return sum / static_cast<double>(count);
}

}  // namespace mnemosyne
