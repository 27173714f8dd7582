#include "train/initial_weights.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/model/parameters.h"
#include "core/model/titans.h"

namespace mnemosyne {

using at::Tensor;

namespace {

// Random weights from which the memory learns to write: small first steps (gate_bias), convolutions that begin near
// the newest token.
Tensor InitialWeight(const ParameterShape& parameter, const ModelConfig& config, double gate_bias) {
  const std::string& name = parameter.name;
  const auto ends = [&](const char* suffix) { return name.ends_with(suffix); };
  const Tensor noise = at::randn(parameter.shape);
  if (name.find("norm") != std::string::npos) return at::ones(parameter.shape);
  if (ends("_conv.bias")) return at::zeros(parameter.shape);
  if (ends("_conv.weight")) {
    Tensor taps = 0.3 * noise;
    taps.select(1, config.memory.conv - 1).add_(0.7);
    return taps;
  }
  if (ends("gates.bias")) {
    const int64_t heads = config.memory.heads;
    return at::cat({at::full({heads}, gate_bias), at::full({heads}, -1.0), at::full({heads}, -6.0)});
  }
  if (name == "embed.weight") return 0.5 * noise;
  if (name == "head.weight") return 0.02 * noise;
  const double scale = 1.0 / std::sqrt(static_cast<double>(parameter.shape.back()));
  if (name.find("memory.init") != std::string::npos) return 0.1 * scale * noise;
  if (ends("o.weight") || ends("down.weight")) return scale / std::sqrt(2.0 * config.blocks.size()) * noise;
  return scale * noise;
}

// Makes the memory of random weights one from what came before a token to that token, in two senses. Three heads in
// four key by what was mentioned: each channel sums its projection over the last tokens, about as many as there are
// taps, so that a name is found again in other words, a little nearer or farther; the last token counts as much as all
// of them, or the characters of one value would share one key. The others key by n-gram: random taps that fade within a
// few tokens, so that what followed the same characters is found, whatever came before. A bias makes keys sparse: a
// linear memory confuses what is told under keys that have much in common. Queries are the keys of the token to come.
// Training has only to learn which contexts matter. ParameterShapes has q before k; the query copies nothing until both
// are there.
void AlignQueries(const std::string& name, const MemoryConfig& config, std::map<std::string, Tensor>& before,
                  Tensor* weight) {
  const at::NoGradGuard no_grad;
  const double norm = 1.7;
  const auto query = [&](size_t suffix) -> Tensor& {
    return before.at(std::string(name).replace(name.size() - suffix, 1, "q"));
  };
  if (name.ends_with("memory.k.weight")) {
    query(8).copy_(*weight);
  } else if (name.ends_with("memory.k_conv.weight")) {
    const int64_t taps = weight->size(1), reach = taps - 1, mentions = config.heads * 3 / 4 * config.head_dim;
    const Tensor distance = at::arange(reach, 0, -1).unsqueeze(0);  // of each tap but the last, in tokens
    const Tensor widths = at::randint(2 * reach / 3, reach + 1, {mentions, 1});
    const Tensor inside = (distance <= widths).to(at::kFloat);
    const Tensor sums = inside / inside.norm(2, {1}, true) + (distance == 1).to(at::kFloat);
    const int64_t others = weight->size(0) - mentions;
    const Tensor fade = 1.5 * (at::rand({others, 1}) * std::log(4.0 / 1.5)).exp();  // 1.5 to 4 tokens
    const Tensor ngrams = at::randn({others, reach}) * (-(distance - 1) / fade).exp();
    const Tensor rows = at::cat({sums, ngrams}, 0);
    weight->narrow(1, 0, reach).copy_(norm * rows / rows.norm(2, {1}, true));
    weight->select(1, reach).zero_();  // the token itself is the value, not the key
    query(13).zero_().narrow(1, 1, reach).copy_(weight->narrow(1, 0, reach));
  } else if (name.ends_with("memory.k_conv.bias")) {
    weight->fill_(-0.5 * norm);
    query(11).copy_(*weight);
  } else if (name.ends_with("memory.v_conv.weight")) {
    weight->zero_();
    weight->select(1, weight->size(1) - 1).fill_(1.0);
  }
}

constexpr int64_t kCenteringRow = 256;

// The inputs of block `index` after its norm, by the blocks before it alone: tokens [N, T] -> [N, T, D].
Tensor InputsOf(const ModelConfig& config, const std::map<std::string, Tensor>& parameters, size_t index,
                const Tensor& tokens) {
  const at::NoGradGuard no_grad;
  ModelConfig before = config;
  before.blocks.resize(index);
  before.tie_embeddings = false;
  std::map<std::string, Tensor> all = parameters;
  all["norm.weight"] = parameters.at(absl::StrCat("blocks.", index, ".norm1.weight"));
  all["head.weight"] = at::eye(config.dim);
  const Titans titans(before, all);
  BatchState state = titans.InitialState(tokens.size(0));
  return titans.Forward(tokens, &state, Titans::Logits::kAll).logits;
}

// Makes keys and queries of block `index` blind to what all tokens have in common: sums of many tokens then differ by
// what is unusual among them.
void CenterKeys(const ModelConfig& config, size_t index, const std::vector<int32_t>& text,
                std::map<std::string, Tensor>* parameters) {
  const std::vector<int64_t> ids(text.begin(), text.end());
  const Tensor tokens = at::tensor(ids).view({-1, kCenteringRow});
  const Tensor mean = InputsOf(config, *parameters, index, tokens).mean(at::IntArrayRef({0, 1}));
  const at::NoGradGuard no_grad;
  const Tensor direction = mean / mean.norm();
  for (const char* which : {"q", "k"}) {
    Tensor& weight = parameters->at(absl::StrCat("blocks.", index, ".memory.", which, ".weight"));  // [H d, D]
    weight.sub_(weight.mv(direction).unsqueeze(1) * direction.unsqueeze(0));
  }
}

}  // namespace

std::map<std::string, Tensor> InitialWeights(const ModelConfig& config, double gate_bias, bool echo,
                                             const std::vector<int32_t>& centering) {
  std::map<std::string, Tensor> parameters;
  for (const ParameterShape& one : ParameterShapes(config)) {
    Tensor weight = InitialWeight(one, config, gate_bias).contiguous();
    if (echo) AlignQueries(one.name, config.memory, parameters, &weight);
    parameters[one.name] = weight;
  }
  for (size_t i = 0; echo && i < config.blocks.size(); ++i) {
    if (config.blocks[i] == BlockKind::kLmm) CenterKeys(config, i, centering, &parameters);
  }
  return parameters;
}

bool IsOfKeys(const std::string& name) {
  for (const char* part : {"memory.q.", "memory.k.", "memory.q_conv.", "memory.k_conv."}) {
    if (name.find(part) != std::string::npos) return true;
  }
  return false;
}

}  // namespace mnemosyne
