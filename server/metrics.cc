#include "server/metrics.h"

#include <iterator>

namespace mnemosyne {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

const prometheus::Histogram::BucketBoundaries kSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                          0.25,  0.5,    1,     2.5,  5,     10,   30};

prometheus::Histogram& SecondsHistogram(prometheus::Registry& registry, const std::string& name,
                                        const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, kSeconds);
}

MetricFamily Gauge(const std::string& name, const std::string& help, double value) {
  ClientMetric metric;
  metric.gauge.value = value;
  return {name, help, MetricType::Gauge, {metric}};
}

MetricFamily Counter(const std::string& name, const std::string& help, double value) {
  ClientMetric metric;
  metric.counter.value = value;
  return {name, help, MetricType::Counter, {metric}};
}

}  // namespace

Metrics::Metrics(const Engine& engine)
    : engine_(engine),
      rpcs_(prometheus::BuildCounter()
                .Name("mnemosyne_rpcs_total")
                .Help("Calls that ended, by method and status code")
                .Register(registry_)),
      time_to_first_token_(SecondsHistogram(registry_, "mnemosyne_query_first_token_seconds",
                                            "From a query's arrival to its answer's first token")),
      query_(SecondsHistogram(registry_, "mnemosyne_query_seconds", "From a query's arrival to its answer's end")),
      append_to_durable_(SecondsHistogram(registry_, "mnemosyne_append_durable_seconds",
                                          "From an append's arrival until it is durable; one append at a time of each "
                                          "stream is timed")) {}

void Metrics::CountRpc(absl::string_view method, absl::StatusCode code) {
  rpcs_.Add({{"method", std::string(method)}, {"code", absl::StatusCodeToString(code)}}).Increment();
}

void Metrics::ObserveTimeToFirstToken(absl::Duration duration) {
  time_to_first_token_.Observe(absl::ToDoubleSeconds(duration));
}

void Metrics::ObserveQuery(absl::Duration duration) { query_.Observe(absl::ToDoubleSeconds(duration)); }

void Metrics::ObserveAppendToDurable(absl::Duration duration) {
  append_to_durable_.Observe(absl::ToDoubleSeconds(duration));
}

std::vector<MetricFamily> Metrics::Collect() const {
  std::vector<MetricFamily> out = registry_.Collect();
  const EngineStats s = engine_.stats();
  const MetricFamily levels_and_counts[] = {
      Gauge("mnemosyne_sessions", "Sessions on this server", s.sessions),
      Gauge("mnemosyne_resident_sessions", "Sessions whose state is in memory", s.resident_sessions),
      Gauge("mnemosyne_resident_state_bytes", "Memory taken by resident states", s.resident_bytes),
      Gauge("mnemosyne_writers", "Streams that hold a writer's seat", s.writers),
      Gauge("mnemosyne_waiting_sessions", "Sessions with whole blocks that wait for a worker", s.waiting_sessions),
      Gauge("mnemosyne_running_sessions", "Sessions that a worker steps now", s.running_sessions),
      Gauge("mnemosyne_waiting_queries", "Queries that wait for their session's memory or for a worker",
            s.waiting_queries),
      Gauge("mnemosyne_running_queries", "Queries that a worker decodes now", s.running_queries),
      Gauge("mnemosyne_disk_failed", "1 after a write to the data folder failed: nothing is accepted until a restart",
            s.disk_failed ? 1 : 0),
      Counter("mnemosyne_appends_total", "Appends accepted", s.appends_total),
      Counter("mnemosyne_append_bytes_total", "Content bytes accepted", s.append_bytes_total),
      Counter("mnemosyne_tokens_accepted_total", "Tokens accepted", s.tokens_accepted_total),
      Counter("mnemosyne_tokens_memorized_total", "Tokens taken into a state", s.tokens_memorized_total),
      Counter("mnemosyne_commits_total", "Group commits of the log", s.commits_total),
      Counter("mnemosyne_commit_seconds_total", "Time spent in group commits", s.commit_seconds_total),
      Counter("mnemosyne_step_seconds_total", "Time that workers spent in steps", s.step_seconds_total),
      Counter("mnemosyne_failed_steps_total", "Steps refused because their result was not finite",
              s.failed_steps_total),
      Counter("mnemosyne_snapshots_total", "Snapshots written", s.snapshots_total),
      Counter("mnemosyne_snapshot_bytes_total", "Bytes of snapshots written", s.snapshot_bytes_total),
      Counter("mnemosyne_expired_sessions_total", "Sessions deleted because their time was over",
              s.expired_sessions_total),
      Counter("mnemosyne_evictions_total", "States put out of memory", s.evictions_total),
      Counter("mnemosyne_reloads_total", "States read back from disk", s.reloads_total),
      Counter("mnemosyne_replayed_tokens_total", "Tokens stepped again from the log", s.replayed_tokens_total),
      Counter("mnemosyne_queries_total", "Queries accepted", s.queries_total),
      Counter("mnemosyne_failed_queries_total", "Queries accepted that did not end with an answer",
              s.failed_queries_total),
      Counter("mnemosyne_prompt_tokens_total", "Tokens of prompts read", s.prompt_tokens_total),
      Counter("mnemosyne_answer_tokens_total", "Tokens of answers given", s.answer_tokens_total),
  };
  out.insert(out.end(), std::begin(levels_and_counts), std::end(levels_and_counts));
  return out;
}

}  // namespace mnemosyne
