#include "bench/result_file.h"

#include <algorithm>
#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"

namespace mnemosyne {

using Json = nlohmann::json;

absl::StatusOr<ResultFile> ResultFile::Open(const std::string& path, bool resume) {
  ResultFile results;
  results.path_ = path;
  if (path.empty()) return results;
  std::string kept;
  if (resume) {
    absl::StatusOr<std::string> text = ReadFile(path);
    if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
    if (text.ok()) kept = text->substr(0, text->rfind('\n') + 1);
    int number = 0;
    for (size_t from = 0, end; from < kept.size(); from = end + 1) {
      end = kept.find('\n', from);
      const Json line = Json::parse(kept.begin() + from, kept.begin() + end, nullptr, /*allow_exceptions=*/false);
      ++number;
      if (!line.is_object()) {
        return absl::InvalidArgumentError(absl::StrCat("'", path, "': line ", number, " is no JSON object"));
      }
      results.lines_.push_back(line);
    }
    RETURN_IF_ERROR(WriteFileAtomically(path, kept));
  }
  results.file_.reset(std::fopen(path.c_str(), resume ? "a" : "w"));
  if (results.file_ == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("'", path, "'"));
  return results;
}

const Json* ResultFile::Find(const Json& cell) const {
  const auto found = std::find_if(lines_.begin(), lines_.end(), [&](const Json& line) {
    return std::all_of(cell.items().begin(), cell.items().end(),
                       [&](const auto& item) { return line.contains(item.key()) && line[item.key()] == item.value(); });
  });
  return found == lines_.end() ? nullptr : &*found;
}

absl::Status ResultFile::Add(const Json& cell, const Json& measured) {
  Json line = cell;
  line.update(measured);
  lines_.push_back(line);
  if (file_ == nullptr) return absl::OkStatus();
  const std::string text = absl::StrCat(line.dump(), "\n");
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("'", path_, "'"));
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
