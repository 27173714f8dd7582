#include "core/model/parameters.h"

#include <cmath>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/base/strict_json.h"

namespace mnemosyne {
namespace {

// Collects names and shapes in order.
class ShapeList {
 public:
  void Add(std::string name, std::vector<int64_t> shape) { shapes_.push_back({std::move(name), std::move(shape)}); }
  std::vector<ParameterShape> Take() { return std::move(shapes_); }

 private:
  std::vector<ParameterShape> shapes_;
};

void AddAttention(const ModelConfig& config, const std::string& prefix, ShapeList* list) {
  for (const char* name : {"q", "k", "v", "o"}) {
    list->Add(absl::StrCat(prefix, name, ".weight"), {config.dim, config.dim});
  }
  if (config.persistent == 0) return;
  for (const char* name : {"persistent_k", "persistent_v"}) {
    list->Add(absl::StrCat(prefix, name), {config.heads, config.persistent, config.head_dim()});
  }
}

void AddMemory(const ModelConfig& config, BlockKind kind, const std::string& prefix, ShapeList* list) {
  const MemoryConfig& memory = config.memory;
  for (const char* name : {"q", "k", "v"}) {
    list->Add(absl::StrCat(prefix, name, ".weight"), {memory.inner(), config.dim});
    list->Add(absl::StrCat(prefix, name, "_conv.weight"), {memory.inner(), memory.conv});
    list->Add(absl::StrCat(prefix, name, "_conv.bias"), {memory.inner()});
  }
  if (kind == BlockKind::kMac) list->Add(prefix + "q_context.weight", {memory.inner(), config.dim});
  list->Add(prefix + "gates.weight", {3 * memory.heads, config.dim});
  list->Add(prefix + "gates.bias", {3 * memory.heads});
  for (int64_t l = 0; l < memory.depth; ++l) {
    list->Add(absl::StrCat(prefix, "init.", l), {memory.heads, memory.out(l), memory.in(l)});
  }
  list->Add(prefix + "norm.weight", {memory.head_dim});
  list->Add(prefix + "out_gate.weight", {memory.inner(), config.dim});
  list->Add(prefix + "o.weight", {config.dim, memory.inner()});
}

void AddBlock(const ModelConfig& config, BlockKind kind, const std::string& prefix, ShapeList* list) {
  const int64_t dim = config.dim;
  list->Add(prefix + "norm1.weight", {dim});
  if (HasAttention(kind)) AddAttention(config, prefix + "attn.", list);
  if (HasMemory(kind)) AddMemory(config, kind, prefix + "memory.", list);
  if (kind == BlockKind::kMag || kind == BlockKind::kMac) {
    list->Add(prefix + "gate.attn_norm.weight", {dim});
    list->Add(prefix + "gate.memory_norm.weight", {dim});
    if (config.gate == GateKind::kMix) list->Add(prefix + "gate.mix.weight", {dim, 2 * dim});
  }
  if (kind == BlockKind::kMal) list->Add(prefix + "norm3.weight", {dim});
  list->Add(prefix + "norm2.weight", {dim});
  list->Add(prefix + "ff.up.weight", {2 * config.ff_dim, dim});
  list->Add(prefix + "ff.down.weight", {dim, config.ff_dim});
}

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace

std::vector<ParameterShape> ParameterShapes(const ModelConfig& config) {
  ShapeList list;
  list.Add("embed.weight", {config.vocab_size, config.dim});
  for (size_t i = 0; i < config.blocks.size(); ++i) {
    AddBlock(config, config.blocks[i], absl::StrCat("blocks.", i, "."), &list);
  }
  list.Add("norm.weight", {config.dim});
  if (!config.tie_embeddings) list.Add("head.weight", {config.vocab_size, config.dim});
  return list.Take();
}

absl::StatusOr<std::vector<NamedTensor>> LoadParameters(const ModelConfig& config, absl::string_view file) {
  ASSIGN_OR_RETURN(const std::vector<TensorView> tensors, ParseSafetensors(file));
  std::map<std::string, const TensorView*> by_name;  // what no parameter has taken yet
  for (const TensorView& tensor : tensors) by_name[tensor.name] = &tensor;

  std::vector<NamedTensor> parameters;
  for (ParameterShape& wanted : ParameterShapes(config)) {
    const auto found = by_name.find(wanted.name);
    if (found == by_name.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", wanted.name, "' of shape ", ShapeText(wanted.shape), " is missing"));
    }
    const TensorView& tensor = *found->second;
    if (tensor.shape != wanted.shape) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", wanted.name, "' has shape ", ShapeText(tensor.shape),
                                                     "; the config says ", ShapeText(wanted.shape)));
    }
    std::vector<float> values = tensor.ToFloats();
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor '", wanted.name, "' is not finite: element ", i, " is ", values[i]));
      }
    }
    by_name.erase(found);
    parameters.push_back({std::move(wanted.name), std::move(wanted.shape), std::move(values)});
  }
  if (!by_name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", ForMessage(by_name.begin()->first), "' is not one of this config's"));
  }
  return parameters;
}

}  // namespace mnemosyne
