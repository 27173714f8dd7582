// What callers of the engine may send, checked before anything changes.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "core/engine/engine.h"
#include "core/model/model.h"

namespace mnemosyne {

// INVALID_ARGUMENT that names the value and the limit. An id may have a tenant before it (core/base/tenant.h).
absl::Status CheckSessionId(const std::string& id);
absl::Status CheckLabels(const std::map<std::string, std::string>& labels);
// `block_tokens`: the model's.
absl::Status CheckSettings(const SessionSettings& settings, int64_t block_tokens, const Engine::Options& options);
absl::Status CheckOptions(const Engine::Options& options);
// Text or token ids that `model` can read, of at most `max_bytes` bytes (a token id counts as four).
absl::Status CheckContent(const Content& content, const Model& model, int64_t max_bytes);

}  // namespace mnemosyne
