#include "train/grow.h"

#include "absl/strings/str_cat.h"

namespace mnemosyne {

using at::Tensor;

namespace {

// Copies `small` into a feed-forward weight of more units, each half of `up` into the front of its own.
void CopyUnits(const Tensor& small, const std::string& name, Tensor* large) {
  if (name.ends_with("ff.up.weight")) {
    const auto from = small.chunk(2, 0), to = large->chunk(2, 0);
    for (int half = 0; half < 2; ++half) Tensor(to[half]).narrow(0, 0, from[half].size(0)).copy_(from[half]);
  } else {
    large->zero_().narrow(1, 0, small.size(1)).copy_(small);
  }
}

}  // namespace

absl::Status GrowWeights(const ModelConfig& from, const std::vector<NamedTensor>& trained, const ModelConfig& to,
                         std::map<std::string, Tensor>* weights) {
  ModelConfig same = from;
  same.blocks = to.blocks;
  same.ff_dim = to.ff_dim;
  if (to.persistent == 0) same.persistent = 0;
  if (FormatModelConfig(same) != FormatModelConfig(to) || to.ff_dim < from.ff_dim) {
    return absl::InvalidArgumentError(
        "the model to start from may differ in config keys 'blocks', 'ff_dim' and 'persistent' only, have no larger "
        "ff_dim, and lose all its persistent tokens or none");
  }
  std::map<std::string, std::string> prefixes;  // of blocks, old to new
  size_t place = 0;
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < from.blocks.size(); ++i, ++place) {
    while (place < to.blocks.size() && to.blocks[place] != from.blocks[i]) ++place;
    if (place == to.blocks.size()) {
      return absl::InvalidArgumentError(absl::StrCat("config key 'blocks' has no place for block ", i, ", ",
                                                     BlockKindName(from.blocks[i]), ", of the model to start from"));
    }
    prefixes[absl::StrCat("blocks.", i, ".")] = absl::StrCat("blocks.", place, ".");
  }
  for (auto& [name, weight] : *weights) {
    if (name.starts_with("blocks.") && (name.ends_with(".o.weight") || name.ends_with("ff.down.weight"))) {
      weight.zero_();
    }
  }
  for (const NamedTensor& one : trained) {
    std::string name = one.name;
    if (name.starts_with("blocks.")) {
      const size_t end = name.find('.', 7) + 1;
      name = prefixes.at(name.substr(0, end)) + name.substr(end);
    }
    if (to.persistent == 0 && (name.ends_with("persistent_k") || name.ends_with("persistent_v"))) continue;
    const Tensor small = at::tensor(one.values).view(one.shape);
    Tensor& large = weights->at(name);
    if (small.sizes() == large.sizes()) {
      large.copy_(small);
    } else {
      CopyUnits(small, name, &large);
    }
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
