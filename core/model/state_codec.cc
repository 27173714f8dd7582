#include "core/model/state_codec.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status_macros.h"
#include "core/kernels/copy.h"

namespace mnemosyne {
namespace {

constexpr absl::string_view kMagic = "MNSTATE1";
constexpr uint32_t kVersion = 2;
constexpr size_t kChecksumBytes = 8;

// Values that are summed and copied together: what the one pass has read, the other finds in a core's cache.
constexpr size_t kPieceBytes = 128 << 10;

// A state larger than this is put into memory around the caches. What is smaller stays in them for its next step.
constexpr size_t kLargeBytes = 4 << 20;

void CopyThroughCaches(const char* from, size_t bytes, char* to) { std::memcpy(to, from, bytes); }

struct StoredState {
  uint32_t version = kVersion;
  int64_t offset = 0;
  std::vector<absl::string_view> values;  // of each tensor, inside the bytes that were parsed
};

absl::Status WrongChecksum() { return absl::DataLossError("state's checksum does not match its bytes"); }

// What stands before the offset. Returns the version.
absl::StatusOr<uint32_t> OpenState(absl::string_view fingerprint, ByteReader& in) {
  ASSIGN_OR_RETURN(const absl::string_view magic, in.Raw(kMagic.size()));
  if (magic != kMagic) return absl::DataLossError("not a state: its first bytes are others");
  ASSIGN_OR_RETURN(const uint32_t version, in.U32());
  if (version < 1 || version > kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("state has format version ", version, "; this program reads 1 to ", kVersion));
  }
  ASSIGN_OR_RETURN(const absl::string_view made_with, in.Sized());
  if (made_with != fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat("state was made with model ", made_with, "; the model loaded is ", fingerprint));
  }
  return version;
}

// The values of the tensor that `shape` says comes next.
absl::StatusOr<absl::string_view> ReadTensor(StoredShape shape, uint32_t version, ByteReader& in) {
  if (shape.is_matrices && version == 1) std::swap(shape.sizes[1], shape.sizes[2]);
  ASSIGN_OR_RETURN(const absl::string_view name, in.Sized());
  if (name != shape.name) {
    return absl::DataLossError(absl::StrCat("state has tensor '", name, "' where '", shape.name, "' belongs"));
  }
  ASSIGN_OR_RETURN(const uint32_t dimensions, in.U32());
  if (dimensions != shape.sizes.size()) {
    return absl::DataLossError(absl::StrCat("state's tensor '", name, "' has ", dimensions, " dimensions"));
  }
  uint64_t elements = 1;
  for (const int64_t expected : shape.sizes) {
    ASSIGN_OR_RETURN(const int64_t size, in.I64());
    if (size != expected) return absl::DataLossError(absl::StrCat("state's tensor '", name, "' is misshapen"));
    elements *= size;
  }
  return in.Raw(elements * sizeof(float));
}

// Finds its parts in a body that may be damaged: no value is looked at.
absl::StatusOr<StoredState> Find(absl::string_view body, absl::string_view fingerprint, int64_t block_tokens,
                                 absl::Span<const StoredShape> shapes) {
  ByteReader in(body);
  StoredState state;
  ASSIGN_OR_RETURN(state.version, OpenState(fingerprint, in));
  ASSIGN_OR_RETURN(state.offset, in.I64());
  if (state.offset < 0 || state.offset % block_tokens != 0) {
    return absl::DataLossError(absl::StrCat("state's offset ", state.offset, " is not at a block boundary"));
  }
  ASSIGN_OR_RETURN(const uint32_t count, in.U32());
  if (count != shapes.size()) {
    return absl::DataLossError(absl::StrCat("state has ", count, " tensors; ", shapes.size(), " belong to it"));
  }
  for (const StoredShape& shape : shapes) {
    ASSIGN_OR_RETURN(state.values.emplace_back(), ReadTensor(shape, state.version, in));
  }
  RETURN_IF_ERROR(in.ExpectEnd());
  return state;
}

}  // namespace

StateFormatter::StateFormatter(absl::string_view fingerprint, int64_t offset, size_t tensors, size_t bytes) {
  constexpr size_t kHeaderBytes = 128;  // room for what stands before the values of a tensor, and before all
  out_.Reserve(bytes + (tensors + 1) * kHeaderBytes);
  out_.Raw(kMagic);
  out_.U32(kVersion);
  out_.Sized(fingerprint);
  out_.I64(offset);
  out_.U32(tensors);
}

void StateFormatter::Sum() {
  checksum_.Add(absl::string_view(out_.bytes()).substr(summed_));
  summed_ = out_.bytes().size();
}

void StateFormatter::Add(const StoredTensor& tensor) {
  out_.Sized(tensor.shape.name);
  out_.U32(tensor.shape.sizes.size());
  for (const int64_t size : tensor.shape.sizes) out_.I64(size);
  for (size_t at = 0; at < tensor.values.size(); at += kPieceBytes) {
    out_.Raw(tensor.values.substr(at, kPieceBytes));
    Sum();
  }
}

std::string StateFormatter::Finish() {
  Sum();
  out_.U64(checksum_.Value());
  return out_.Take();
}

std::string FormatState(absl::string_view fingerprint, int64_t offset, absl::Span<const StoredTensor> tensors) {
  size_t bytes = 0;
  for (const StoredTensor& one : tensors) bytes += one.values.size();
  StateFormatter formatter(fingerprint, offset, tensors.size(), bytes);
  for (const StoredTensor& one : tensors) formatter.Add(one);
  return formatter.Finish();
}

absl::StatusOr<ParsedState> ParseState(absl::string_view bytes, absl::string_view fingerprint, int64_t block_tokens,
                                       absl::Span<const StoredShape> shapes, absl::Span<char* const> targets) {
  if (bytes.size() < kMagic.size() + kChecksumBytes) {
    return absl::DataLossError(absl::StrCat("state is truncated: ", bytes.size(), " bytes"));
  }
  const absl::string_view body = bytes.substr(0, bytes.size() - kChecksumBytes);
  ASSIGN_OR_RETURN(const uint64_t checksum, ByteReader(bytes.substr(body.size())).U64());
  const absl::StatusOr<StoredState> state = Find(body, fingerprint, block_tokens, shapes);
  if (!state.ok()) return checksum == Checksum64(body) ? state.status() : WrongChecksum();

  RunningChecksum64 running;
  const char* summed = body.data();
  const auto sum_to = [&](const char* end) {
    running.Add({summed, static_cast<size_t>(end - summed)});
    summed = end;
  };
  const auto copy = bytes.size() < kLargeBytes ? CopyThroughCaches : CopyAroundCaches;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const absl::string_view values = state->values[i];
    for (size_t at = 0; at < values.size(); at += kPieceBytes) {
      const absl::string_view piece = values.substr(at, kPieceBytes);
      copy(piece.data(), piece.size(), targets[i] + at);
      sum_to(piece.data() + piece.size());
    }
  }
  sum_to(body.data() + body.size());
  if (checksum != running.Value()) return WrongChecksum();
  return ParsedState{state->offset, state->version == 1};
}

}  // namespace mnemosyne
