#include "server/flags.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "server/listening_socket.h"

namespace mnemosyne {
namespace {

// Variables that other programs of ours read: the client's address and token, and what the tests are given.
bool IsOthersVariable(absl::string_view name) {
  return name == "MNEMOSYNE_SERVER" || name == "MNEMOSYNE_TOKEN" || name == "MNEMOSYNE_SOURCE_DIR" ||
         name == "MNEMOSYNE_GOLDEN_DIR" || absl::StartsWith(name, "MNEMOSYNE_TEST_") ||
         absl::StartsWith(name, "MNEMOSYNE_TORTURE");
}

absl::Status Bad(absl::string_view expected) { return absl::InvalidArgumentError(expected); }

struct Flag {
  std::string name;
  std::string value;  // what it takes, and the default
  std::string help;
  bool is_boolean = false;
  std::function<absl::Status(absl::string_view)> set;  // an error says what the value is to be
};

template <typename Integer>
Flag Bytes(const char* name, const char* fallback, const char* help, int64_t minimum, Integer* out) {
  return {name, fallback, help, false, [=](absl::string_view text) -> absl::Status {
            const absl::StatusOr<int64_t> bytes = ParseBytes(text);
            if (!bytes.ok() || *bytes < minimum || *bytes > std::numeric_limits<Integer>::max()) {
              return Bad(absl::StrCat("bytes, at least ", minimum, ", with KiB, MiB or GiB if you like"));
            }
            *out = static_cast<Integer>(*bytes);
            return absl::OkStatus();
          }};
}

template <typename Integer>
Flag Count(const char* name, const char* fallback, const char* help, int64_t minimum, int64_t maximum, Integer* out) {
  return {name, fallback, help, false, [=](absl::string_view text) -> absl::Status {
            int64_t value = 0;
            if (!absl::SimpleAtoi(text, &value) || value < minimum || value > maximum) {
              return Bad(absl::StrCat("a whole number, ", minimum, " to ", maximum));
            }
            *out = static_cast<Integer>(value);
            return absl::OkStatus();
          }};
}

Flag Boolean(const char* name, const char* fallback, const char* help, bool* out) {
  return {name, fallback, help, true, [=](absl::string_view text) -> absl::Status {
            return absl::SimpleAtob(text, out) ? absl::OkStatus() : Bad("true or false");
          }};
}

// host:port, [ipv6]:port; `may_be_empty` turns the thing off.
Flag Address(const char* name, const char* fallback, const char* help, bool may_be_empty, std::string* out) {
  return {name, fallback, help, false, [=](absl::string_view text) -> absl::Status {
            const size_t colon = text.rfind(':');
            int port = -1;
            const bool good = colon != absl::string_view::npos && colon > 0 &&
                              absl::SimpleAtoi(text.substr(colon + 1), &port) && port >= 0 && port <= 65535;
            if (!good && !(may_be_empty && text.empty())) {
              return Bad(may_be_empty ? "host:port with a port of 0 to 65535, or empty"
                                      : "host:port with a port of 0 to 65535");
            }
            *out = std::string(text);
            return absl::OkStatus();
          }};
}

Flag Text(const char* name, const char* fallback, const char* help, std::string* out) {
  return {name, fallback, help, false, [=](absl::string_view text) -> absl::Status {
            if (text.empty()) return Bad("not empty");
            *out = std::string(text);
            return absl::OkStatus();
          }};
}

// A path; not given: none.
Flag Path(const char* name, const char* help, std::string* out) { return Text(name, "none", help, out); }

// "90s", "24h"; "inf": for ever.
Flag Lifetime(const char* name, const char* help, absl::Duration* out) {
  return {name, "inf", help, false, [=](absl::string_view text) -> absl::Status {
            absl::Duration value;
            if (!absl::ParseDuration(text, &value) || value <= absl::ZeroDuration()) {
              return Bad("a duration above 0s, such as 90s or 24h, or inf");
            }
            *out = value;
            return absl::OkStatus();
          }};
}

// Every flag, writing into `out`, which must outlive them.
std::vector<Flag> FlagsInto(ServerFlags* out) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  Engine::Options& engine = out->engine;
  std::vector<Flag> flags = {
      Address("listen", "127.0.0.1:50051", "Address of the gRPC service; port 0 takes a free one.", false,
              &out->server.listen),
      Address("metrics_address", "127.0.0.1:9464", "Address of the metrics, at /metrics over HTTP; empty: none.", true,
              &out->server.metrics_address),
      Text("data", "data", "Folder of the sessions, their logs and snapshots; made when missing.", &engine.data_path),
      {"models", "recall=<the model that comes along>",
       "Models as name=folder, with commas between; the first is the default.", false,
       [&engine](absl::string_view text) -> absl::Status {
         ASSIGN_OR_RETURN(engine.models, ParseModels(text));
         return absl::OkStatus();
       }},
      Text("device", "cpu", "Device that the models run on: cpu, cuda or cuda:N.", &engine.device),
      {"weights", "float32",
       "What the models' weights are kept as: float32; bfloat16, which a CPU reads in half the bytes; or "
       "bfloat16_products, which also rounds what they are multiplied by, on a CPU with AMX. To sessions another is "
       "another model.",
       false,
       [&engine](absl::string_view text) -> absl::Status {
         if (text != "float32" && text != "bfloat16" && text != "bfloat16_products") {
           return Bad("float32, bfloat16 or bfloat16_products");
         }
         engine.weights = std::string(text);
         return absl::OkStatus();
       }},
      Count("workers", "0", "Threads that run the models. 0: as many as cores on a CPU, 1 on another device.", 0, 1024,
            &engine.workers),
      Count("batch_sessions", "0",
            "Sessions whose blocks a worker steps at once. 0: 1 on a CPU, which gains nothing by more, 32 on another "
            "device. On a CPU a model with mac blocks always steps 1.",
            0, 1024, &engine.batch_sessions),
      Bytes("max_resident_bytes", "1GiB", "Memory for the states of sessions; the least used are evicted.", 1,
            &engine.max_resident_bytes),
      Count("max_backlog_tokens", "65536", "Tokens a session may have accepted and not memorized.", 1, kMost,
            &engine.max_backlog_tokens),
      Bytes("max_append_bytes", "1MiB", "Largest append, in bytes of content.", 1, &engine.max_append_bytes),
      Count("max_prompt_tokens", "16384", "Longest prompt.", 1, 16777216, &engine.max_prompt_tokens),
      Count("max_queries", "256", "Queries that wait and run.", 1, 1000000, &engine.max_queries),
      Count("max_transfers", "64", "Exports and imports under way; each holds a state in memory.", 1, 1000000,
            &engine.max_transfers),
      Count("max_sessions", "1000000", "Sessions on this server.", 1, kMost, &engine.max_sessions),
      Count("snapshot_every_tokens", "262144", "Tokens a session memorizes between two snapshots.", 1, kMost,
            &engine.snapshot_every_tokens),
      Bytes("max_log_bytes", "1024GiB", "Content that the log of one session may hold.", 1, &engine.max_log_bytes),
      {"retention", "keep",
       "What of a session's log is kept where the session does not say: keep (all) or trim (what its snapshots need).",
       false,
       [&engine](absl::string_view text) -> absl::Status {
         if (text != "keep" && text != "trim") return Bad("keep or trim");
         engine.default_settings.retention = text == "trim" ? Retention::kTrim : Retention::kKeep;
         return absl::OkStatus();
       }},
      Lifetime("ttl", "Time after its creation when a session is deleted that does not say otherwise.",
               &engine.default_settings.ttl),
      Lifetime("idle_ttl", "Time after its last use when a session is deleted that does not say otherwise.",
               &engine.default_settings.idle_ttl),
      Path("tls_certificate", "PEM file of the server's certificate chain; with it the gRPC port speaks TLS only.",
           &out->server.tls.certificate),
      Path("tls_key", "PEM file of its private key.", &out->server.tls.key),
      Path("tls_client_ca", "PEM file of who signs clients' certificates; with it every client must show one.",
           &out->server.tls.client_ca),
      Path("access_file", "File of the tokens that callers need, their tenants and quotas (docs/security.md).",
           &out->access_file),
      Path("audit_log", "File that gets a line of JSON for every call: who, what, which session, how it ended.",
           &out->server.audit_log_path),
      Boolean("allow_insecure", "false",
              "Listen without TLS also where other machines reach it. What keeps them out is then yours to see to.",
              &out->allow_insecure),
      Count("max_streams_per_connection", "1024", "Calls that one connection may have under way.", 1, 1000000,
            &out->server.max_streams_per_connection),
      Bytes("max_metadata_bytes", "16KiB", "Headers that a call may have.", 1024, &out->server.max_metadata_bytes),
      Lifetime("max_connection_age", "Age at which a connection is closed when its calls are done.",
               &out->server.max_connection_age),
      {"debug_page", "auto",
       "/debug beside the metrics, with sessions' ids: on, off, or auto: where only this machine reaches it and there "
       "is no access file.",
       false,
       [out](absl::string_view text) -> absl::Status {
         if (text != "on" && text != "off" && text != "auto") return Bad("on, off or auto");
         out->debug_page = text == "auto" ? absl::nullopt : absl::optional<bool>(text == "on");
         return absl::OkStatus();
       }},
      {"log_format", "text", "How log records are written: text or json.", false,
       [out](absl::string_view text) -> absl::Status {
         if (text != "text" && text != "json") return Bad("text or json");
         out->json_log = text == "json";
         return absl::OkStatus();
       }},
      Lifetime("slow_call", "A call that takes longer is told in the log, with where its time went.",
               &out->server.service.slow_call),
      Text("backup_path", "none", "Folder that AdminService.CreateBackup writes backups into.", &engine.backup_path),
      Boolean("sync_writes", "true",
              "Fsync the log before it is acknowledged as durable. false: a power failure may lose the last appends.",
              &engine.sync_writes),
      {"drain_timeout", "30s", "Time that a drain may take, such as 45s or 2m.", false,
       [out](absl::string_view text) -> absl::Status {
         absl::Duration value;
         if (!absl::ParseDuration(text, &value) || value < absl::ZeroDuration() || value > absl::Hours(24)) {
           return Bad("a duration of 0s to 24h, such as 30s");
         }
         out->drain_timeout = value;
         return absl::OkStatus();
       }},
  };
  return flags;
}

const Flag* Find(const std::vector<Flag>& flags, absl::string_view name) {
  for (const Flag& flag : flags) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

// `source` is how the user wrote it: --listen, MNEMOSYNE_LISTEN.
absl::Status Set(const Flag& flag, absl::string_view source, absl::string_view value) {
  const absl::Status status = flag.set(value);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(source, " is \"", value, "\"; it is to be ", status.message()));
}

absl::Status FromEnvironment(const std::vector<Flag>& flags, const std::vector<std::string>& environment) {
  constexpr absl::string_view kPrefix = "MNEMOSYNE_";
  for (const std::string& entry : environment) {
    if (!absl::StartsWith(entry, kPrefix)) continue;
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(entry, absl::MaxSplits('=', 1));
    if (IsOthersVariable(parts.first)) continue;
    const absl::string_view stem = parts.first.substr(kPrefix.size());
    const Flag* flag = absl::AsciiStrToUpper(stem) == stem ? Find(flags, absl::AsciiStrToLower(stem)) : nullptr;
    if (flag == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(parts.first, " in the environment names no flag; see --help"));
    }
    RETURN_IF_ERROR(Set(*flag, parts.first, parts.second));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadFlagfile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return absl::InvalidArgumentError(absl::StrCat("--flagfile: ", text.status().message()));
  std::vector<std::string> out;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty() && line[0] != '#') out.emplace_back(line);
  }
  return out;
}

