// Who may call the server: tokens, each of a tenant and a role, and the tenants' quotas; as a file says it
// (docs/security.md).
//
//   ASSIGN_OR_RETURN(AccessTable table, AccessTable::Parse(json));
//   const AccessTable::Token* token = table.Find(HashToken("mn_..."));
//
// Thread-compatible: const after Parse.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/tenant.h"

namespace mnemosyne {

// What a role may do includes what those before it may. kRead: look at sessions, ask, export. kWrite: make, change and
// delete sessions, stream. kAdmin: what concerns the server as a whole (AdminService).
enum class Role { kRead, kWrite, kAdmin };
absl::string_view RoleName(Role role);

struct TenantQuotas {
  TenantLimits sessions;
  int64_t max_stored_bytes = std::numeric_limits<int64_t>::max();       // logs and snapshots
  int64_t max_tokens_per_second = std::numeric_limits<int64_t>::max();  // streamed, all its sessions together
  int64_t max_queries = std::numeric_limits<int64_t>::max();            // waiting and running
};

using TokenHash = std::array<uint8_t, 32>;  // SHA-256
TokenHash HashToken(absl::string_view token);
std::string HexOf(const TokenHash& hash);

// A new token: "mn_" and 256 random bits. It is long enough that its plain hash cannot be turned back. UNAVAILABLE: the
// system gives no randomness.
absl::StatusOr<std::string> MakeToken();

class AccessTable {
 public:
  struct Token {
    std::string name;  // for people and the audit log
    std::string tenant;
    Role role = Role::kRead;
    TokenHash hash = {};
  };

  // INVALID_ARGUMENT says what is wrong and where: no JSON, an unknown or missing key, a name that is not
  // [A-Za-z0-9._-]{1,64}, a token of a tenant that is not there, a hash or a name twice.
  static absl::StatusOr<AccessTable> Parse(absl::string_view json);

  // Null: no such token. Takes as long whichever of them it is, or none.
  const Token* Find(const TokenHash& hash) const;
  TenantQuotas QuotasOf(absl::string_view tenant) const;  // of one that is not there: no limits
  const std::map<std::string, TenantQuotas, std::less<>>& tenants() const { return tenants_; }
  const std::vector<Token>& tokens() const { return tokens_; }

 private:
  std::map<std::string, TenantQuotas, std::less<>> tenants_;
  std::vector<Token> tokens_;
};

}  // namespace mnemosyne
