#include "core/base/strict_json.h"

#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/utf8.h"

namespace mnemosyne {
namespace {

constexpr size_t kMessageBytes = 200;

// Follows a parse and remembers the first key that an object repeats.
class DuplicateFinder {
 public:
  bool operator()(int /*depth*/, nlohmann::json::parse_event_t event, const nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) objects_.emplace_back();
    if (event == Event::object_end) objects_.pop_back();
    if (event == Event::key) {
      Object& object = objects_.back();
      object.key = value.get<std::string>();
      if (!object.seen.insert(object.key).second && duplicate_.empty()) duplicate_ = Path();
    }
    return true;
  }
  // "memory.heads", quoted; empty when there is none.
  const std::string& duplicate() const { return duplicate_; }

 private:
  struct Object {
    std::set<std::string> seen;
    std::string key;
  };
  std::string Path() const {
    std::string path = "'";
    for (const Object& object : objects_) absl::StrAppend(&path, path.size() > 1 ? "." : "", ForMessage(object.key));
    return path + "'";
  }
  std::vector<Object> objects_;
  std::string duplicate_;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text, absl::string_view what) {
  DuplicateFinder finder;
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(text.data(), text.data() + text.size(), std::ref(finder));
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not JSON: ", ForMessage(error.what())));
  }
  if (!finder.duplicate().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " key ", finder.duplicate(), " is there twice"));
  }
  return root;
}

std::string ForMessage(absl::string_view text) {
  absl::string_view shown = text.substr(0, kMessageBytes);
  if (shown.size() < text.size()) shown.remove_suffix(UnfinishedUtf8Bytes(shown));
  const std::string escaped = absl::Utf8SafeCHexEscape(ToValidUtf8(shown));
  return text.size() > kMessageBytes ? absl::StrCat(escaped, "...") : escaped;
}

}  // namespace mnemosyne
