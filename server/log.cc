#include "server/log.h"

#include <atomic>
#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"

namespace mnemosyne {
namespace {

std::atomic<LogFormat> log_format = LogFormat::kText;

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      break;
  }
  return "error";
}

std::string Value(const std::string& value) {
  const std::string escaped = absl::Utf8SafeCEscape(value);
  if (escaped == value && !value.empty() && value.find(' ') == std::string::npos) return value;
  return absl::StrCat("\"", escaped, "\"");
}

}  // namespace

std::string FormatLogRecord(LogFormat format, absl::Time time, LogLevel level, absl::string_view message,
                            const LogFields& fields) {
  const std::string when = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
  if (format == LogFormat::kJson) {
    nlohmann::ordered_json record = {
        {"time", when}, {"level", std::string(LevelName(level))}, {"message", std::string(message)}};
    for (const auto& [key, value] : fields) record[key] = value;
    return record.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  }
  std::string line = absl::StrCat(when, " ", LevelName(level), " ", absl::Utf8SafeCEscape(message));
  for (const auto& [key, value] : fields) absl::StrAppend(&line, " ", key, "=", Value(value));
  return line;
}

void LogAsJson() { log_format = LogFormat::kJson; }

void Log(LogLevel level, absl::string_view message, const LogFields& fields) {
  const std::string line = absl::StrCat(FormatLogRecord(log_format, absl::Now(), level, message, fields), "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);  // one write: records of several threads do not mix
}

}  // namespace mnemosyne
