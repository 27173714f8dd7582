#include "server/admin/admin_commands.h"

#include <cstring>
#include <memory>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/storage/folder_check.h"
#include "core/storage/storage.h"
#include "server/access/access_table.h"

namespace mnemosyne {
namespace {

constexpr absl::string_view kUsageText =
    R"(mnemosyne-admin looks after a data folder that no server has open, and makes tokens.

  mnemosyne-admin check DATA             read and verify everything; name what is damaged
  mnemosyne-admin list DATA              the sessions
  mnemosyne-admin dump DATA SESSION      a session's log records and snapshots (--content: what the records hold)
  mnemosyne-admin repair DATA            drop damaged snapshots, orphans and unfinished imports
      --truncate                         cut a session before its first damaged log record
      --drop_sessions                    delete a session whose own record is damaged
  mnemosyne-admin backup DATA BACKUPS    copy the folder into a folder of backups
  mnemosyne-admin backups BACKUPS        list the backups
  mnemosyne-admin restore BACKUPS DATA   make a data folder of the newest backup (--backup=ID: of that one)
  mnemosyne-admin token NAME TENANT ROLE make a token (read, write or admin), and what the access file is to have for it

Exit code: 0 done and nothing damaged, 1 damage is there or the command failed, 2 wrong usage.
)";

struct Arguments {
  std::vector<std::string> names;  // the command and what it is for
  std::set<std::string> flags;
  uint32_t backup = 0;
};

struct Shape {
  absl::string_view command;
  size_t names;  // with the command
  std::set<std::string> flags;
};

const std::vector<Shape>& Shapes() {
  static const auto* const shapes = new std::vector<Shape>{{"check", 2, {}},
                                                           {"list", 2, {}},
                                                           {"dump", 3, {"--content"}},
                                                           {"repair", 2, {"--truncate", "--drop_sessions"}},
                                                           {"backup", 3, {}},
                                                           {"backups", 2, {}},
                                                           {"restore", 3, {"--backup"}},
                                                           {"token", 4, {}}};
  return *shapes;
}

absl::StatusOr<Arguments> Parse(const std::vector<std::string>& arguments) {
  Arguments out;
  for (const std::string& argument : arguments) {
    if (!absl::StartsWith(argument, "--")) {
      out.names.push_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string flag = argument.substr(0, equals);
    out.flags.insert(flag);
    if (flag == "--backup"
            ? !absl::SimpleAtoi(equals == std::string::npos ? "" : argument.substr(equals + 1), &out.backup)
            : equals != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("'", argument, "' is no flag with such a value"));
    }
  }
  if (out.names.empty()) return absl::InvalidArgumentError("no command; mnemosyne-admin --help lists them");
  for (const Shape& shape : Shapes()) {
    if (shape.command != out.names[0]) continue;
    for (const std::string& flag : out.flags) {
      if (!shape.flags.contains(flag)) {
        return absl::InvalidArgumentError(absl::StrCat(shape.command, " takes no flag ", flag));
      }
    }
    if (out.names.size() == shape.names) return out;
    return absl::InvalidArgumentError(
        absl::StrCat(shape.command, " takes ", shape.names - 1, shape.names == 2 ? " argument" : " arguments"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there is no command '", out.names[0], "'; mnemosyne-admin --help lists them"));
}

std::string TimeText(absl::Time time) { return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone()); }

absl::StatusOr<int> Check(const Arguments& arguments, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<OfflineFolder> folder, OfflineFolder::Open(arguments.names[1]));
  ASSIGN_OR_RETURN(const FolderReport report, folder->Check());
  for (const std::string& what : report.damage) out << "damaged: " << what << "\n";
  for (const std::string& what : report.harmless) out << "harmless: " << what << "\n";
  out << report.sessions.size() << " sessions, " << report.log_records << " log records, " << report.snapshots
      << " snapshots: " << report.damage.size() << " damaged, " << report.harmless.size() << " harmless\n";
  return report.damage.empty() ? kAdminDone : kAdminBad;
}

absl::StatusOr<int> List(const Arguments& arguments, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<OfflineFolder> folder, OfflineFolder::Open(arguments.names[1]));
  ASSIGN_OR_RETURN(const FolderReport report, folder->Check());
  out << absl::StrFormat("%-24s %-16s %5s %10s %12s %9s %14s\n", "session", "model", "epoch", "records", "tokens",
                         "snapshots", "bytes");
  for (const SessionReport& session : report.sessions) {
    out << absl::StrFormat("%-24s %-16s %5d %10d %12d %9d %14d%s\n", session.metadata.id, session.metadata.model,
                           session.metadata.epoch, session.records, session.tokens, session.snapshots,
                           session.content_bytes + session.snapshot_bytes, session.first_bad_record ? "  damaged" : "");
  }
  if (!report.damage.empty()) out << report.damage.size() << " damaged: see mnemosyne-admin check\n";
  return report.damage.empty() ? kAdminDone : kAdminBad;
}

std::string ContentText(const LogRecord& record) {
  if (record.kind == LogContent::kText) return absl::StrCat("\"", absl::CHexEscape(record.payload), "\"");
  std::string text;
  for (size_t at = 0; at + sizeof(int32_t) <= record.payload.size(); at += sizeof(int32_t)) {
    int32_t id;
    std::memcpy(&id, record.payload.data() + at, sizeof(id));
    absl::StrAppend(&text, at == 0 ? "" : ",", id);
  }
  return text;
}

absl::StatusOr<int> Dump(const Arguments& arguments, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<OfflineFolder> folder, OfflineFolder::Open(arguments.names[1]));
  ASSIGN_OR_RETURN(const SessionMetadata session, folder->FindSession(arguments.names[2]));
  out << "session " << session.id << ": number " << session.number << ", epoch " << session.epoch << ", model "
      << session.model << " (" << session.fingerprint << "), log from record " << session.log_begin << "\n";
  int code = kAdminDone;
  folder->VisitLog(session, [&](uint64_t index, const absl::StatusOr<LogRecord>& record) {
    if (!record.ok()) {
      out << "record " << index << " damaged: " << record.status().message() << "\n";
      code = kAdminBad;
      return;
    }
    out << absl::StrFormat("record %d sequence %d offset %d time %s kind %s bytes %d", index, record->sequence,
                           record->first_offset, TimeText(record->time),
                           record->kind == LogContent::kText ? "text" : "token_ids", record->payload.size());
    if (arguments.flags.contains("--content")) out << " content " << ContentText(*record);
    out << "\n";
  });
  folder->VisitSnapshots(session, [&](const SnapshotId& id, const absl::StatusOr<SnapshotReport>& snapshot) {
    if (!snapshot.ok()) {
      out << "snapshot " << id.offset << " damaged: " << snapshot.status().message() << "\n";
      code = kAdminBad;
      return;
    }
    const SnapshotHeader& header = snapshot->header;
    out << absl::StrFormat(
        "snapshot %d epoch %d replay from record %d, past %d bytes and %d tokens; next sequence %d, %d bytes accepted; "
        "state %d bytes, digest %016x\n",
        id.offset, id.branch.epoch, header.replay_index, header.replay_skip_bytes, header.replay_skip_tokens,
        header.next_sequence, header.accepted_bytes, header.state_bytes, snapshot->digest);
  });
  return code;
}

