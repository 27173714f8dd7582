// A model's weights. The input is read twice: as a file; and, as no fuzzer would guess a header's length, as a byte
// that says how much of the rest is data, the header, the data.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/base/bytes.h"
#include "core/base/utf8.h"
#include "core/model/config.h"
#include "core/model/parameters.h"
#include "core/model/safetensors.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {
namespace {

void RequireFileError(const absl::Status& status) {
  RequireError(status, {absl::StatusCode::kDataLoss, absl::StatusCode::kInvalidArgument});
  Require(ToValidUtf8(status.message()) == status.message(), "a message is UTF-8");
}

void RequireSound(absl::string_view file, const std::vector<TensorView>& tensors) {
  size_t data_bytes = 0;
  for (const TensorView& tensor : tensors) data_bytes += tensor.bytes.size();
  Require(data_bytes <= file.size(), "tensors lie in the file");
  const char* next = file.data() + file.size() - data_bytes;
  for (const TensorView& tensor : tensors) {
    Require(tensor.bytes.data() == next, "tensors lie one right behind another, up to the end");
    next += tensor.bytes.size();
    int64_t elements = 1;
    for (const int64_t extent : tensor.shape) elements *= extent;
    Require(elements == tensor.elements(), "a tensor has as many elements as its shape says");
    Require(tensor.bytes.size() == elements * (tensor.dtype == TensorDtype::kF32 ? 4 : 2), "and their bytes");
  }
}

// What was read, written and read again.
void RequireSameAgain(const std::vector<TensorView>& tensors) {
  std::vector<NamedTensor> named;
  for (const TensorView& tensor : tensors) named.push_back({tensor.name, tensor.shape, tensor.ToFloats()});
  const std::string file = FormatSafetensors(named);
  const auto again = ParseSafetensors(file);
  Require(again.ok(), "a file that we write can be read");
  Require(again->size() == named.size(), "and has every tensor");
  for (size_t i = 0; i < named.size(); ++i) {
    const TensorView& tensor = (*again)[i];
    Require(tensor.name == named[i].name && tensor.shape == named[i].shape, "of its name and shape");
    const absl::string_view values(reinterpret_cast<const char*>(named[i].values.data()),
                                   named[i].values.size() * sizeof(float));
    Require(tensor.bytes == values, "with its bits");
  }
}

// The smallest model with weights of every number of dimensions.
ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 2;
  config.dim = 2;
  config.ff_dim = 1;
  config.blocks = {BlockKind::kLmm};
  config.tokenizer.kind = TokenizerKind::kNone;
  return config;
}

void CheckFile(absl::string_view file) {
  static const ModelConfig* const config = new ModelConfig(SmallConfig());
  const auto tensors = ParseSafetensors(file);
  const auto parameters = LoadParameters(*config, file);
  if (!tensors.ok()) {
    RequireFileError(tensors.status());
    Require(!parameters.ok(), "no weights come out of a file that cannot be read");
    return;
  }
  RequireSound(file, *tensors);
  RequireSameAgain(*tensors);
  if (!parameters.ok()) return RequireFileError(parameters.status());
  const std::vector<ParameterShape> wanted = ParameterShapes(*config);
  Require(parameters->size() == wanted.size() && tensors->size() == wanted.size(), "a model has its tensors, no other");
  for (size_t i = 0; i < wanted.size(); ++i) {
    const NamedTensor& parameter = (*parameters)[i];
    Require(parameter.name == wanted[i].name && parameter.shape == wanted[i].shape, "as the config lists them");
    Require(std::all_of(parameter.values.begin(), parameter.values.end(), [](float x) { return std::isfinite(x); }),
            "weights are finite");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  CheckFile(input);
  if (input.empty()) return 0;
  const absl::string_view rest = input.substr(1);
  const size_t header_bytes = rest.size() - std::min<size_t>(data[0], rest.size());
  ByteWriter file;
  file.U64(header_bytes);
  file.Raw(rest);
  CheckFile(file.bytes());
  return 0;
}

}  // namespace mnemosyne
