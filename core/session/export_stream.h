// A session as one stream of bytes that says all about itself (docs/formats/export.md).
//
//   ExportWriter out;  bytes += out.Session(metadata);  bytes += out.SnapshotHeader(header); ... bytes += out.End();
//   ExportReader in;  RETURN_IF_ERROR(in.Add(bytes, visitor));  RETURN_IF_ERROR(in.CheckEnded());
//
// A frame has at most 64 MiB. Each frame's checksum covers the one before it: a stream that is altered, cut or put in
// another order is DATA_LOSS at the first frame where it shows. Thread-compatible.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/storage/records.h"

namespace mnemosyne {

class ExportWriter {
 public:
  // In this order: the session, its snapshot's header and then its state, or neither, the log's records, the end.
  std::string Session(const SessionMetadata& metadata);
  std::string Header(const SnapshotHeader& header);
  std::string StatePart(absl::string_view part);  // of the state's bytes, at most kMaxExportPartBytes
  std::string Record(const LogRecord& record);
  std::string End();

 private:
  std::string Frame(uint8_t kind, absl::string_view body);
  uint64_t checksum_ = 0;
  uint64_t records_ = 0;
  bool began_ = false;
};

// What an importer does with a stream's frames.
class ExportVisitor {
 public:
  virtual ~ExportVisitor() = default;
  // Number, epoch, extents and sources are not in the stream.
  virtual absl::Status OnSession(SessionMetadata metadata) = 0;
  virtual int64_t MaxStateBytes() const = 0;  // of what OnSnapshot takes
  virtual absl::Status OnSnapshot(SnapshotHeader header, std::string state) = 0;
  virtual absl::Status OnRecord(LogRecord record) = 0;
};

class ExportReader {
 public:
  // Takes the stream's next bytes, cut anywhere, and tells the visitor of the frames that are whole. After an error it
  // takes no more. FAILED_PRECONDITION: a newer version.
  absl::Status Add(absl::string_view bytes, ExportVisitor& visitor);
  absl::Status CheckEnded() const;  // DATA_LOSS: the stream is truncated

 private:
  enum class Expecting { kStart, kSession, kSnapshotOrRecord, kState, kRecord, kNothing };
  absl::Status TakeFrame(uint8_t kind, absl::string_view body, ExportVisitor& visitor);
  absl::Status Advance(ExportVisitor& visitor, bool* more);

  Expecting expecting_ = Expecting::kStart;
  absl::Status failed_;
  std::string waiting_;
  uint64_t checksum_ = 0;
  uint64_t frames_ = 0, records_ = 0;
  SnapshotHeader header_;
  std::string state_;
};

inline constexpr int64_t kMaxExportPartBytes = 256 << 10;

}  // namespace mnemosyne
