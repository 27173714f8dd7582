// A state's bytes. The first byte is left out of them; when it is odd, the checksum that docs/formats/state.md asks for
// follows, which no fuzzer would guess.
#include <cstdint>

#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/model/state_codec.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {
namespace {

constexpr absl::string_view kFingerprint = "0123456789abcdef";
constexpr int64_t kBlockTokens = 64;

// Tensors of a few and of no elements, as a small model has them. Version 1 has M and S as [1, 2, 1].
const std::vector<StoredShape>& Shapes() {
  static const auto* const shapes =
      new std::vector<StoredShape>{{"blocks.0.memory.M.0", {1, 1, 2}, /*is_matrices=*/true},
                                   {"blocks.0.memory.S.0", {1, 1, 2}, /*is_matrices=*/true},
                                   {"blocks.0.memory.conv_tail", {1, 1, 3}},
                                   {"blocks.0.window.keys", {1, 1, 0, 2}}};
  return *shapes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  ByteWriter bytes;
  bytes.Raw({reinterpret_cast<const char*>(data) + 1, size - 1});
  if (data[0] & 1) bytes.U64(Checksum64(bytes.bytes()));

  std::vector<std::string> values;
  std::vector<char*> targets;
  for (const StoredShape& shape : Shapes()) {
    size_t bytes_of = sizeof(float);
    for (const int64_t one : shape.sizes) bytes_of *= one;
    values.emplace_back(bytes_of, '\0');
  }
  for (std::string& one : values) targets.push_back(one.data());
  const auto state = ParseState(bytes.bytes(), kFingerprint, kBlockTokens, Shapes(), targets);
  if (!state.ok()) {
    RequireError(state.status(), {absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition});
    return 0;
  }
  Require(state->offset >= 0 && state->offset % kBlockTokens == 0, "a state is at a block boundary");
  Require(!ParseState(bytes.bytes(), "another", kBlockTokens, Shapes(), targets).ok(), "a state belongs to its model");
  if (state->is_version_1) return 0;
  std::vector<StoredTensor> tensors;
  for (size_t i = 0; i < Shapes().size(); ++i) tensors.push_back({Shapes()[i], values[i]});
  Require(FormatState(kFingerprint, state->offset, tensors) == bytes.bytes(), "a state has one encoding of a version");
  return 0;
}

}  // namespace mnemosyne