absl::Status FromArguments(const std::vector<Flag>& flags, const std::vector<std::string>& arguments, bool in_file,
                           ServerFlags* out) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (!absl::ConsumePrefix(&argument, "-")) {
      return absl::InvalidArgumentError(absl::StrCat("\"", arguments[i], "\" is no flag; mnemosyned takes only flags"));
    }
    absl::ConsumePrefix(&argument, "-");
    const size_t equals = argument.find('=');
    const bool has_value = equals != absl::string_view::npos;
    const absl::string_view name = argument.substr(0, equals);
    absl::string_view value = has_value ? argument.substr(equals + 1) : absl::string_view();
    if (name == "help" || name == "version") {
      (name == "help" ? out->help : out->version) = true;
      continue;
    }
    const Flag* flag = Find(flags, name);
    const bool is_flagfile = name == "flagfile" && !in_file;
    if (flag == nullptr && absl::StartsWith(name, "no") && !has_value) {
      flag = Find(flags, name.substr(2));
      if (flag != nullptr && !flag->is_boolean) flag = nullptr;
      value = "false";
    } else if (flag != nullptr && flag->is_boolean && !has_value) {
      value = "true";
    } else if ((flag != nullptr || is_flagfile) && !has_value) {
      if (++i == arguments.size()) return absl::InvalidArgumentError(absl::StrCat("--", name, " has no value"));
      value = arguments[i];
    }
    if (is_flagfile) continue;  // read before
    if (flag == nullptr) return absl::InvalidArgumentError(absl::StrCat("--", name, " is no flag; see --help"));
    RETURN_IF_ERROR(Set(*flag, absl::StrCat("--", name), value));
  }
  return absl::OkStatus();
}

