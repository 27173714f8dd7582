// Little-endian encoding of the fields that our file formats are made of (docs/formats).
//
//   ByteWriter out;  out.U32(7);  out.Sized("name");
//   ByteReader in(out.bytes());
//   ASSIGN_OR_RETURN(uint32_t version, in.U32());
//   ASSIGN_OR_RETURN(absl::string_view name, in.Sized());
//   RETURN_IF_ERROR(in.ExpectEnd());
//
// A reader never reads past its end: DATA_LOSS names how many bytes were wanted and how many there are.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

static_assert(std::endian::native == std::endian::little, "the file formats are little-endian and copied as they are");

class ByteWriter {
 public:
  void Reserve(size_t bytes) { bytes_.reserve(bytes); }
  void U8(uint8_t value) { Put(value); }
  void U32(uint32_t value) { Put(value); }
  void U64(uint64_t value) { Put(value); }
  void I64(int64_t value) { Put(value); }
  void Raw(absl::string_view bytes) { bytes_.append(bytes.data(), bytes.size()); }
  void Sized(absl::string_view bytes) {  // u32 length, then the bytes
    U32(static_cast<uint32_t>(bytes.size()));
    Raw(bytes);
  }
  const std::string& bytes() const { return bytes_; }
  std::string Take() { return std::move(bytes_); }

 private:
  template <typename T>
  void Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  std::string bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(absl::string_view bytes) : rest_(bytes) {}  // the bytes must outlive the reader
  absl::StatusOr<uint8_t> U8() { return Get<uint8_t>(); }
  absl::StatusOr<uint32_t> U32() { return Get<uint32_t>(); }
  absl::StatusOr<uint64_t> U64() { return Get<uint64_t>(); }
  absl::StatusOr<int64_t> I64() { return Get<int64_t>(); }
  absl::StatusOr<absl::string_view> Raw(uint64_t size) {
    if (size > rest_.size()) return TooShort(size);
    absl::string_view out = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return out;
  }
  absl::StatusOr<absl::string_view> Sized() {
    absl::StatusOr<uint32_t> size = U32();
    if (!size.ok()) return size.status();
    return Raw(*size);
  }
  absl::string_view rest() const { return rest_; }
  absl::Status ExpectEnd() const {
    if (rest_.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(rest_.size(), " bytes too many at the end"));
  }

 private:
  template <typename T>
  absl::StatusOr<T> Get() {
    if (rest_.size() < sizeof(T)) return TooShort(sizeof(T));
    T value;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  absl::Status TooShort(uint64_t wanted) const {
    return absl::DataLossError(absl::StrCat("truncated: ", wanted, " bytes wanted, ", rest_.size(), " left"));
  }
  absl::string_view rest_;
};

}  // namespace mnemosyne
