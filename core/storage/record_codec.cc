#include "core/storage/record_codec.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/base/status_macros.h"
#include "core/storage/branches.h"
#include "core/storage/record_fields.h"

namespace mnemosyne {
namespace {

enum class RecordKind : uint8_t {
  kFolderFormat = 1,
  kSession = 2,
  kLog = 3,
  kSnapshotHeader = 4,
  kSnapshotState = 5,
  kNextSession = 6,
  kMark = 7
};

constexpr uint8_t VersionOf(RecordKind kind) { return kind == RecordKind::kSession ? kSessionVersion : kRecordVersion; }

constexpr absl::string_view kFolderName = "mnemosyne data folder";
constexpr size_t kChecksumBytes = 8;

void AppendBigEndian(uint64_t value, std::string& out) {
  for (int shift = 56; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift & 0xff));
}

uint64_t BigEndianAt(absl::string_view bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

// Of the key and the value without its checksum. Two steps, so that a large value is not copied beside its key.
uint64_t RecordChecksum(absl::string_view key, absl::string_view sealed) {
  ByteWriter bound;
  bound.Raw(key);
  bound.U64(Checksum64(sealed));
  return Checksum64(bound.bytes());
}

ByteWriter BeginRecord(RecordKind kind, uint64_t epoch) {
  ByteWriter out;
  out.U8(VersionOf(kind));
  out.U8(static_cast<uint8_t>(kind));
  out.U64(epoch);
  return out;
}

std::string Seal(absl::string_view key, ByteWriter record) {
  record.U64(RecordChecksum(key, record.bytes()));
  return record.Take();
}

struct OpenedRecord {
  uint8_t version;
  uint64_t epoch;
  ByteReader body;
};

absl::StatusOr<OpenedRecord> OpenRecord(RecordKind kind, absl::string_view key, absl::string_view value) {
  if (value.size() < kChecksumBytes) {
    return absl::DataLossError(absl::StrCat("truncated: ", value.size(), " bytes are too few for a record"));
  }
  const absl::string_view sealed = value.substr(0, value.size() - kChecksumBytes);
  ASSIGN_OR_RETURN(uint64_t checksum, ByteReader(value.substr(sealed.size())).U64());
  if (checksum != RecordChecksum(key, sealed)) {
    return absl::DataLossError("the checksum does not match: it was altered, or moved from another key");
  }
  ByteReader body(sealed);
  ASSIGN_OR_RETURN(uint8_t version, body.U8());
  if (version > VersionOf(kind)) {
    return absl::FailedPreconditionError(
        absl::StrCat("record version ", int{version}, "; this program reads up to ", int{VersionOf(kind)}));
  }
  ASSIGN_OR_RETURN(uint8_t found_kind, body.U8());
  if (version == 0 || found_kind != static_cast<uint8_t>(kind)) {
    return absl::DataLossError(absl::StrCat("record version ", int{version}, " of kind ", int{found_kind},
                                            "; wanted kind ", static_cast<int>(kind)));
  }
  ASSIGN_OR_RETURN(uint64_t epoch, body.U64());
  return OpenedRecord{version, epoch, body};
}

// Opens a record of the folder itself, which is in no epoch.
absl::StatusOr<ByteReader> OpenFolderRecord(RecordKind kind, absl::string_view key, absl::string_view value) {
  ASSIGN_OR_RETURN(OpenedRecord record, OpenRecord(kind, key, value));
  if (record.epoch != 0) return absl::DataLossError(absl::StrCat("it is of epoch ", record.epoch, "; wanted 0"));
  return record.body;
}

// Opens a record whose key tells its epoch too.
absl::StatusOr<ByteReader> OpenEpochRecord(RecordKind kind, size_t key_bytes, absl::string_view key,
                                           absl::string_view value) {
  if (key.size() != key_bytes) return absl::DataLossError(absl::StrCat("a key of ", key.size(), " bytes"));
  ASSIGN_OR_RETURN(OpenedRecord record, OpenRecord(kind, key, value));
  if (record.epoch != BigEndianAt(key, 8)) {
    return absl::DataLossError(absl::StrCat("it is of epoch ", record.epoch, ", its key of ", BigEndianAt(key, 8)));
  }
  return record.body;
}

constexpr size_t kSessionKeyBytes = 8, kLogKeyBytes = 24, kSnapshotKeyBytes = 25;

}  // namespace

std::string SessionKey(uint64_t number) {
  std::string key;
  AppendBigEndian(number, key);
  return key;
}

std::string EpochKey(uint64_t number, uint64_t epoch) {
  std::string key = SessionKey(number);
  AppendBigEndian(epoch, key);
  return key;
}

std::string LogKey(uint64_t number, uint64_t epoch, uint64_t index) {
  std::string key = EpochKey(number, epoch);
  AppendBigEndian(index, key);
  return key;
}

std::string SnapshotKey(uint64_t number, uint64_t epoch, SnapshotPart part, int64_t offset) {
  std::string key = EpochKey(number, epoch);
  key.push_back(static_cast<char>(part));
  AppendBigEndian(static_cast<uint64_t>(offset), key);
  return key;
}

absl::StatusOr<uint64_t> ParseSessionKey(absl::string_view key) {
  if (key.size() != kSessionKeyBytes) return absl::DataLossError(absl::StrCat("a key of ", key.size(), " bytes"));
  return BigEndianAt(key, 0);
}

absl::StatusOr<uint64_t> ParseLogIndex(absl::string_view key) {
  if (key.size() != kLogKeyBytes) return absl::DataLossError(absl::StrCat("a key of ", key.size(), " bytes"));
  return BigEndianAt(key, 16);
}

absl::StatusOr<int64_t> ParseSnapshotOffset(absl::string_view key) {
  if (key.size() != kSnapshotKeyBytes) return absl::DataLossError(absl::StrCat("a key of ", key.size(), " bytes"));
  return static_cast<int64_t>(BigEndianAt(key, 17));
}

std::string EncodeFolderFormat(uint32_t format) {
  ByteWriter out = BeginRecord(RecordKind::kFolderFormat, 0);
  out.Sized(kFolderName);
  out.U32(format);
  return Seal(kFormatKey, std::move(out));
}

absl::Status CheckFolderFormat(absl::string_view value) {
  ASSIGN_OR_RETURN(ByteReader in, OpenFolderRecord(RecordKind::kFolderFormat, kFormatKey, value));
  ASSIGN_OR_RETURN(absl::string_view name, in.Sized());
  if (name != kFolderName) return absl::FailedPreconditionError(absl::StrCat("it is a '", name, "'"));
  ASSIGN_OR_RETURN(uint32_t format, in.U32());
  if (format > kFolderFormat) {
    return absl::FailedPreconditionError(absl::StrCat("format ", format, "; this program reads up to ", kFolderFormat));
  }
  return in.ExpectEnd();
}

std::string EncodeNextSession(uint64_t number) {
  ByteWriter out = BeginRecord(RecordKind::kNextSession, 0);
  out.U64(number);
  return Seal(kNextSessionKey, std::move(out));
}

absl::StatusOr<uint64_t> DecodeNextSession(absl::string_view value) {
  ASSIGN_OR_RETURN(ByteReader in, OpenFolderRecord(RecordKind::kNextSession, kNextSessionKey, value));
  ASSIGN_OR_RETURN(const uint64_t number, in.U64());
  RETURN_IF_ERROR(in.ExpectEnd());
  return number;
}

std::string MarkKey(absl::string_view mark, uint64_t number) { return absl::StrCat(mark, SessionKey(number)); }

std::string EncodeMark(absl::string_view mark, uint64_t number) {
  ByteWriter out = BeginRecord(RecordKind::kMark, 0);
  out.U64(number);
  return Seal(MarkKey(mark, number), std::move(out));
}

absl::StatusOr<uint64_t> DecodeMark(absl::string_view mark, absl::string_view key, absl::string_view value) {
  ASSIGN_OR_RETURN(ByteReader in, OpenFolderRecord(RecordKind::kMark, key, value));
  ASSIGN_OR_RETURN(const uint64_t number, in.U64());
  RETURN_IF_ERROR(in.ExpectEnd());
  if (key != MarkKey(mark, number)) return absl::DataLossError(absl::StrCat("it is of session number ", number));
  return number;
}

namespace {

void WriteBranch(const BranchId& branch, ByteWriter& out) {
  out.U64(branch.number);
  out.U64(branch.epoch);
}

absl::StatusOr<BranchId> ReadBranch(ByteReader& in) {
  BranchId branch;
  ASSIGN_OR_RETURN(branch.number, in.U64());
  ASSIGN_OR_RETURN(branch.epoch, in.U64());
  return branch;
}

// What version 2 of a session's metadata added.
void WriteSettingsAndLog(const SessionMetadata& metadata, ByteWriter& out) {
  WriteSettingsAndTrim(metadata, out);
  out.U32(static_cast<uint32_t>(metadata.extents.size()));
  for (const LogExtent& extent : metadata.extents) {
    WriteBranch(extent.branch, out);
    out.U64(extent.first);
    out.U64(extent.count);
    out.I64(extent.offset_shift);
  }
  out.U64(metadata.own_first);
  out.U32(static_cast<uint32_t>(metadata.snapshot_sources.size()));
  for (const SnapshotSource& source : metadata.snapshot_sources) {
    WriteBranch(source.branch, out);
    out.I64(source.max_offset);
  }
}

absl::Status ReadSettingsAndLog(ByteReader& in, SessionMetadata* metadata) {
  RETURN_IF_ERROR(ReadSettingsAndTrim(in, metadata));
  ASSIGN_OR_RETURN(const uint32_t extent_count, in.U32());
  for (uint32_t i = 0; i < extent_count; ++i) {
    LogExtent extent;
    ASSIGN_OR_RETURN(extent.branch, ReadBranch(in));
    ASSIGN_OR_RETURN(extent.first, in.U64());
    ASSIGN_OR_RETURN(extent.count, in.U64());
    ASSIGN_OR_RETURN(extent.offset_shift, in.I64());
    metadata->extents.push_back(extent);
  }
  ASSIGN_OR_RETURN(metadata->own_first, in.U64());
  if (metadata->own_first != ExtentsEnd(*metadata)) {
    return absl::DataLossError(absl::StrCat("its extents end at record ", ExtentsEnd(*metadata),
                                            ", its own branch begins at ", metadata->own_first));
  }
  ASSIGN_OR_RETURN(const uint32_t source_count, in.U32());
  for (uint32_t i = 0; i < source_count; ++i) {
    SnapshotSource source;
    ASSIGN_OR_RETURN(source.branch, ReadBranch(in));
    ASSIGN_OR_RETURN(source.max_offset, in.I64());
    metadata->snapshot_sources.push_back(source);
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeSession(const SessionMetadata& metadata) {
  ByteWriter out = BeginRecord(RecordKind::kSession, metadata.epoch);
  out.Sized(metadata.id);
  out.Sized(metadata.model);
  out.Sized(metadata.fingerprint);
  out.U64(metadata.first_sequence);
  WriteTime(metadata.create_time, out);
  WriteTime(metadata.update_time, out);
  WriteLabels(metadata.labels, out);
  WriteSettingsAndLog(metadata, out);
  return Seal(SessionKey(metadata.number), std::move(out));
}

absl::StatusOr<SessionMetadata> DecodeSession(absl::string_view key, absl::string_view value) {
  SessionMetadata metadata;
  ASSIGN_OR_RETURN(metadata.number, ParseSessionKey(key));
  ASSIGN_OR_RETURN(OpenedRecord record, OpenRecord(RecordKind::kSession, key, value));
  metadata.epoch = record.epoch;
  ByteReader& in = record.body;
  ASSIGN_OR_RETURN(metadata.id, ReadString(in));
  ASSIGN_OR_RETURN(metadata.model, ReadString(in));
  ASSIGN_OR_RETURN(metadata.fingerprint, ReadString(in));
  ASSIGN_OR_RETURN(metadata.first_sequence, in.U64());
  ASSIGN_OR_RETURN(metadata.create_time, ReadTime(in));
  ASSIGN_OR_RETURN(metadata.update_time, ReadTime(in));
  RETURN_IF_ERROR(ReadLabels(in, &metadata.labels));
  if (record.version >= 2) RETURN_IF_ERROR(ReadSettingsAndLog(in, &metadata));
  RETURN_IF_ERROR(in.ExpectEnd());
  return metadata;
}

std::string EncodeLogRecord(const LogRecord& record) {
  ByteWriter out = BeginRecord(RecordKind::kLog, record.epoch);
  WriteLogFields(record, out);
  return Seal(LogKey(record.session_number, record.epoch, record.index), std::move(out));
}

absl::StatusOr<LogRecord> DecodeLogRecord(absl::string_view key, absl::string_view value) {
  LogRecord record;
  ASSIGN_OR_RETURN(ByteReader in, OpenEpochRecord(RecordKind::kLog, kLogKeyBytes, key, value));
  record.session_number = BigEndianAt(key, 0);
  record.epoch = BigEndianAt(key, 8);
  record.index = BigEndianAt(key, 16);
  RETURN_IF_ERROR(ReadLogFields(in, &record));
  return record;
}

std::string EncodeSnapshotHeader(const SnapshotHeader& header) {
  ByteWriter out = BeginRecord(RecordKind::kSnapshotHeader, header.epoch);
  WriteSnapshotFields(header, out);
  return Seal(SnapshotKey(header.session_number, header.epoch, SnapshotPart::kHeader, header.offset), std::move(out));
}

absl::StatusOr<SnapshotHeader> DecodeSnapshotHeader(absl::string_view key, absl::string_view value) {
  SnapshotHeader header;
  ASSIGN_OR_RETURN(ByteReader in, OpenEpochRecord(RecordKind::kSnapshotHeader, kSnapshotKeyBytes, key, value));
  header.session_number = BigEndianAt(key, 0);
  header.epoch = BigEndianAt(key, 8);
  ASSIGN_OR_RETURN(header.offset, ParseSnapshotOffset(key));
  RETURN_IF_ERROR(ReadSnapshotFields(in, &header));
  return header;
}

std::string EncodeSnapshotState(const SnapshotHeader& header, absl::string_view state) {
  ByteWriter out = BeginRecord(RecordKind::kSnapshotState, header.epoch);
  out.Raw(state);
  return Seal(SnapshotKey(header.session_number, header.epoch, SnapshotPart::kState, header.offset), std::move(out));
}

absl::StatusOr<absl::string_view> DecodeSnapshotState(const SnapshotHeader& header, absl::string_view key,
                                                      absl::string_view value) {
  ASSIGN_OR_RETURN(ByteReader in, OpenEpochRecord(RecordKind::kSnapshotState, kSnapshotKeyBytes, key, value));
  if (in.rest().size() != header.state_bytes) {
    return absl::DataLossError(
        absl::StrCat("a state of ", in.rest().size(), " bytes; its header says ", header.state_bytes));
  }
  return in.rest();
}

}  // namespace mnemosyne
