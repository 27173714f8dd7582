#include "client/command_line.h"

#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"

ABSL_FLAG(std::string, server, "", "HOST:PORT of the server");
ABSL_FLAG(bool, tls, false, "Connect by TLS");
ABSL_FLAG(std::string, tls_ca, "", "PEM file of who signs the server's certificate");
ABSL_FLAG(std::string, tls_certificate, "", "PEM file of the client's own certificate");
ABSL_FLAG(std::string, tls_key, "", "PEM file of its private key");
ABSL_FLAG(std::string, token_file, "", "File of the token");
ABSL_FLAG(absl::Duration, connect_timeout, absl::Seconds(5), "How long to wait for the server's connection");
ABSL_FLAG(absl::Duration, timeout, absl::InfiniteDuration(), "How long one question may take");
ABSL_FLAG(bool, json, false, "Print JSON");
ABSL_FLAG(bool, verbose, false, "Print an answer's summary");
ABSL_FLAG(bool, help, false, "Print the help");
ABSL_FLAG(std::string, model, "", "Model of a session that is created");
ABSL_FLAG(absl::optional<std::vector<std::string>>, label, absl::nullopt, "KEY=VALUE, or several with commas between");
ABSL_FLAG(bool, resume, false, "Leave out what the session has already: its first accepted_bytes bytes");
ABSL_FLAG(bool, take_over, false, "Take the writer's seat from the stream that has it");
ABSL_FLAG(std::string, wait, "memorized", "What a stream waits for: accepted, durable or memorized");
ABSL_FLAG(absl::optional<int64_t>, offset, absl::nullopt, "Tokens that a reset keeps, or that a fork has");
ABSL_FLAG(absl::optional<int64_t>, as_of_offset, absl::nullopt, "Answer as if nothing behind it had come");
ABSL_FLAG(std::string, session, "", "Id of an imported session");
ABSL_FLAG(std::string, retention, "", "keep or trim");
ABSL_FLAG(absl::optional<absl::Duration>, ttl, absl::nullopt, "Life of a session since its creation");
ABSL_FLAG(absl::optional<absl::Duration>, idle_ttl, absl::nullopt, "Life of a session since its last use");
ABSL_FLAG(absl::optional<int64_t>, max_backlog_tokens, absl::nullopt, "Tokens accepted and not memorized");
ABSL_FLAG(absl::optional<int64_t>, max_log_bytes, absl::nullopt, "Content that a session's log may hold");
ABSL_FLAG(int32_t, max_tokens, 0, "Most tokens in an answer");
ABSL_FLAG(double, temperature, -1, "0 is greedy");
ABSL_FLAG(int32_t, top_k, 0, "Sample from the likeliest so many tokens");
ABSL_FLAG(double, top_p, -1, "Sample from the fewest likeliest tokens that reach this probability");
ABSL_FLAG(std::string, seed, "", "Seed of the sampling");
ABSL_FLAG(std::vector<std::string>, stop, {}, "Strings that end an answer, with commas between them; C escapes");
ABSL_FLAG(bool, remember, false, "Append the question and the answer to the session");
ABSL_FLAG(bool, raw_prompt, false, "Do not put the model's question token before the question");

