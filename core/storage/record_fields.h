// Fields that records of a data folder and frames of an export have in common, byte for byte (docs/formats).
//
// Readers are DATA_LOSS for what no writer writes; messages do not name the record, the caller does.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/bytes.h"
#include "core/storage/records.h"

namespace mnemosyne {

absl::StatusOr<std::string> ReadString(ByteReader& in);
void WriteTime(absl::Time time, ByteWriter& out);
absl::StatusOr<absl::Time> ReadTime(ByteReader& in);

// Labels, in the order of their names.
void WriteLabels(const std::map<std::string, std::string>& labels, ByteWriter& out);
absl::Status ReadLabels(ByteReader& in, std::map<std::string, std::string>* labels);

// A session's settings, and what was trimmed of its log.
void WriteSettingsAndTrim(const SessionMetadata& metadata, ByteWriter& out);
absl::Status ReadSettingsAndTrim(ByteReader& in, SessionMetadata* metadata);

// A log record without where it lies; its payload is all that is left.
void WriteLogFields(const LogRecord& record, ByteWriter& out);
absl::Status ReadLogFields(ByteReader& in, LogRecord* record);

// A snapshot's header without where it lies.
void WriteSnapshotFields(const SnapshotHeader& header, ByteWriter& out);
absl::Status ReadSnapshotFields(ByteReader& in, SnapshotHeader* header);

}  // namespace mnemosyne