absl::StatusOr<int> Repair(const Arguments& arguments, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<OfflineFolder> folder, OfflineFolder::Open(arguments.names[1]));
  ASSIGN_OR_RETURN(const RepairReport report,
                   folder->Repair({.truncate = arguments.flags.contains("--truncate"),
                                   .drop_sessions = arguments.flags.contains("--drop_sessions")}));
  for (const std::string& what : report.done) out << "done: " << what << "\n";
  for (const std::string& what : report.left) out << "left: " << what << "\n";
  out << report.done.size() << " repaired, " << report.left.size() << " left\n";
  return report.left.empty() ? kAdminDone : kAdminBad;
}

std::string BackupText(const StorageBackup& backup) {
  return absl::StrFormat("backup %d: %d bytes, %s\n", backup.id, backup.bytes, TimeText(backup.time));
}

absl::StatusOr<int> Backup(const Arguments& arguments, std::ostream& out) {
  RETURN_IF_ERROR(OfflineFolder::Open(arguments.names[1]).status());  // makes no folder where there is none
  ASSIGN_OR_RETURN(const std::unique_ptr<Storage> storage, Storage::Open({.path = arguments.names[1]}));
  ASSIGN_OR_RETURN(const StorageBackup backup, storage->CreateBackup(arguments.names[2]));
  out << BackupText(backup);
  return kAdminDone;
}

absl::StatusOr<int> Backups(const Arguments& arguments, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::vector<StorageBackup> backups, Storage::ListBackups(arguments.names[1]));
  for (const StorageBackup& backup : backups) out << BackupText(backup);
  out << backups.size() << " backups\n";
  return kAdminDone;
}

absl::StatusOr<int> Restore(const Arguments& arguments, std::ostream& out) {
  RETURN_IF_ERROR(Storage::RestoreBackup(arguments.names[1], arguments.backup, arguments.names[2]));
  out << "restored " << (arguments.backup == 0 ? "the newest backup" : absl::StrCat("backup ", arguments.backup))
      << " to '" << arguments.names[2] << "'\n";
  return kAdminDone;
}

absl::StatusOr<int> Token(const Arguments& arguments, std::ostream& out) {
  const std::string &name = arguments.names[1], &tenant = arguments.names[2], &role = arguments.names[3];
  ASSIGN_OR_RETURN(const std::string token, MakeToken());
  const std::string entry = absl::StrCat(R"({"name": ")", name, R"(", "tenant": ")", tenant, R"(", "role": ")", role,
                                         R"(", "sha256": ")", HexOf(HashToken(token)), R"("})");
  const absl::StatusOr<AccessTable> table = AccessTable::Parse(
      absl::StrCat(R"({"format": "mnemosyne-access-1", "tenants": {")", tenant, R"(": {}}, "tokens": [)", entry, "]}"));
  RETURN_IF_ERROR(table.status());
  out << "token (to the caller, and nowhere else): " << token << "\n"
      << "in the access file's tokens: " << entry << "\n";
  return kAdminDone;
}

absl::StatusOr<int> Run(const Arguments& arguments, std::ostream& out) {
  const std::string& command = arguments.names[0];
  if (command == "check") return Check(arguments, out);
  if (command == "list") return List(arguments, out);
  if (command == "dump") return Dump(arguments, out);
  if (command == "repair") return Repair(arguments, out);
  if (command == "backup") return Backup(arguments, out);
  if (command == "backups") return Backups(arguments, out);
  if (command == "token") return Token(arguments, out);
  return Restore(arguments, out);
}

}  // namespace

int RunAdmin(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err) {
  for (const std::string& argument : arguments) {
    if (argument != "--help" && argument != "help") continue;
    out << kUsageText;
    return kAdminDone;
  }
  const absl::StatusOr<Arguments> parsed = Parse(arguments);
  if (!parsed.ok()) {
    err << "mnemosyne-admin: " << parsed.status().message() << "\n";
    return kAdminUsage;
  }
  const absl::StatusOr<int> code = Run(*parsed, out);
  if (code.ok()) return *code;
  err << "mnemosyne-admin: " << code.status().message() << "\n";
  return kAdminBad;
}

}  // namespace mnemosyne