namespace mnemosyne::client {
namespace {

constexpr char kDefaultServer[] = "127.0.0.1:50051";
constexpr size_t kManyArguments = ~size_t{0};

struct CommandShape {
  absl::string_view name;
  size_t min_arguments;
  size_t max_arguments;
  absl::string_view usage;
};

constexpr CommandShape kCommands[] = {
    {"stream", 1, 2, "mnemo stream SESSION [FILE|-]"},
    {"query", 2, kManyArguments, "mnemo query SESSION QUESTION..."},
    {"chat", 1, 1, "mnemo chat SESSION"},
    {"reset", 1, 1, "mnemo reset SESSION [--offset=TOKENS]"},
    {"fork", 2, 2, "mnemo fork SESSION FORK [--offset=TOKENS]"},
    {"erase", 3, 3, "mnemo erase SESSION BEGIN END"},
    {"update", 1, 1, "mnemo update SESSION [--label=KEY=VALUE,...] [--retention=keep|trim] [--ttl=24h] ..."},
    {"export", 1, 2, "mnemo export SESSION [FILE|-]"},
    {"import", 0, 1, "mnemo import [FILE|-] [--session=ID]"},
    {"backup", 0, 0, "mnemo backup"},
    {"sessions", 0, 0, "mnemo sessions [--label=KEY=VALUE,...]"},
    {"show", 1, 1, "mnemo show SESSION"},
    {"delete", 1, 1, "mnemo delete SESSION"},
    {"create", 1, 1, "mnemo create SESSION [--model=NAME] [--label=KEY=VALUE,...]"},
    {"models", 0, 0, "mnemo models"},
};

// The flags that are the program's own; libraries may define others.
constexpr absl::string_view kFlags[] = {"server",        "connect_timeout",
                                        "timeout",       "json",
                                        "verbose",       "help",
                                        "model",         "label",
                                        "resume",        "take_over",
                                        "wait",          "offset",
                                        "session",       "max_tokens",
                                        "top_k",         "temperature",
                                        "top_p",         "seed",
                                        "stop",          "remember",
                                        "raw_prompt",    "as_of_offset",
                                        "retention",     "ttl",
                                        "idle_ttl",      "max_backlog_tokens",
                                        "max_log_bytes", "tls",
                                        "tls_ca",        "tls_certificate",
                                        "tls_key",       "token_file"};

absl::CommandLineFlag* FindFlag(absl::string_view name) {
  for (absl::string_view known : kFlags) {
    if (known == name) return absl::FindCommandLineFlag(name);
  }
  return nullptr;
}

// Sets the flags and returns the other arguments.
absl::StatusOr<std::vector<std::string>> TakeFlags(const std::vector<std::string>& arguments) {
  std::vector<std::string> rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      rest.insert(rest.end(), arguments.begin() + i + 1, arguments.end());
      break;
    }
    if (!absl::StartsWith(argument, "--")) {
      rest.push_back(argument);
      continue;
    }
    std::pair<std::string, std::string> parts = absl::StrSplit(argument.substr(2), absl::MaxSplits('=', 1));
    const bool has_value = absl::StrContains(argument, '=');
    std::string name = absl::StrReplaceAll(parts.first, {{"-", "_"}});
    std::string value = parts.second;
    absl::CommandLineFlag* flag = FindFlag(name);
    if (flag == nullptr && absl::StartsWith(name, "no") && !has_value) {
      flag = FindFlag(name.substr(2));
      if (flag != nullptr && !flag->IsOfType<bool>()) flag = nullptr;
      value = "false";
    } else if (flag != nullptr && !has_value) {
      if (flag->IsOfType<bool>()) {
        value = "true";
      } else if (++i < arguments.size()) {
        value = arguments[i];
      } else {
        return absl::InvalidArgumentError(absl::StrCat("--", parts.first, " needs a value"));
      }
    }
    if (flag == nullptr) return absl::InvalidArgumentError(absl::StrCat("there is no flag --", parts.first));
    std::string error;
    if (!flag->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat("--", parts.first, " cannot be '", value, "'"));
    }
  }
  return rest;
}

absl::StatusOr<QueryOptions> QueryFlags() {
  QueryOptions query;
  if (int32_t value = absl::GetFlag(FLAGS_max_tokens); value != 0) query.max_tokens = value;
  if (int32_t value = absl::GetFlag(FLAGS_top_k); value != 0) query.top_k = value;
  if (double value = absl::GetFlag(FLAGS_temperature); value != -1) query.temperature = static_cast<float>(value);
  if (double value = absl::GetFlag(FLAGS_top_p); value != -1) query.top_p = static_cast<float>(value);
  if (std::string text = absl::GetFlag(FLAGS_seed); !text.empty()) {
    uint64_t seed = 0;
    if (!absl::SimpleAtoi(text, &seed)) {
      return absl::InvalidArgumentError(absl::StrCat("--seed cannot be '", text, "'"));
    }
    query.seed = seed;
  }
  for (const std::string& escaped : absl::GetFlag(FLAGS_stop)) {
    std::string stop, error;
    if (!absl::CUnescape(escaped, &stop, &error) || stop.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--stop cannot have '", escaped, "'"));
    }
    query.stop.push_back(std::move(stop));
  }
  query.remember = absl::GetFlag(FLAGS_remember);
  query.raw_prompt = absl::GetFlag(FLAGS_raw_prompt);
  query.as_of_offset = absl::GetFlag(FLAGS_as_of_offset);
  return query;
}

absl::StatusOr<Labels> LabelFlags() {
  Labels labels;
  for (const std::string& label : absl::GetFlag(FLAGS_label).value_or(std::vector<std::string>())) {
    std::pair<std::string, std::string> parts = absl::StrSplit(label, absl::MaxSplits('=', 1));
    if (parts.first.empty() || !absl::StrContains(label, '=')) {
      return absl::InvalidArgumentError(absl::StrCat("--label takes KEY=VALUE, not '", label, "'"));
    }
    labels[parts.first] = parts.second;
  }
  return labels;
}

