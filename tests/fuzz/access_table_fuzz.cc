// The access file.
#include <cstdint>
#include <set>

#include "server/access/access_table.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto table = AccessTable::Parse({reinterpret_cast<const char*>(data), size});
  if (!table.ok()) {
    RequireError(table.status(), {absl::StatusCode::kInvalidArgument});
    return 0;
  }
  std::set<std::string> names;
  for (const AccessTable::Token& token : table->tokens()) {
    Require(names.insert(token.name).second, "a name is there once");
    Require(table->tenants().contains(token.tenant), "a token is of a tenant that is there");
    Require(token.tenant.find('/') == std::string::npos, "a tenant's name cannot reach into another's");
    Require(table->Find(token.hash) == &token, "a token is found by its hash");
  }
  for (const auto& [name, quotas] : table->tenants()) {
    Require(quotas.max_queries >= 0 && quotas.max_stored_bytes >= 0 && quotas.max_tokens_per_second >= 0 &&
                quotas.sessions.max_sessions >= 0 && quotas.sessions.max_resident_bytes >= 0,
            "no quota is below 0");
  }
  return 0;
}

}  // namespace mnemosyne
