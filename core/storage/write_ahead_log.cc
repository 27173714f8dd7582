#include "core/storage/write_ahead_log.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/bytes.h"
#include "rocksdb/file_checksum.h"
#include "rocksdb/write_batch.h"

namespace mnemosyne {
namespace {

// RocksDB's log format: blocks, in each a row of records or parts of one, each with checksum u32, length u16, kind u8.
constexpr size_t kBlockBytes = 32768, kHeaderBytes = 7;
constexpr uint8_t kFirstKind = 1, kLastKind = 4;  // whole, begin, middle, end

template <typename T>
T Load(const char* bytes) {  // little-endian, as bytes.h asserts that the machine is
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

size_t PayloadBytes(absl::string_view record) { return Load<uint16_t>(record.data() + 4); }

bool Fits(absl::string_view rest) {
  if (rest.size() < kHeaderBytes) return false;
  const uint8_t kind = rest[6];
  return kind >= kFirstKind && kind <= kLastKind && kHeaderBytes + PayloadBytes(rest) <= rest.size();
}

bool IsWhole(absl::string_view rest) {
  if (!Fits(rest)) return false;
  static rocksdb::FileChecksumGenFactory* const factory = rocksdb::GetFileChecksumGenCrc32cFactory().get();
  const std::unique_ptr<rocksdb::FileChecksumGenerator> generator = factory->CreateFileChecksumGenerator({});
  generator->Update(rest.data() + 6, 1 + PayloadBytes(rest));
  generator->Finalize();
  uint32_t crc = 0;  // big-endian
  for (const char byte : generator->GetChecksum()) crc = crc << 8 | static_cast<uint8_t>(byte);
  const uint32_t masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8;
  return masked == Load<uint32_t>(rest.data());
}

absl::Status CheckLog(const std::string& path, const std::string& name) {
  std::ifstream file(path + "/" + name, std::ios::binary);
  int64_t broken_at = -1;
  std::string buffer(kBlockBytes, '\0');
  for (int64_t begin = 0; file.read(buffer.data(), kBlockBytes), file.gcount() > 0; begin += kBlockBytes) {
    const absl::string_view block(buffer.data(), file.gcount());
    size_t at = 0;
    while (broken_at < 0 && at + kHeaderBytes <= block.size()) {
      if (Fits(block.substr(at))) {
        at += kHeaderBytes + PayloadBytes(block.substr(at));  // its checksum the replay looks at
      } else {
        broken_at = begin + static_cast<int64_t>(at++);
      }
    }
    for (; broken_at >= 0 && at < block.size(); ++at) {
      if (!IsWhole(block.substr(at))) continue;
      return absl::DataLossError(absl::StrCat("data folder '", path, "': write-ahead log ", name,
                                              " is damaged at byte ", broken_at, "; there is a whole record at byte ",
                                              begin + static_cast<int64_t>(at)));
    }
  }
  // What cannot be read, the replay reports.
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckWriteAheadLogs(const std::string& path) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.path().extension() != ".log") continue;
    const absl::Status status = CheckLog(path, entry.path().filename());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

rocksdb::WalFilter::WalProcessingOption GapFinder::LogRecordFound(unsigned long long /*log_number*/,
                                                                  const std::string& log_file_name,
                                                                  const rocksdb::WriteBatch& batch,
                                                                  rocksdb::WriteBatch* /*new_batch*/,
                                                                  bool* /*batch_changed*/) {
  if (batch.Count() == 0) return WalProcessingOption::kContinueProcessing;  // RocksDB's own note of a recovery
  const uint64_t sequence = Load<uint64_t>(batch.Data().data());
  if (next_sequence_ != 0 && sequence != next_sequence_) {
    gap_ = absl::StrCat(log_file_name, ": sequence number ", next_sequence_, " should follow; there is ", sequence);
    return WalProcessingOption::kCorruptedRecord;
  }
  next_sequence_ = sequence + batch.Count();
  return WalProcessingOption::kContinueProcessing;
}

}  // namespace mnemosyne