absl::StatusOr<SessionSettings> SettingsFlags() {
  SessionSettings settings;
  if (const std::string text = absl::GetFlag(FLAGS_retention); text == "keep" || text == "trim") {
    settings.retention = text == "keep" ? Retention::kKeep : Retention::kTrim;
  } else if (!text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--retention cannot be '", text, "'; it is keep or trim"));
  }
  settings.ttl = absl::GetFlag(FLAGS_ttl);
  settings.idle_ttl = absl::GetFlag(FLAGS_idle_ttl);
  settings.max_backlog_tokens = absl::GetFlag(FLAGS_max_backlog_tokens);
  settings.max_log_bytes = absl::GetFlag(FLAGS_max_log_bytes);
  return settings;
}

absl::StatusOr<DeliveryLevel> WaitFlag() {
  const std::string text = absl::GetFlag(FLAGS_wait);
  if (text == "accepted") return DeliveryLevel::kAccepted;
  if (text == "durable") return DeliveryLevel::kDurable;
  if (text == "memorized") return DeliveryLevel::kMemorized;
  return absl::InvalidArgumentError(
      absl::StrCat("--wait cannot be '", text, "'; it is accepted, durable or memorized"));
}

// The file's text; a name that is not given stands for an empty one.
absl::StatusOr<std::string> FileOf(absl::string_view flag, const std::string& path) {
  if (path.empty()) return std::string();
  absl::StatusOr<std::string> text = ReadFile(path);
  if (text.ok()) return text;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", text.status().message()));
}

absl::StatusOr<absl::optional<Tls>> TlsFlags() {
  Tls tls;
  ASSIGN_OR_RETURN(tls.root_certificates, FileOf("tls_ca", absl::GetFlag(FLAGS_tls_ca)));
  ASSIGN_OR_RETURN(tls.certificate, FileOf("tls_certificate", absl::GetFlag(FLAGS_tls_certificate)));
  ASSIGN_OR_RETURN(tls.key, FileOf("tls_key", absl::GetFlag(FLAGS_tls_key)));
  if (tls.certificate.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError("--tls_certificate and --tls_key go together");
  }
  const bool is_on = absl::GetFlag(FLAGS_tls) || !tls.root_certificates.empty() || !tls.certificate.empty();
  return is_on ? absl::optional<Tls>(std::move(tls)) : absl::nullopt;
}

absl::StatusOr<std::string> TokenFlag() {
  const char* const variable = std::getenv("MNEMOSYNE_TOKEN");
  ASSIGN_OR_RETURN(std::string token, FileOf("token_file", absl::GetFlag(FLAGS_token_file)));
  if (token.empty() && variable != nullptr) token = variable;
  return std::string(absl::StripAsciiWhitespace(token));
}

absl::StatusOr<int64_t> OffsetArgument(absl::string_view name, const std::string& text) {
  int64_t offset = 0;
  if (absl::SimpleAtoi(text, &offset)) return offset;
  return absl::InvalidArgumentError(absl::StrCat(name, " is an offset in tokens, not '", text, "'"));
}

