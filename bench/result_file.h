// What a benchmark measured, as JSON lines; an interrupted run goes on with the cells that its file lacks.
//
//   ASSIGN_OR_RETURN(ResultFile file, ResultFile::Open("recall.jsonl", /*resume=*/true));
//   if (file.Find(cell) == nullptr) RETURN_IF_ERROR(file.Add(cell, measured));
//
// Thread-compatible.
#pragma once

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mnemosyne {

class ResultFile {
 public:
  // An empty path: nothing is kept. With `resume` what is in the file stays, but for a last line without its end.
  // The status names a file that cannot be read or written, and a line of it that is no JSON object.
  static absl::StatusOr<ResultFile> Open(const std::string& path, bool resume);

  // The line whose keys say at least what `cell` says; null when there is none.
  const nlohmann::json* Find(const nlohmann::json& cell) const;
  // Appends the keys of both as one line, on the disk (not fsynced) when it returns.
  absl::Status Add(const nlohmann::json& cell, const nlohmann::json& measured);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::vector<nlohmann::json> lines_;
};

}  // namespace mnemosyne
