// What the server tells Prometheus: the engine's counts and levels, and the calls it answered (docs/server.md lists
// all).
//
//   auto metrics = std::make_shared<Metrics>(engine);
//   metrics->CountRpc("Query", absl::StatusCode::kOk);
//
// Thread-safe. No label ever holds a session's id.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace mnemosyne {

class Metrics final : public prometheus::Collectable {
 public:
  explicit Metrics(const Engine& engine);  // not owned; must outlive every Collect

  void CountRpc(absl::string_view method, absl::StatusCode code);
  void ObserveTimeToFirstToken(absl::Duration duration);
  void ObserveQuery(absl::Duration duration);
  void ObserveAppendToDurable(absl::Duration duration);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Engine& engine_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& rpcs_;
  prometheus::Histogram& time_to_first_token_;
  prometheus::Histogram& query_;
  prometheus::Histogram& append_to_durable_;
};

}  // namespace mnemosyne
