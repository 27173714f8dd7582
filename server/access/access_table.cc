#include "server/access/access_table.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/strict_json.h"

namespace mnemosyne {
namespace {

using Json = nlohmann::json;

constexpr char kFormat[] = "mnemosyne-access-1";
constexpr size_t kMaxNameBytes = 64;

absl::Status Wrong(const std::string& where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("access file: ", where, " ", what));
}

bool IsName(absl::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

absl::StatusOr<std::string> TextOf(const Json& object, const std::string& where, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return Wrong(absl::StrCat(where, ".", key), "is no string");
  return found->get<std::string>();
}

absl::Status CheckKeys(const Json& object, const std::string& where, const std::set<std::string>& known) {
  if (!object.is_object()) return Wrong(where, "is no object");
  for (const auto& [key, value] : object.items()) {
    if (!known.contains(key)) return Wrong(absl::StrCat(where, ".", ForMessage(key)), "is unknown");
  }
  return absl::OkStatus();
}

absl::StatusOr<TenantQuotas> QuotasFrom(const Json& object, const std::string& where) {
  TenantQuotas quotas;
  const std::map<std::string, int64_t*> fields = {{"max_sessions", &quotas.sessions.max_sessions},
                                                  {"max_resident_bytes", &quotas.sessions.max_resident_bytes},
                                                  {"max_stored_bytes", &quotas.max_stored_bytes},
                                                  {"max_tokens_per_second", &quotas.max_tokens_per_second},
                                                  {"max_queries", &quotas.max_queries}};
  std::set<std::string> known;
  for (const auto& [name, field] : fields) known.insert(name);
  RETURN_IF_ERROR(CheckKeys(object, where, known));
  for (const auto& [name, value] : object.items()) {
    const bool is_count = value.is_number_integer() && (value.is_number_unsigned() || value.get<int64_t>() >= 0) &&
                          value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (!is_count) return Wrong(absl::StrCat(where, ".", name), "is no whole number of at least 0");
    *fields.at(name) = value.get<int64_t>();
  }
  return quotas;
}

absl::StatusOr<Role> RoleFrom(const std::string& text, const std::string& where) {
  for (const Role role : {Role::kRead, Role::kWrite, Role::kAdmin}) {
    if (text == RoleName(role)) return role;
  }
  return Wrong(absl::StrCat(where, ".role"), absl::StrCat("is '", ForMessage(text), "'; it is read, write or admin"));
}

absl::StatusOr<TokenHash> HashFrom(const std::string& text, const std::string& where) {
  TokenHash hash;
  const bool is_hex = text.size() == 2 * hash.size() &&
                      std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
  if (!is_hex) return Wrong(absl::StrCat(where, ".sha256"), "is not 64 hexadecimal digits");
  const std::string bytes = absl::HexStringToBytes(text);
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return hash;
}

}  // namespace

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kRead:
      return "read";
    case Role::kWrite:
      return "write";
    case Role::kAdmin:
      break;
  }
  return "admin";
}

TokenHash HashToken(absl::string_view token) {
  TokenHash hash;
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), hash.data());
  return hash;
}

std::string HexOf(const TokenHash& hash) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
}

absl::StatusOr<std::string> MakeToken() {
  TokenHash random;
  if (RAND_bytes(random.data(), static_cast<int>(random.size())) != 1) {
    return absl::UnavailableError("the system gives no randomness for a token");
  }
  return absl::StrCat(
      "mn_", absl::WebSafeBase64Escape(absl::string_view(reinterpret_cast<const char*>(random.data()), random.size())));
}

absl::StatusOr<AccessTable> AccessTable::Parse(absl::string_view json) {
  ASSIGN_OR_RETURN(const Json root, ParseStrictJson(json, "access file"));
  RETURN_IF_ERROR(CheckKeys(root, "the file", {"format", "tenants", "tokens"}));
  ASSIGN_OR_RETURN(const std::string format, TextOf(root, "the file", "format"));
  if (format != kFormat) return Wrong("format", absl::StrCat("is '", ForMessage(format), "'; it is ", kFormat));
  AccessTable table;
  const Json tenants = root.value("tenants", Json());
  if (!tenants.is_object()) return Wrong("tenants", "is missing or no object");
  for (const auto& [name, object] : tenants.items()) {
    const std::string where = absl::StrCat("tenants.", ForMessage(name));
    if (!IsName(name)) return Wrong(where, "has a name that is not [A-Za-z0-9._-]{1,64}");
    ASSIGN_OR_RETURN(table.tenants_[name], QuotasFrom(object, where));
  }
  const Json tokens = root.value("tokens", Json());
  if (!tokens.is_array()) return Wrong("tokens", "is missing or no list");
  std::set<std::string> names;
  std::set<TokenHash> hashes;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string where = absl::StrCat("tokens[", i, "]");
    RETURN_IF_ERROR(CheckKeys(tokens[i], where, {"name", "tenant", "role", "sha256"}));
    Token token;
    ASSIGN_OR_RETURN(token.name, TextOf(tokens[i], where, "name"));
    ASSIGN_OR_RETURN(token.tenant, TextOf(tokens[i], where, "tenant"));
    ASSIGN_OR_RETURN(const std::string role, TextOf(tokens[i], where, "role"));
    ASSIGN_OR_RETURN(const std::string hash, TextOf(tokens[i], where, "sha256"));
    ASSIGN_OR_RETURN(token.role, RoleFrom(role, where));
    ASSIGN_OR_RETURN(token.hash, HashFrom(hash, where));
    if (!IsName(token.name)) return Wrong(absl::StrCat(where, ".name"), "is not [A-Za-z0-9._-]{1,64}");
    if (!table.tenants_.contains(token.tenant)) {
      return Wrong(absl::StrCat(where, ".tenant"),
                   absl::StrCat("is '", ForMessage(token.tenant), "', which is not in tenants"));
    }
    if (!names.insert(token.name).second) return Wrong(absl::StrCat(where, ".name"), "is there twice");
    if (!hashes.insert(token.hash).second) return Wrong(absl::StrCat(where, ".sha256"), "is there twice");
    table.tokens_.push_back(std::move(token));
  }
  return table;
}

const AccessTable::Token* AccessTable::Find(const TokenHash& hash) const {
  const Token* found = nullptr;
  for (const Token& token : tokens_) {  // all of them, whichever it is
    if (CRYPTO_memcmp(token.hash.data(), hash.data(), hash.size()) == 0) found = &token;
  }
  return found;
}

TenantQuotas AccessTable::QuotasOf(absl::string_view tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? TenantQuotas() : found->second;
}

}  // namespace mnemosyne
