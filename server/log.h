// One-line log records on stderr: time, level, message, key=value; or as JSON. They hold no tokens and no memory
// contents.
//
//   Log(LogLevel::kInfo, "data folder opened", {{"path", "data"}, {"sessions", "12"}});
//   2026-01-31T12:00:00.000Z info data folder opened path=data sessions=12
//
// Thread-safe.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mnemosyne {

enum class LogLevel { kInfo, kWarning, kError };
using LogFields = std::vector<std::pair<std::string, std::string>>;

// The record as Log writes it, without the newline. Values with spaces, quotes or control characters are quoted.
enum class LogFormat { kText, kJson };
std::string FormatLogRecord(LogFormat format, absl::Time time, LogLevel level, absl::string_view message,
                            const LogFields& fields);

// From here on records are JSON objects: {"time":..., "level":..., "message":..., KEY: VALUE ...}.
void LogAsJson();

void Log(LogLevel level, absl::string_view message, const LogFields& fields = {});

}  // namespace mnemosyne
