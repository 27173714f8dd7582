// What the server tells Prometheus: the engine's counts, levels and distributions, the calls it answered, and the
// process (docs/server.md lists all).
//
//   auto metrics = std::make_shared<Metrics>(engine, Metrics::Sources{});
//   metrics->CountRpc("Query", absl::StatusCode::kOk, seconds);
//
// Thread-safe. No label ever holds a session's id.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace mnemosyne {

class Metrics final : public prometheus::Collectable {
 public:
  // Of parts of the server that are not the engine's. Empty ones are left out.
  struct Sources {
    std::string version;
    std::function<int64_t()> audit_failures;
    std::function<int64_t(bool succeeded)> access_reloads, tls_reloads;
    std::function<absl::Time()> tls_not_after;
    std::function<std::map<std::string, TenantUse, std::less<>>()> tenant_uses;
  };
  Metrics(const Engine& engine, Sources sources);  // `engine` is not owned; must outlive every Collect

  void CountRpc(absl::string_view method, absl::StatusCode code, absl::Duration duration);
  void ObserveTimeToFirstToken(absl::Duration duration);
  void ObserveQuery(absl::Duration duration);
  void ObserveAnswerToken(absl::Duration duration);  // mean, of an answer's tokens after the first
  void ObserveAppendToDurable(absl::Duration duration);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Engine& engine_;
  const Sources sources_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& rpcs_;
  prometheus::Family<prometheus::Histogram>& rpc_seconds_;
  prometheus::Histogram& time_to_first_token_;
  prometheus::Histogram& query_;
  prometheus::Histogram& answer_token_;
  prometheus::Histogram& append_to_durable_;
};

}  // namespace mnemosyne
