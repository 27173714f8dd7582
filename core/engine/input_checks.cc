#include "core/engine/input_checks.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/tenant.h"

namespace mnemosyne {

namespace {

constexpr size_t kMaxSessionIdBytes = 128;
constexpr size_t kMaxModelNameBytes = 64, kMaxTenantBytes = 64;

bool IsName(absl::string_view text, size_t max_bytes) {
  return !text.empty() && text.size() <= max_bytes && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

}  // namespace

absl::Status CheckSessionId(const std::string& id) {
  const absl::string_view tenant = TenantOf(id), name = SessionNameOf(id);
  const bool has_tenant = name.size() < id.size();
  if (IsName(name, kMaxSessionIdBytes) && (!has_tenant || IsName(tenant, kMaxTenantBytes))) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("session id '", absl::CHexEscape(id.substr(0, kMaxSessionIdBytes)),
                                                 "' is not [A-Za-z0-9._-]{1,", kMaxSessionIdBytes, "}"));
}

absl::Status CheckLabels(const std::map<std::string, std::string>& labels) {
  if (labels.size() > 64) return absl::InvalidArgumentError(absl::StrCat(labels.size(), " labels; the maximum is 64"));
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > 63) {
      return absl::InvalidArgumentError(
          absl::StrCat("label key '", key, "' has ", key.size(), " bytes; it must have 1 to 63"));
    }
    if (value.size() > 255) {
      return absl::InvalidArgumentError(
          absl::StrCat("the value of label '", key, "' has ", value.size(), " bytes; the maximum is 255"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSettings(const SessionSettings& settings, int64_t block_tokens, const Engine::Options& options) {
  const auto check = [](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value == 0 || (value >= low && value <= high)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", value, "; it must be 0, for the server's, or ", low, " to ", high));
  };
  for (const auto& [name, value] : {std::pair("ttl", settings.ttl), std::pair("idle_ttl", settings.idle_ttl)}) {
    if (value <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", absl::FormatDuration(value), "; it must be above 0"));
    }
  }
  RETURN_IF_ERROR(check("max_backlog_tokens", settings.max_backlog_tokens, block_tokens, options.max_backlog_tokens));
  return check("max_log_bytes", settings.max_log_bytes, 1, options.max_log_bytes);
}

absl::Status CheckOptions(const Engine::Options& options) {
  const auto at_least = [](const char* name, int64_t value, int64_t low) {
    if (value >= low) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; the minimum is ", low));
  };
  if (options.models.empty()) return absl::InvalidArgumentError("no model is given");
  for (const Engine::ModelSource& source : options.models) {
    if (!IsName(source.name, kMaxModelNameBytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("model name '", source.name, "' is not [A-Za-z0-9._-]{1,", kMaxModelNameBytes, "}"));
    }
  }
  RETURN_IF_ERROR(at_least("workers", options.workers, 0));
  RETURN_IF_ERROR(at_least("max_resident_bytes", options.max_resident_bytes, 1));
  RETURN_IF_ERROR(at_least("max_backlog_tokens", options.max_backlog_tokens, 1));
  RETURN_IF_ERROR(at_least("max_append_bytes", options.max_append_bytes, 1));
  constexpr int64_t kMaxAppendBytes = 32 << 20;  // so that it fits into a frame of an export
  if (options.max_append_bytes > kMaxAppendBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_append_bytes is ", options.max_append_bytes, "; the maximum is ", kMaxAppendBytes));
  }
  RETURN_IF_ERROR(at_least("max_prompt_tokens", options.max_prompt_tokens, 1));
  RETURN_IF_ERROR(at_least("max_queries", options.max_queries, 1));
  RETURN_IF_ERROR(at_least("max_transfers", options.max_transfers, 1));
  RETURN_IF_ERROR(at_least("max_sessions", options.max_sessions, 1));
  RETURN_IF_ERROR(at_least("max_log_bytes", options.max_log_bytes, 1));
  return at_least("snapshot_every_tokens", options.snapshot_every_tokens, 1);
}

absl::Status CheckContent(const Content& content, const Model& model, int64_t max_bytes) {
  const int64_t bytes =
      content.kind == ContentKind::kText ? content.bytes.size() : content.tokens.size() * sizeof(int32_t);
  if (bytes == 0) return absl::InvalidArgumentError("the content is empty");
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the content has ", bytes, " bytes; the maximum is ", max_bytes));
  }
  if (content.kind == ContentKind::kText) {
    if (model.config().tokenizer.kind == TokenizerKind::kNone) {
      return absl::InvalidArgumentError("text for a model without a tokenizer; send token ids");
    }
    return absl::OkStatus();
  }
  for (const int32_t token : content.tokens) {
    if (token < 0 || token >= model.config().vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", token, " is outside the vocabulary [0, ", model.config().vocab_size, ")"));
    }
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
