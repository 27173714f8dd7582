#include "core/model/piece_file.h"

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status_macros.h"

namespace mnemosyne {
namespace {

// Fields of ModelProto and NormalizerSpec (sentencepiece_model.proto).
constexpr uint64_t kNormalizer = 3, kDenormalizer = 5, kCharacterTable = 2;

absl::Status NotAModel() { return absl::InvalidArgumentError("its bytes are not those of a model"); }

// A field of a Protocol Buffers message.
struct Field {
  uint64_t number = 0;
  absl::string_view bytes;  // of a message or string; empty for numbers
};

// At most 64 bits in 10 bytes, as Protocol Buffers reads them.
absl::StatusOr<uint64_t> ReadVarint(ByteReader& in) {
  uint64_t value = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    ASSIGN_OR_RETURN(const uint8_t byte, in.U8());
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  return NotAModel();
}

absl::StatusOr<Field> ReadField(ByteReader& in) {
  ASSIGN_OR_RETURN(const uint64_t tag, ReadVarint(in));
  Field field = {tag >> 3, {}};
  if (tag > UINT32_MAX || field.number == 0) return NotAModel();
  switch (tag & 7) {
    case 0:
      RETURN_IF_ERROR(ReadVarint(in).status());
      return field;
    case 1:
      RETURN_IF_ERROR(in.Raw(8).status());
      return field;
    case 2: {
      ASSIGN_OR_RETURN(const uint64_t size, ReadVarint(in));
      ASSIGN_OR_RETURN(field.bytes, in.Raw(size));
      return field;
    }
    case 5:
      RETURN_IF_ERROR(in.Raw(4).status());
      return field;
    default:  // groups, which no model has
      return NotAModel();
  }
}

// A double array (Darts): a node's children are at its place ^ its offset ^ their first byte.
class DoubleArray {
 public:
  explicit DoubleArray(absl::string_view bytes) : units_(bytes.size() / sizeof(uint32_t)) {
    if (!units_.empty()) std::memcpy(units_.data(), bytes.data(), units_.size() * sizeof(uint32_t));
  }

  // Whether every way from the root stays in the array and ends at a value below `values`.
  bool IsClosed(size_t values) const {
    if (units_.empty()) return false;
    std::vector<bool> seen(units_.size());
    std::vector<size_t> open = {0};
    while (!open.empty()) {
      const size_t parent = open.back();
      open.pop_back();
      if (seen[parent]) continue;
      seen[parent] = true;
      const size_t children = parent ^ Offset(units_[parent]);
      if ((children | 0xff) >= units_.size()) return false;  // any byte may be looked up
      if (HasLeaf(units_[parent]) && Value(units_[children]) >= values) return false;
      for (size_t byte = 0; byte < 256; ++byte) {
        if (Label(units_[children ^ byte]) == byte) open.push_back(children ^ byte);
      }
    }
    return true;
  }

 private:
  static bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) == 1; }
  static uint32_t Value(uint32_t unit) { return unit & 0x7fffffff; }
  static uint32_t Label(uint32_t unit) { return unit & 0x800000ff; }
  static uint32_t Offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }

  std::vector<uint32_t> units_;
};

// u32 size of a double array, the array, and the texts that its values point into, each ended by a zero byte.
absl::Status CheckCharacterTable(absl::string_view table) {
  if (table.empty()) return absl::OkStatus();
  ByteReader in(table);
  const absl::StatusOr<absl::string_view> array = in.Sized();
  const absl::string_view texts = in.rest();
  if (!array.ok() || texts.empty() || texts.back() != '\0' || !DoubleArray(*array).IsClosed(texts.size())) {
    return absl::InvalidArgumentError("its normalizer's character table leads out of itself");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPieceFile(absl::string_view file) {
  for (ByteReader model(file); !model.rest().empty();) {
    const absl::StatusOr<Field> field = ReadField(model);
    if (!field.ok()) return NotAModel();
    if (field->number != kNormalizer && field->number != kDenormalizer) continue;
    for (ByteReader normalizer(field->bytes); !normalizer.rest().empty();) {
      const absl::StatusOr<Field> part = ReadField(normalizer);
      if (!part.ok()) return NotAModel();
      if (part->number == kCharacterTable) RETURN_IF_ERROR(CheckCharacterTable(part->bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