// A setting that the command would not heed is a mistake better told than swallowed.
absl::Status CheckSettingsFit(const CommandLine& line) {
  const bool takes_settings =
      line.command == "create" || line.command == "stream" || line.command == "fork" || line.command == "update";
  if (!line.settings.empty() && !takes_settings) {
    return absl::InvalidArgumentError(
        absl::StrCat("mnemo ", line.command, " takes no settings of sessions; ", "create, stream, fork and update do"));
  }
  if (line.command == "update" && line.settings.empty() && !line.has_labels) {
    return absl::InvalidArgumentError("nothing to update: name a label or a setting");
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const CommandLine& line) {
  for (const CommandShape& shape : kCommands) {
    if (shape.name != line.command) continue;
    if (line.arguments.size() < shape.min_arguments || line.arguments.size() > shape.max_arguments) {
      return absl::InvalidArgumentError(absl::StrCat("usage: ", shape.usage));
    }
    if (shape.min_arguments > 0 && line.arguments[0].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("the session's id is empty; usage: ", shape.usage));
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("there is no command '", line.command, "'; mnemo --help lists them"));
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments) {
  CommandLine line;
  ASSIGN_OR_RETURN(line.arguments, TakeFlags(arguments));
  if (absl::GetFlag(FLAGS_help)) {
    line.command = "help";
    return line;
  }
  if (line.arguments.empty()) return absl::InvalidArgumentError("no command; mnemo --help lists them");
  line.command = line.arguments.front();
  line.arguments.erase(line.arguments.begin());
  if (line.command == "help") return line;
  RETURN_IF_ERROR(CheckShape(line));

  line.server = absl::GetFlag(FLAGS_server);
  if (const char* server = std::getenv("MNEMOSYNE_SERVER"); line.server.empty() && server != nullptr) {
    line.server = server;
  }
  if (line.server.empty()) line.server = kDefaultServer;
  ASSIGN_OR_RETURN(line.tls, TlsFlags());
  ASSIGN_OR_RETURN(line.token, TokenFlag());
  line.connect_timeout = absl::GetFlag(FLAGS_connect_timeout);
  line.timeout = absl::GetFlag(FLAGS_timeout);
  line.json = absl::GetFlag(FLAGS_json);
  line.verbose = absl::GetFlag(FLAGS_verbose);
  line.model = absl::GetFlag(FLAGS_model);
  line.resume = absl::GetFlag(FLAGS_resume);
  line.take_over = absl::GetFlag(FLAGS_take_over);
  line.offset = absl::GetFlag(FLAGS_offset);
  line.session = absl::GetFlag(FLAGS_session);
  line.has_labels = absl::GetFlag(FLAGS_label).has_value();
  if (line.command == "erase") {
    ASSIGN_OR_RETURN(line.begin, OffsetArgument("BEGIN", line.arguments[1]));
    ASSIGN_OR_RETURN(line.end, OffsetArgument("END", line.arguments[2]));
  }
  ASSIGN_OR_RETURN(line.wait, WaitFlag());
  ASSIGN_OR_RETURN(line.labels, LabelFlags());
  ASSIGN_OR_RETURN(line.settings, SettingsFlags());
  ASSIGN_OR_RETURN(line.query, QueryFlags());
  RETURN_IF_ERROR(CheckSettingsFit(line));
  return line;
}

absl::string_view HelpText() {
  return R"(mnemo talks to a Mnemosyne server: sessions learn what is streamed to them, and answer questions from it.

  mnemo stream SESSION [FILE|-]      stream a file or standard input to a session, created when it is missing
      --resume                       leave out what the session has already: its first accepted_bytes bytes
      --take_over                    take the writer's seat from the stream that has it
      --wait=LEVEL                   end when all is accepted, durable or memorized (the default)
  mnemo query SESSION QUESTION...    ask once
  mnemo chat SESSION                 ask line by line; /tell TEXT streams the text, /quit ends
      --max_tokens=N --temperature=T --top_k=N --top_p=P --seed=N --stop=A,B --remember --raw_prompt --timeout=30s
      --as_of_offset=TOKENS          query: as if nothing behind it had come
      --verbose                      the answer's summary, on standard error
  mnemo create SESSION               make an empty session (--label=KEY=VALUE,...)
  mnemo show SESSION                 how far a session has come
  mnemo sessions                     list the sessions (--label=KEY=VALUE,...)
  mnemo reset SESSION                forget everything, or all after --offset=TOKENS
  mnemo fork SESSION FORK            make a session that goes on from another, as it is or was at --offset=TOKENS
  mnemo erase SESSION BEGIN END      unlearn the tokens [BEGIN, END), as if they had never come
  mnemo update SESSION               change its labels (--label) and settings
  mnemo export SESSION [FILE|-]      write a session whole, to a file or standard output
  mnemo import [FILE|-]              make a session of that (--session=ID for another id)
  mnemo delete SESSION               delete a session with all it knows
  mnemo models                       list the models
  mnemo backup                       copy all the server has into its backup folder

  settings, for create, stream and fork (of a session that is made) and update:
      --retention=keep|trim          keep the whole log, or what the snapshots need
      --ttl=24h --idle_ttl=1h        delete it so long after its creation, after its last use; inf: never
      --max_backlog_tokens=N --max_log_bytes=N   its limits; 0: the server's

  --server=HOST:PORT                 default: $MNEMOSYNE_SERVER, or 127.0.0.1:50051
  --tls --tls_ca=FILE                connect by TLS; who signs the server's certificate, if the system does not know
  --tls_certificate=FILE --tls_key=FILE   the client's own, for a server that asks for one
  --token_file=FILE                  the token that the server asks for; default: $MNEMOSYNE_TOKEN
  --connect_timeout=5s               how long to wait for the connection
  --model=NAME                       model of a session that is created
  --json                             JSON on standard output, an object a line

Exit code: 0 done, 1 the server or a file said no, 2 wrong usage, 3 the server cannot be reached, 130 interrupted.
)";
}

}  // namespace mnemosyne::client