// The paths that --flagfile names, in their order.
std::vector<std::string> Flagfiles(const std::vector<std::string>& arguments) {
  std::vector<std::string> out;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (!absl::ConsumePrefix(&argument, "--")) absl::ConsumePrefix(&argument, "-");
    if (argument == "flagfile" && i + 1 < arguments.size()) out.push_back(arguments[++i]);
    if (absl::ConsumePrefix(&argument, "flagfile=")) out.emplace_back(argument);
  }
  return out;
}

// What the flags say about who can reach the server, taken together.
absl::Status CheckTransport(const ServerFlags& flags) {
  const TlsFiles& tls = flags.server.tls;
  if (tls.certificate.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError("--tls_certificate and --tls_key go together, and one of them is not set");
  }
  if (!tls.client_ca.empty() && tls.certificate.empty()) {
    return absl::InvalidArgumentError("--tls_client_ca is set without --tls_certificate and --tls_key");
  }
  if (!tls.certificate.empty() || flags.allow_insecure || IsLoopback(flags.server.listen)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--listen is \"", flags.server.listen,
                   "\", which other machines may reach, without TLS: set --tls_certificate and --tls_key, or "
                   "--allow_insecure if something else keeps strangers out"));
}

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
}

}  // namespace

absl::StatusOr<ServerFlags> ParseServerFlags(const std::vector<std::string>& arguments,
                                             const std::vector<std::string>& environment) {
  ServerFlags out;
  const std::vector<Flag> flags = FlagsInto(&out);
  RETURN_IF_ERROR(FromEnvironment(flags, environment));
  for (const std::string& path : Flagfiles(arguments)) {
    ASSIGN_OR_RETURN(const std::vector<std::string> lines, ReadFlagfile(path));
    const absl::Status status = FromArguments(flags, lines, /*in_file=*/true, &out);
    if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));
  }
  RETURN_IF_ERROR(FromArguments(flags, arguments, /*in_file=*/false, &out));
  if (!out.help && !out.version) RETURN_IF_ERROR(CheckTransport(out));
  out.server.debug_page = out.debug_page.value_or(IsLoopback(out.server.metrics_address) && out.access_file.empty());
  return out;
}

