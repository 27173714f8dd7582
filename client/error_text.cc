#include "client/error_text.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace mnemosyne::client {
namespace {

bool AsksForASession(const CommandLine& line) {
  for (absl::string_view command : {"query", "chat", "reset", "show", "delete", "fork", "erase", "update", "export"}) {
    if (line.command == command) return true;
  }
  return false;
}

}  // namespace

std::string ErrorText(const CommandLine& line, const absl::Status& error) {
  const std::string message = absl::StrReplaceAll(error.message(), {{"\n", " "}, {"\r", " "}});
  switch (error.code()) {
    case absl::StatusCode::kNotFound:
      if (!AsksForASession(line)) break;
      return absl::StrCat("session '", line.arguments[0],
                          "' does not exist (create it by streaming to it: mnemo stream ", line.arguments[0], " FILE)");
    case absl::StatusCode::kUnavailable:
      return absl::StrCat("the server at ", line.server, " cannot be reached or cannot serve now: ", message);
    case absl::StatusCode::kUnimplemented:
      return absl::StrCat("what listens at ", line.server, " does not know this call: ", message);
    case absl::StatusCode::kFailedPrecondition:
      if (line.command == "stream" && absl::StrContains(message, "seat")) {
        return absl::StrCat(message, " (take its place: --take_over)");
      }
      break;
    case absl::StatusCode::kUnauthenticated:
      return absl::StrCat(message, " (--token_file, or $MNEMOSYNE_TOKEN)");
    case absl::StatusCode::kCancelled:
      return "interrupted";
    default:
      break;
  }
  return message.empty() ? absl::StatusCodeToString(error.code()) : message;
}

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitDone;
    case absl::StatusCode::kUnavailable:
      return kExitUnreachable;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitRefused;
  }
}

}  // namespace mnemosyne::client
