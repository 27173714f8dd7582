#include "core/session/export_stream.h"

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/base/status_macros.h"
#include "core/storage/record_fields.h"

namespace mnemosyne {

namespace {

enum FrameKind : uint8_t { kSession = 1, kSnapshotHeader = 2, kStatePart = 3, kRecord = 4, kEnd = 5 };

constexpr absl::string_view kMagic = "MNEMOEXP";
constexpr uint32_t kVersion = 1;
constexpr size_t kStartBytes = 8 + 4, kFrameHeadBytes = 1 + 4, kChecksumBytes = 8;
constexpr uint32_t kMaxFrameBytes = 64 << 20;

std::string Start() {
  ByteWriter out;
  out.Raw(kMagic);
  out.U32(kVersion);
  return out.Take();
}

// Of a frame, its kind and length included, and of all frames before it.
uint64_t ChainedChecksum(uint64_t before, absl::string_view frame) {
  ByteWriter out;
  out.U64(before);
  out.U64(Checksum64(frame));
  return Checksum64(out.bytes());
}

absl::StatusOr<SessionMetadata> ReadSession(absl::string_view body) {
  ByteReader in(body);
  SessionMetadata metadata;
  ASSIGN_OR_RETURN(metadata.id, ReadString(in));
  ASSIGN_OR_RETURN(metadata.model, ReadString(in));
  ASSIGN_OR_RETURN(metadata.fingerprint, ReadString(in));
  ASSIGN_OR_RETURN(metadata.first_sequence, in.U64());
  ASSIGN_OR_RETURN(metadata.create_time, ReadTime(in));
  RETURN_IF_ERROR(ReadLabels(in, &metadata.labels));
  RETURN_IF_ERROR(ReadSettingsAndTrim(in, &metadata));
  RETURN_IF_ERROR(in.ExpectEnd());
  return metadata;
}

absl::StatusOr<SnapshotHeader> ReadHeader(absl::string_view body) {
  ByteReader in(body);
  SnapshotHeader header;
  ASSIGN_OR_RETURN(header.offset, in.I64());
  if (header.offset < 0) return absl::DataLossError(absl::StrCat("offset ", header.offset));
  RETURN_IF_ERROR(ReadSnapshotFields(in, &header));
  return header;
}

absl::StatusOr<LogRecord> ReadRecord(absl::string_view body) {
  ByteReader in(body);
  LogRecord record;
  ASSIGN_OR_RETURN(record.index, in.U64());
  RETURN_IF_ERROR(ReadLogFields(in, &record));
  return record;
}

}  // namespace

// ---- ExportWriter

std::string ExportWriter::Frame(uint8_t kind, absl::string_view body) {
  std::string start;
  if (!began_) {
    began_ = true;
    start = Start();
    checksum_ = Checksum64(start);
  }
  ByteWriter frame;
  frame.U8(kind);
  frame.Sized(body);
  checksum_ = ChainedChecksum(checksum_, frame.bytes());
  frame.U64(checksum_);
  return start + frame.Take();
}

std::string ExportWriter::Session(const SessionMetadata& metadata) {
  ByteWriter out;
  out.Sized(metadata.id);
  out.Sized(metadata.model);
  out.Sized(metadata.fingerprint);
  out.U64(metadata.first_sequence);
  WriteTime(metadata.create_time, out);
  WriteLabels(metadata.labels, out);
  WriteSettingsAndTrim(metadata, out);
  return Frame(kSession, out.bytes());
}

std::string ExportWriter::Header(const SnapshotHeader& header) {
  ByteWriter out;
  out.I64(header.offset);
  WriteSnapshotFields(header, out);
  return Frame(kSnapshotHeader, out.bytes());
}

std::string ExportWriter::StatePart(absl::string_view part) { return Frame(kStatePart, part); }

std::string ExportWriter::Record(const LogRecord& record) {
  ByteWriter out;
  out.U64(record.index);
  WriteLogFields(record, out);
  records_ += 1;
  return Frame(kRecord, out.bytes());
}

std::string ExportWriter::End() {
  ByteWriter out;
  out.U64(records_);
  return Frame(kEnd, out.bytes());
}

// ---- ExportReader

absl::Status ExportReader::Add(absl::string_view bytes, ExportVisitor& visitor) {
  RETURN_IF_ERROR(failed_);
  waiting_.append(bytes.data(), bytes.size());
  bool more = true;
  while (more && failed_.ok()) failed_ = Advance(visitor, &more);
  return failed_;
}

// Takes what waits as far as the next frame's end.
absl::Status ExportReader::Advance(ExportVisitor& visitor, bool* more) {
  *more = false;
  if (expecting_ == Expecting::kNothing) {
    if (waiting_.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("the export has ", waiting_.size(), " bytes or more after its end"));
  }
  if (expecting_ == Expecting::kStart) {
    const absl::string_view begin = absl::string_view(waiting_).substr(0, kMagic.size());
    if (begin != kMagic.substr(0, begin.size())) return absl::DataLossError("it is no export of a session");
    if (waiting_.size() < kStartBytes) return absl::OkStatus();
    ByteReader in(absl::string_view(waiting_).substr(kMagic.size()));
    ASSIGN_OR_RETURN(const uint32_t version, in.U32());
    if (version != kVersion) {
      return absl::FailedPreconditionError(
          absl::StrCat("the export has version ", version, "; this program reads version ", kVersion));
    }
    checksum_ = Checksum64(absl::string_view(waiting_).substr(0, kStartBytes));
    waiting_.erase(0, kStartBytes);
    expecting_ = Expecting::kSession;
    *more = true;
    return absl::OkStatus();
  }
  if (waiting_.size() < kFrameHeadBytes) return absl::OkStatus();
  ByteReader in(waiting_);
  ASSIGN_OR_RETURN(const uint8_t kind, in.U8());
  ASSIGN_OR_RETURN(const uint32_t bytes, in.U32());
  const std::string name = absl::StrCat("frame ", frames_, " of the export");
  if (bytes > kMaxFrameBytes) {
    return absl::DataLossError(absl::StrCat(name, " has ", bytes, " bytes; the maximum is ", kMaxFrameBytes));
  }
  const size_t frame_bytes = kFrameHeadBytes + bytes;
  if (waiting_.size() < frame_bytes + kChecksumBytes) return absl::OkStatus();
  const absl::string_view frame = absl::string_view(waiting_).substr(0, frame_bytes);
  ASSIGN_OR_RETURN(const uint64_t checksum,
                   ByteReader(absl::string_view(waiting_).substr(frame_bytes, kChecksumBytes)).U64());
  checksum_ = ChainedChecksum(checksum_, frame);
  if (checksum != checksum_) {
    return absl::DataLossError(absl::StrCat(name, ": the checksum does not match: it was altered, or its order was"));
  }
  if (const absl::Status taken = TakeFrame(kind, frame.substr(kFrameHeadBytes), visitor); !taken.ok()) {
    return absl::Status(taken.code(), absl::StrCat(name, ": ", taken.message()));
  }
  frames_ += 1;
  waiting_.erase(0, frame_bytes + kChecksumBytes);
  *more = true;
  return absl::OkStatus();
}

absl::Status ExportReader::TakeFrame(uint8_t kind, absl::string_view body, ExportVisitor& visitor) {
  const bool may_be_record = expecting_ == Expecting::kSnapshotOrRecord || expecting_ == Expecting::kRecord;
  if (kind == kSession && expecting_ == Expecting::kSession) {
    ASSIGN_OR_RETURN(SessionMetadata metadata, ReadSession(body));
    expecting_ = Expecting::kSnapshotOrRecord;
    return visitor.OnSession(std::move(metadata));
  }
  if (kind == kSnapshotHeader && expecting_ == Expecting::kSnapshotOrRecord) {
    ASSIGN_OR_RETURN(header_, ReadHeader(body));
    if (header_.state_bytes > visitor.MaxStateBytes()) {
      return absl::DataLossError(absl::StrCat("a state of ", header_.state_bytes,
                                              " bytes; the maximum for its model is ", visitor.MaxStateBytes()));
    }
    expecting_ = Expecting::kState;
    return absl::OkStatus();
  }
  if (kind == kStatePart && expecting_ == Expecting::kState) {
    state_.append(body.data(), body.size());
    if (static_cast<int64_t>(state_.size()) > header_.state_bytes) {
      return absl::DataLossError(absl::StrCat("a state of more than the ", header_.state_bytes, " bytes announced"));
    }
    if (static_cast<int64_t>(state_.size()) < header_.state_bytes) return absl::OkStatus();
    expecting_ = Expecting::kRecord;
    return visitor.OnSnapshot(header_, std::move(state_));
  }
  if (kind == kRecord && may_be_record) {
    ASSIGN_OR_RETURN(LogRecord record, ReadRecord(body));
    expecting_ = Expecting::kRecord;
    records_ += 1;
    return visitor.OnRecord(std::move(record));
  }
  if (kind == kEnd && may_be_record) {
    ByteReader in(body);
    ASSIGN_OR_RETURN(const uint64_t records, in.U64());
    RETURN_IF_ERROR(in.ExpectEnd());
    if (records != records_) {
      return absl::DataLossError(absl::StrCat("the end says ", records, " records; there were ", records_));
    }
    expecting_ = Expecting::kNothing;
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat("kind ", int{kind}, " is out of order"));
}

absl::Status ExportReader::CheckEnded() const {
  RETURN_IF_ERROR(failed_);
  if (expecting_ == Expecting::kNothing && waiting_.empty()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the export is truncated after frame ", frames_, " of it"));
}

}  // namespace mnemosyne