std::string ServerFlagsHelp() {
  std::string out =
      "usage: mnemosyned [--flag=value ...]\n\n"
      "Serves mnemosyne.v1.MemoryService. Every flag can be set in the environment too: MNEMOSYNE_LISTEN for "
      "--listen.\n\n";
  ServerFlags unused;
  for (const Flag& flag : FlagsInto(&unused)) {
    absl::StrAppend(&out, "  --", flag.name, "=", flag.value, "\n      ", flag.help, "\n");
  }
  absl::StrAppend(&out, "  --flagfile=PATH\n      Reads flags from a file, one a line; # begins a comment.\n",
                  "  --version, --help\n");
  return out;
}

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const absl::Status bad =
      absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is no number of bytes, such as 65536, 64KiB or 1.5GiB"));
  double unit = 1;
  absl::string_view number = text;
  if (absl::ConsumeSuffix(&number, "KiB"))
    unit = 1024.0;
  else if (absl::ConsumeSuffix(&number, "MiB"))
    unit = 1024.0 * 1024;
  else if (absl::ConsumeSuffix(&number, "GiB"))
    unit = 1024.0 * 1024 * 1024;
  if (number.empty() || !absl::ascii_isdigit(static_cast<unsigned char>(number[0]))) return bad;
  int64_t whole = 0;
  if (unit == 1) {
    if (!absl::SimpleAtoi(number, &whole)) return bad;
    return whole;
  }
  double value = 0;
  if (!absl::SimpleAtod(number, &value) || !(value * unit < 9.2e18)) return bad;
  return static_cast<int64_t>(value * unit);
}

absl::StatusOr<std::vector<Engine::ModelSource>> ParseModels(absl::string_view text) {
  std::vector<Engine::ModelSource> out;
  std::set<std::string> names;
  for (const absl::string_view entry : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(entry, absl::MaxSplits('=', 1));
    if (parts.size() != 2 || !IsName(parts[0]) || parts[1].empty()) {
      return Bad("name=folder, with commas between, each name 1 to 64 characters of [A-Za-z0-9._-]");
    }
    if (!names.insert(std::string(parts[0])).second) return Bad(absl::StrCat("without '", parts[0], "' twice"));
    out.push_back({.name = std::string(parts[0]), .folder = std::string(parts[1])});
  }
  return out;
}

absl::StatusOr<std::string> FindDefaultModel(const std::string& program_folder) {
  const std::string places[] = {program_folder + "/../../models/recall", program_folder + "/../../../models/recall",
                                program_folder + "/../share/mnemosyne/models/recall", "models/recall"};
  std::vector<std::string> looked;
  for (const std::string& place : places) {
    const std::string folder = std::filesystem::path(place).lexically_normal().string();
    std::error_code missing;
    if (std::filesystem::exists(folder + "/config.json", missing)) return folder;
    looked.push_back(folder);
  }
  return absl::NotFoundError(absl::StrCat(
      "no model: --models is not set, and the model that comes along is in none of ", absl::StrJoin(looked, ", ")));
}

}  // namespace mnemosyne
