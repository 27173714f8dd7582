#include "core/model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status_macros.h"
#include "core/base/strict_json.h"
#include "nlohmann/json.hpp"

namespace mnemosyne {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 8;
constexpr char kMetadata[] = "__metadata__";

int64_t BytesEach(TensorDtype dtype) { return dtype == TensorDtype::kF32 ? 4 : 2; }

std::string Tensor(absl::string_view name) { return absl::StrCat("tensor '", ForMessage(name), "'"); }

absl::Status Invalid(absl::string_view name, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(Tensor(name), " ", problem));
}

// A tensor as the header tells it: its place is not yet checked against the file.
struct Entry {
  std::string name;
  TensorDtype dtype;
  std::vector<int64_t> shape;
  uint64_t begin;
  uint64_t end;
};

std::optional<TensorDtype> DtypeOf(const std::string& name) {
  if (name == "F32") return TensorDtype::kF32;
  if (name == "F16") return TensorDtype::kF16;
  if (name == "BF16") return TensorDtype::kBF16;
  return std::nullopt;
}

absl::Status ReadShape(const std::string& name, const json& value, Entry* entry) {
  if (!value.is_array()) return Invalid(name, "has a shape that is not a list");
  if (value.size() > kMaxDimensions) {
    return Invalid(name, absl::StrCat("has ", value.size(), " dimensions; the maximum is ", kMaxDimensions));
  }
  uint64_t size = BytesEach(entry->dtype);
  for (const json& extent : value) {
    if (!extent.is_number_unsigned()) return Invalid(name, "has a shape with something else than a count in it");
    const uint64_t count = extent.get<uint64_t>();
    // Each extent is bounded too: a 0 beside it must not hide one that int64 cannot hold.
    constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
    if (count > kMost || (count != 0 && size > kMost / count)) {
      return Invalid(name, absl::StrCat("has a shape whose bytes overflow: ", ForMessage(value.dump())));
    }
    size *= count;
    entry->shape.push_back(static_cast<int64_t>(count));
  }
  if (entry->end - entry->begin != size) {
    return Invalid(name, absl::StrCat("has ", entry->end - entry->begin, " bytes; its shape ", ForMessage(value.dump()),
                                      " needs ", size));
  }
  return absl::OkStatus();
}

absl::StatusOr<Entry> ReadEntry(const std::string& name, const json& value) {
  if (name.empty()) return Invalid(name, "has an empty name");
  if (!value.is_object()) return Invalid(name, "is not an object in the header");
  for (const auto& item : value.items()) {
    const std::string& key = item.key();
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return Invalid(name, absl::StrCat("has the unknown key '", ForMessage(key), "'"));
    }
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) return Invalid(name, absl::StrCat("has no '", key, "'"));
  }
  Entry entry;
  entry.name = name;
  const json& dtype = value["dtype"];
  if (!dtype.is_string()) return Invalid(name, "has a dtype that is not a string");
  const std::optional<TensorDtype> known = DtypeOf(dtype.get_ref<const std::string&>());
  if (!known) {
    return Invalid(name, absl::StrCat("has dtype '", ForMessage(dtype.get_ref<const std::string&>()),
                                      "'; it must be F32, F16 or BF16"));
  }
  entry.dtype = *known;
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return Invalid(name, "has data_offsets that are not two counts");
  }
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  if (entry.begin > entry.end) {
    return Invalid(name, absl::StrCat("has data_offsets [", entry.begin, ", ", entry.end, "] that run backwards"));
  }
  RETURN_IF_ERROR(ReadShape(name, value["shape"], &entry));
  return entry;
}

absl::Status CheckMetadata(const json& metadata) {
  if (!metadata.is_object()) return absl::InvalidArgumentError("'__metadata__' is not an object");
  for (const auto& item : metadata.items()) {
    if (!item.value().is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'__metadata__' key '", ForMessage(item.key()), "' is not a string"));
    }
  }
  return absl::OkStatus();
}

// Every byte of `data` belongs to exactly one tensor. `entries` are sorted by their offsets.
absl::Status CheckPlaces(const std::vector<Entry>& entries, absl::string_view data) {
  uint64_t expected = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != expected) {
      return absl::DataLossError(absl::StrCat(Tensor(entry.name), " begins at byte ", entry.begin,
                                              entry.begin < expected ? ", inside the one before it, which ends at "
                                                                     : ", after a gap; the one before it ends at ",
                                              expected));
    }
    if (entry.end > data.size()) {
      return absl::DataLossError(absl::StrCat(Tensor(entry.name), " is truncated: it ends at byte ", entry.end,
                                              ", the file's data at ", data.size()));
    }
    expected = entry.end;
  }
  if (expected != data.size()) {
    const std::string last = entries.empty() ? "the header" : Tensor(entries.back().name);
    return absl::DataLossError(absl::StrCat(data.size() - expected, " bytes too many after ", last));
  }
  return absl::OkStatus();
}

float WidenF16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal: exact in float32
  return sign != 0 ? -magnitude : magnitude;
}

float WidenBF16(uint16_t brain) { return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16); }

}  // namespace

int64_t TensorView::elements() const { return static_cast<int64_t>(bytes.size()) / BytesEach(dtype); }

std::vector<float> TensorView::ToFloats() const {
  std::vector<float> out(elements());
  if (dtype == TensorDtype::kF32) {
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t narrow;
    std::memcpy(&narrow, bytes.data() + i * sizeof(narrow), sizeof(narrow));
    out[i] = dtype == TensorDtype::kF16 ? WidenF16(narrow) : WidenBF16(narrow);
  }
  return out;
}

absl::StatusOr<std::vector<TensorView>> ParseSafetensors(absl::string_view file) {
  ByteReader in(file);
  const absl::StatusOr<uint64_t> header_bytes = in.U64();
  if (!header_bytes.ok()) {
    return absl::DataLossError(absl::StrCat("header length is ", header_bytes.status().message()));
  }
  if (*header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("header length is ", *header_bytes, " bytes; the maximum is ", kMaxHeaderBytes));
  }
  const absl::StatusOr<absl::string_view> header = in.Raw(*header_bytes);
  if (!header.ok()) return absl::DataLossError(absl::StrCat("header is ", header.status().message()));
  if (header->empty() || header->front() != '{') {
    return absl::InvalidArgumentError("header does not begin with '{'");
  }
  ASSIGN_OR_RETURN(const json root, ParseStrictJson(*header, "header"));

  std::vector<Entry> entries;
  for (const auto& item : root.items()) {
    if (item.key() == kMetadata) {
      RETURN_IF_ERROR(CheckMetadata(item.value()));
      continue;
    }
    ASSIGN_OR_RETURN(Entry entry, ReadEntry(item.key(), item.value()));
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  const absl::string_view data = in.rest();
  RETURN_IF_ERROR(CheckPlaces(entries, data));

  std::vector<TensorView> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    tensors.push_back({std::move(entry.name), entry.dtype, std::move(entry.shape),
                       data.substr(entry.begin, entry.end - entry.begin)});
  }
  return tensors;
}

std::string FormatSafetensors(absl::Span<const NamedTensor> tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  uint64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    const uint64_t end = offset + tensor.values.size() * sizeof(float);
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins at a multiple of 8, as other readers like it
  ByteWriter out;
  out.U64(text.size());
  out.Raw(text);
  for (const NamedTensor& tensor : tensors) {
    out.Raw({reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * sizeof(float)});
  }
  return out.Take();
}

}  // namespace mnemosyne
