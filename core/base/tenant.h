// Tenants: whose sessions a server keeps apart from others'.
//
// A session's id is NAME, or TENANT/NAME where there are tenants: to everything below the server it is one string.
// TENANT/ alone, and nothing, stand for a name that is yet to be made.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

inline constexpr char kTenantSeparator = '/';

inline absl::string_view TenantOf(absl::string_view id) {
  const size_t end = id.find(kTenantSeparator);
  return end == absl::string_view::npos ? absl::string_view() : id.substr(0, end);
}

inline absl::string_view SessionNameOf(absl::string_view id) { return id.substr(id.find(kTenantSeparator) + 1); }

// What is said about a tenant's sessions ("session 'TENANT/NAME' ..."), as the tenant may hear it.
inline std::string WithoutTenant(absl::string_view text, absl::string_view tenant) {
  if (tenant.empty()) return std::string(text);
  return absl::StrReplaceAll(text, {{absl::StrCat("'", tenant, std::string(1, kTenantSeparator)), "'"}});
}

// What a tenant may have at most. The largest number: as much as the server.
struct TenantLimits {
  int64_t max_sessions = std::numeric_limits<int64_t>::max();
  int64_t max_resident_bytes = std::numeric_limits<int64_t>::max();  // of states in memory
};

}  // namespace mnemosyne
