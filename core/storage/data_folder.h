// Looks at a data folder before RocksDB may touch it, so that what is wrong has a name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rocksdb/status.h"

namespace mnemosyne {

inline constexpr absl::string_view kSessionsFamily = "sessions", kLogFamily = "log", kSnapshotsFamily = "snapshots";

// Makes the folder if it is missing, and returns its column families; none when it is new. Errors as of Storage::Open.
absl::StatusOr<std::vector<std::string>> PrepareDataFolder(const std::string& path);

// Writes a file of the size of a few records into the folder, fsyncs it and deletes it. UNAVAILABLE: the disk refuses.
absl::Status ProbeFolder(const std::string& path);

// Corruption and missing files are DATA_LOSS, refused access PERMISSION_DENIED, all else UNAVAILABLE.
absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view doing);

}  // namespace mnemosyne
