// mnemo's commands that make, change, show or delete sessions.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/commands.h"
#include "client/json_output.h"
#include "client/progress_bar.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

std::string LabelsText(const Labels& labels) { return absl::StrJoin(labels, ",", absl::PairFormatter("=")); }

std::string SettingsText(const SessionSettings& settings) {
  std::string text(RetentionName(settings.retention.value_or(Retention::kUnspecified)));
  const auto add_lifetime = [&](absl::string_view name, absl::optional<absl::Duration> lifetime) {
    if (lifetime && *lifetime != absl::InfiniteDuration())
      absl::StrAppend(&text, ", ", name, " ", absl::FormatDuration(*lifetime));
  };
  add_lifetime("ttl", settings.ttl);
  add_lifetime("idle ttl", settings.idle_ttl);
  if (settings.max_backlog_tokens.value_or(0) > 0) {
    absl::StrAppend(&text, ", backlog up to ", FormatCount(*settings.max_backlog_tokens), " tokens");
  }
  if (settings.max_log_bytes.value_or(0) > 0) {
    absl::StrAppend(&text, ", log up to ", FormatBytes(*settings.max_log_bytes));
  }
  return text;
}

absl::Status RunSessions(const CommandLine& line, Client* client, const Terminal& terminal) {
  ASSIGN_OR_RETURN(std::vector<SessionInfo> sessions, client->ListSessions(line.labels));
  for (const SessionInfo& session : sessions) {
    if (line.json) {
      terminal.out << SessionJson(session) << "\n";
      continue;
    }
    terminal.out << absl::StrFormat("%-24s %-16s %15s tokens %15s memorized", session.session_id, session.model,
                                    FormatCount(session.watermarks.accepted),
                                    FormatCount(session.watermarks.memorized));
    if (!session.labels.empty()) terminal.out << "  " << LabelsText(session.labels);
    if (session.failure) terminal.out << "  failed: " << *session.failure;
    terminal.out << "\n";
  }
  return absl::OkStatus();
}

absl::Status RunErase(const CommandLine& line, Client* client, const Terminal& terminal) {
  ASSIGN_OR_RETURN(const ErasedSpan erased, client->EraseSpan(line.arguments[0], line.begin, line.end));
  if (line.json) {
    terminal.out << ErasedJson(erased) << "\n";
    return absl::OkStatus();
  }
  PrintSession(line, erased.session, terminal);
  if (!erased.still_in.empty()) {
    terminal.out << "still in   " << absl::StrJoin(erased.still_in, ", ") << " (they share the log by a fork)\n";
  }
  return absl::OkStatus();
}

// What the command makes of its session; `delete` leaves none.
absl::StatusOr<SessionInfo> Run(const CommandLine& line, Client* client) {
  const std::string& id = line.arguments[0];
  if (line.command == "show") return client->GetSession(id);
  if (line.command == "create") return client->CreateSession(id, line.model, line.labels, line.settings);
  if (line.command == "reset") return client->Reset(id, line.offset.value_or(0));
  if (line.command == "fork") {
    return client->ForkSession(id, line.arguments[1],
                               {.offset = line.offset, .labels = line.labels, .settings = line.settings});
  }
  if (line.command == "update") {
    SessionUpdate update = {.settings = line.settings};
    if (line.has_labels) update.labels = line.labels;
    return client->UpdateSession(id, update);
  }
  return absl::InternalError(absl::StrCat("command '", line.command, "' has no code"));
}

}  // namespace

void PrintSession(const CommandLine& line, const SessionInfo& session, const Terminal& terminal) {
  if (line.json) {
    terminal.out << SessionJson(session) << "\n";
    return;
  }
  const Watermarks& watermarks = session.watermarks;
  terminal.out << "session    " << session.session_id << "\nmodel      " << session.model << " (" << session.fingerprint
               << ")\naccepted   " << FormatCount(watermarks.accepted) << " tokens ("
               << FormatBytes(watermarks.accepted_bytes) << ")\ndurable    " << FormatCount(watermarks.durable)
               << " tokens\nmemorized  " << FormatCount(watermarks.memorized) << " tokens\npending    "
               << FormatCount(session.pending_tokens) << " tokens\nstate      " << FormatBytes(session.state_bytes)
               << (session.resident ? ", in memory" : ", on disk") << "\nlog        " << FormatBytes(session.log_bytes)
               << "\nepoch      " << session.epoch << "\nsequence   " << session.next_sequence
               << " comes next\ncreated    " << absl::FormatTime(session.create_time) << "\nupdated    "
               << absl::FormatTime(session.update_time) << "\n";
  terminal.out << "settings   " << SettingsText(session.settings) << "\n";
  if (session.earliest_offset > 0) {
    terminal.out << "earliest   " << FormatCount(session.earliest_offset) << " tokens: the log before is trimmed\n";
  }
  if (session.expire_time != absl::InfiniteFuture()) {
    terminal.out << "expires    " << absl::FormatTime(session.expire_time) << "\n";
  }
  if (!session.labels.empty()) terminal.out << "labels     " << LabelsText(session.labels) << "\n";
  if (session.failure) terminal.out << "failure    " << *session.failure << " (mnemo reset goes back before it)\n";
}

absl::Status RunSessionCommand(const CommandLine& line, Client* client, const Terminal& terminal) {
  if (line.command == "sessions") return RunSessions(line, client, terminal);
  if (line.command == "erase") return RunErase(line, client, terminal);
  if (line.command == "delete") {
    const std::string& id = line.arguments[0];
    RETURN_IF_ERROR(client->DeleteSession(id));
    terminal.out << (line.json ? DeletedJson(id) : absl::StrCat("deleted '", id, "'")) << "\n";
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const SessionInfo session, Run(line, client));
  PrintSession(line, session, terminal);
  return absl::OkStatus();
}

}  // namespace mnemosyne::client
