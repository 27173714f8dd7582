// A data folder as its operator sees it while no server has it open: what it holds, what of it is damaged, and what can
// be done about that.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<OfflineFolder> folder, OfflineFolder::Open("data"));
//   ASSIGN_OR_RETURN(FolderReport report, folder->Check());      // reads every record
//   for (const std::string& sentence : report.damage) ...
//
// Holds the folder's lock: a server that starts meanwhile is refused. Bound to one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/storage/records.h"

namespace mnemosyne {

class Database;

struct SessionReport {
  SessionMetadata metadata;
  uint64_t log_end = 0;       // index after the last record
  uint64_t records = 0;       // there and good; those of a fork's source among them
  int64_t content_bytes = 0;  // of these
  int64_t tokens = 0;         // in the newest good snapshot, or where the log's last record begins
  int64_t snapshots = 0;      // good ones that can be gone on from
  int64_t snapshot_bytes = 0;
  std::optional<uint64_t> first_bad_record;  // index of the first that is damaged or missing
};

struct FolderReport {
  std::vector<SessionReport> sessions;  // by id
  std::vector<std::string> damage;      // a sentence each
  std::vector<std::string> harmless;    // what nobody reads: orphans, unfinished imports
  int64_t log_records = 0, snapshots = 0;
};

struct RepairOptions {
  bool truncate = false;       // cut a session before its first bad record
  bool drop_sessions = false;  // delete a session whose own record is damaged
};

struct RepairReport {
  std::vector<std::string> done;  // a sentence each
  std::vector<std::string> left;  // damage that is still there
};

struct SnapshotReport {
  SnapshotHeader header;
  uint64_t digest = 0;  // XXH3-64 of the state's bytes: two states are the same when it is
};

class OfflineFolder {
 public:
  // NOT_FOUND: there is no data folder. Other errors as of Storage::Open.
  static absl::StatusOr<std::unique_ptr<OfflineFolder>> Open(const std::string& path);
  ~OfflineFolder();

  // Reads everything there is and verifies its checksums. FAILED_PRECONDITION: a newer program wrote some of it.
  // UNAVAILABLE: the disk refuses to be read.
  absl::StatusOr<FolderReport> Check();

  // Does what loses nothing: drops damaged snapshots (an older one, or the log, stands in for each), orphans and
  // unfinished imports; and what the options say. DATA_LOSS: files of the database are damaged, so that nobody knows
  // what they held; nothing was done.
  absl::StatusOr<RepairReport> Repair(const RepairOptions& options);

  absl::StatusOr<SessionMetadata> FindSession(const std::string& id);  // NOT_FOUND; DATA_LOSS: some record is damaged
  // Visits the session's log in order; a record that is damaged or missing is visited as its error.
  void VisitLog(const SessionMetadata& session,
                const std::function<void(uint64_t index, const absl::StatusOr<LogRecord>&)>& visit);
  void VisitSnapshots(const SessionMetadata& session,
                      const std::function<void(const SnapshotId&, const absl::StatusOr<SnapshotReport>&)>& visit);

 private:
  struct Findings;
  explicit OfflineFolder(std::unique_ptr<Database> database);
  absl::StatusOr<Findings> Find();
  absl::Status FindFolderRecords(Findings* findings);
  absl::Status FindSessions(Findings* findings);
  absl::Status FindLogs(Findings* findings);
  absl::Status FindSnapshots(Findings* findings);
  static void JudgeLog(SessionReport& session, Findings* findings);
  static void JudgeSnapshots(SessionReport& session, Findings* findings);
  void FindOrphans(Findings* findings);
  absl::Status Drop(const Findings& findings, const RepairOptions& options, std::vector<std::string>* done);
  absl::Status Truncate(Findings& findings, std::vector<std::string>* done);
  absl::StatusOr<SnapshotReport> ReadSnapshot(const SnapshotId& id);

  const std::unique_ptr<Database> database_;
};

}  // namespace mnemosyne
