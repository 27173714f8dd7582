// Page tokens as clients send them, and what a server would give them.
#include <cstdint>

#include "server/page_token.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  constexpr absl::string_view kList = "sessions";
  if (const auto start = PageStart(kList, input); !start.ok()) {
    RequireError(start.status(), {absl::StatusCode::kInvalidArgument});
  } else if (!input.empty()) {
    Require(PageToken(kList, *start) == input, "a token that is taken is one that we give");
  }

  const std::string token = PageToken(kList, input);
  const auto start = PageStart(kList, token);
  Require(start.ok() && *start == input, "a token says where its page begins");
  Require(!PageStart("models", token).ok(), "a token belongs to its list");
  return 0;
}

}  // namespace mnemosyne
