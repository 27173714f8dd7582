// A state's bytes (docs/formats/state.md), whatever holds its tensors: no LibTorch here.
//
//   const StoredShape weights = {"blocks.0.memory.M.0", {2, 4, 8}, /*is_matrices=*/true};
//   std::string bytes = FormatState(fingerprint, 128, {{weights, values}});
//   ASSIGN_OR_RETURN(ParsedState state, ParseState(bytes, fingerprint, 64, {weights}, {to}));
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"

namespace mnemosyne {

struct StoredShape {
  std::string name;
  std::vector<int64_t> sizes;
  bool is_matrices = false;  // M or S, [heads, in, out]; version 1 had them as [heads, out, in]
};

struct StoredTensor {
  StoredShape shape;
  absl::string_view values;  // float32, row-major; may be unaligned
};

std::string FormatState(absl::string_view fingerprint, int64_t offset, absl::Span<const StoredTensor> tensors);

// The same, a tensor after another: each is copied when it is added.
class StateFormatter {
 public:
  // `tensors`: how many there will be; `bytes`: of their values in all.
  StateFormatter(absl::string_view fingerprint, int64_t offset, size_t tensors, size_t bytes);
  void Add(const StoredTensor& tensor);
  std::string Finish();

 private:
  void Sum();  // adds what was written since to the checksum, as long as it is in a core's cache

  ByteWriter out_;
  RunningChecksum64 checksum_;
  size_t summed_ = 0;
};

struct ParsedState {
  int64_t offset = 0;
  bool is_version_1 = false;
};

// The tensors must be those of `shapes`, in their order: the values of each are copied to its place in `targets`, which
// has room for them, in the order in which the bytes have them. DATA_LOSS says what is wrong; FAILED_PRECONDITION: of
// another fingerprint or version. After an error the targets hold anything.
absl::StatusOr<ParsedState> ParseState(absl::string_view bytes, absl::string_view fingerprint, int64_t block_tokens,
                                       absl::Span<const StoredShape> shapes, absl::Span<char* const> targets);

}  // namespace mnemosyne
