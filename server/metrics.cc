#include "server/metrics.h"

#include <filesystem>
#include <iterator>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/process_metrics.h"

namespace mnemosyne {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

prometheus::Histogram& SecondsHistogram(prometheus::Registry& registry, const std::string& name,
                                        const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, StageSecondsBounds());
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

// Of a file that is looked at again and again.
MetricFamily Reloads(const std::string& name, const std::string& help,
                     const std::function<int64_t(bool succeeded)>& reloads) {
  MetricFamily out = {name, help, MetricType::Counter, {}};
  for (const bool succeeded : {true, false}) {
    ClientMetric metric;
    metric.label = {{"result", succeeded ? "taken" : "refused"}};
    metric.counter.value = static_cast<double>(reloads(succeeded));
    out.metric.push_back(std::move(metric));
  }
  return out;
}

ClientMetric HistogramOf(const Labels& labels, const Distribution::Counts& counts) {
  ClientMetric metric;
  metric.label = labels;
  uint64_t total = 0;
  for (size_t i = 0; i < counts.counts.size(); ++i) {
    total += counts.counts[i];
    const double bound = i < counts.bounds.size() ? counts.bounds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back({.cumulative_count = total, .upper_bound = bound});
  }
  metric.histogram.sample_count = total;
  metric.histogram.sample_sum = counts.sum;
  return metric;
}

MetricFamily Histogram(const std::string& name, const std::string& help, const Distribution::Counts& counts) {
  return {name, help, MetricType::Histogram, {HistogramOf({}, counts)}};
}

ClientMetric GaugeOf(const Labels& labels, double value) {
  ClientMetric metric;
  metric.label = labels;
  metric.gauge.value = value;
  return metric;
}

MetricFamily BuildInfo(const Engine& engine, const std::string& version) {
  const Labels labels = {{"version", version},
                         {"device", engine.options().device},
                         {"weights", engine.options().weights},
                         {"blas", engine.blas()}};
  return {"mnemosyne_build_info", "1; what the server is and runs on", MetricType::Gauge, {GaugeOf(labels, 1)}};
}

void AddModels(const Engine& engine, const EngineStats& stats, std::vector<MetricFamily>* out) {
  MetricFamily info = {"mnemosyne_model_info", "1; a model that is loaded", MetricType::Gauge, {}};
  MetricFamily state = {"mnemosyne_model_state_bytes", "State of one session of a model", MetricType::Gauge, {}};
  for (const ModelInfo& model : engine.models()) {
    info.metric.push_back(GaugeOf({{"model", model.name},
                                   {"fingerprint", model.fingerprint},
                                   {"parameters", absl::StrCat(model.parameter_count)}},
                                  1));
    state.metric.push_back(GaugeOf({{"model", model.name}}, static_cast<double>(model.state_bytes)));
  }
  MetricFamily step = {
      "mnemosyne_step_seconds", "Step of a model by a block of each session in a batch", MetricType::Histogram, {}};
  MetricFamily batch = {
      "mnemosyne_step_batch_size", "Sessions whose blocks were stepped at once", MetricType::Histogram, {}};
  MetricFamily surprise = {"mnemosyne_surprise",
                           "Surprise of a block: |M(k) - v|^2, mean over tokens, layers and heads",
                           MetricType::Histogram,
                           {}};
  for (const auto& [name, of_model] : stats.models) {
    step.metric.push_back(HistogramOf({{"model", name}}, of_model.step));
    batch.metric.push_back(HistogramOf({{"model", name}}, of_model.batch));
    surprise.metric.push_back(HistogramOf({{"model", name}}, of_model.surprise));
  }
  for (MetricFamily* const family : {&step, &batch, &surprise}) out->push_back(std::move(*family));
  out->push_back(std::move(info));
  out->push_back(std::move(state));
}

void AddTenants(const std::map<std::string, TenantUse, std::less<>>& uses, std::vector<MetricFamily>* out) {
  MetricFamily sessions = {"mnemosyne_tenant_sessions", "Sessions of a tenant", MetricType::Gauge, {}};
  MetricFamily resident = {
      "mnemosyne_tenant_resident_state_bytes", "Memory taken by a tenant's resident states", MetricType::Gauge, {}};
  MetricFamily stored = {"mnemosyne_tenant_stored_bytes",
                         "Logs and snapshots of a tenant's sessions, approximately",
                         MetricType::Gauge,
                         {}};
  for (const auto& [tenant, use] : uses) {
    const Labels labels = {{"tenant", tenant}};
    sessions.metric.push_back(GaugeOf(labels, static_cast<double>(use.sessions)));
    resident.metric.push_back(GaugeOf(labels, static_cast<double>(use.resident_bytes)));
    stored.metric.push_back(GaugeOf(labels, static_cast<double>(use.stored_bytes)));
  }
  for (MetricFamily* const family : {&sessions, &resident, &stored}) out->push_back(std::move(*family));
}

double FreeBytes(const std::string& path) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(path, error);
  return error ? 0 : static_cast<double>(space.available);
}

}  // namespace

Metrics::Metrics(const Engine& engine, Sources sources)
    : engine_(engine),
      sources_(std::move(sources)),
      rpcs_(prometheus::BuildCounter()
                .Name("mnemosyne_rpcs_total")
                .Help("Calls that ended, by method and status code")
                .Register(registry_)),
      rpc_seconds_(prometheus::BuildHistogram()
                       .Name("mnemosyne_rpc_seconds")
                       .Help("How long calls took that ended, by method; a stream lasts as long as its client likes")
                       .Register(registry_)),
      time_to_first_token_(SecondsHistogram(registry_, "mnemosyne_query_first_token_seconds",
                                            "From a query's arrival to its answer's first token")),
      query_(SecondsHistogram(registry_, "mnemosyne_query_seconds", "From a query's arrival to its answer's end")),
      answer_token_(SecondsHistogram(registry_, "mnemosyne_answer_token_seconds",
                                     "Time a token of an answer after its first, mean over the answer")),
      append_to_durable_(SecondsHistogram(registry_, "mnemosyne_append_durable_seconds",
                                          "From an append's arrival until it is durable; one append at a time of each "
                                          "stream is timed")) {}

void Metrics::CountRpc(absl::string_view method, absl::StatusCode code, absl::Duration duration) {
  rpcs_.Add({{"method", std::string(method)}, {"code", absl::StatusCodeToString(code)}}).Increment();
  rpc_seconds_.Add({{"method", std::string(method)}}, StageSecondsBounds()).Observe(absl::ToDoubleSeconds(duration));
}

void Metrics::ObserveTimeToFirstToken(absl::Duration duration) {
  time_to_first_token_.Observe(absl::ToDoubleSeconds(duration));
}

void Metrics::ObserveQuery(absl::Duration duration) { query_.Observe(absl::ToDoubleSeconds(duration)); }

void Metrics::ObserveAnswerToken(absl::Duration duration) { answer_token_.Observe(absl::ToDoubleSeconds(duration)); }

void Metrics::ObserveAppendToDurable(absl::Duration duration) {
  append_to_durable_.Observe(absl::ToDoubleSeconds(duration));
}

std::vector<MetricFamily> Metrics::Collect() const {
  std::vector<MetricFamily> out = registry_.Collect();
  const EngineStats s = engine_.stats();
  MetricFamily families[] = {
      BuildInfo(engine_, sources_.version),
      Gauge("mnemosyne_sessions", "Sessions on this server", s.sessions),
      Gauge("mnemosyne_resident_sessions", "Sessions whose state is in memory", s.resident_sessions),
      Gauge("mnemosyne_resident_state_bytes", "Memory taken by resident states", s.resident_bytes),
      Gauge("mnemosyne_max_resident_state_bytes", "Memory that resident states may take",
            engine_.options().max_resident_bytes),
      Gauge("mnemosyne_stored_bytes", "Tables and blobs of the data folder", s.stored_bytes),
      Gauge("mnemosyne_disk_free_bytes", "Room left where the data folder lies",
            FreeBytes(engine_.options().data_path)),
      Gauge("mnemosyne_writers", "Streams that hold a writer's seat", s.writers),
      Gauge("mnemosyne_waiting_sessions", "Sessions with whole blocks that wait for a worker", s.waiting_sessions),
      Gauge("mnemosyne_oldest_wait_seconds", "How long the first of them has been waiting", s.oldest_wait_seconds),
      Gauge("mnemosyne_running_sessions", "Sessions that a worker steps now", s.running_sessions),
      Gauge("mnemosyne_lag_tokens", "Tokens accepted and not memorized, of all resident sessions", s.lag_tokens),
      Gauge("mnemosyne_max_lag_tokens", "The most of one session", s.max_lag_tokens),
      Gauge("mnemosyne_waiting_queries", "Queries that wait for their session's memory or for a worker",
            s.waiting_queries),
      Gauge("mnemosyne_running_queries", "Queries that a worker decodes now", s.running_queries),
      Gauge("mnemosyne_disk_failed", "1 after a write to the data folder failed, until the disk takes writes again",
            s.disk_failed ? 1 : 0),
      Counter("mnemosyne_appends_total", "Appends accepted", s.appends_total),
      Counter("mnemosyne_append_bytes_total", "Content bytes accepted", s.append_bytes_total),
      Counter("mnemosyne_tokens_accepted_total", "Tokens accepted", s.tokens_accepted_total),
      Counter("mnemosyne_tokens_durable_total", "Tokens fsynced in the log, and acknowledged so",
              s.tokens_durable_total),
      Counter("mnemosyne_tokens_memorized_total", "Tokens taken into a state", s.tokens_memorized_total),
      Counter("mnemosyne_failed_steps_total", "Steps refused because their result was not finite",
              s.failed_steps_total),
      Counter("mnemosyne_snapshot_bytes_total", "Bytes of snapshots written", s.snapshot_bytes_total),
      Counter("mnemosyne_expired_sessions_total", "Sessions deleted because their time was over",
              s.expired_sessions_total),
      Counter("mnemosyne_evictions_total", "States put out of memory", s.evictions_total),
      Counter("mnemosyne_replayed_tokens_total", "Tokens stepped again from the log", s.replayed_tokens_total),
      Counter("mnemosyne_queries_total", "Queries accepted", s.queries_total),
      Counter("mnemosyne_failed_queries_total", "Queries accepted that did not end with an answer",
              s.failed_queries_total),
      Counter("mnemosyne_prompt_tokens_total", "Tokens of prompts read", s.prompt_tokens_total),
      Counter("mnemosyne_answer_tokens_total", "Tokens of answers given", s.answer_tokens_total),
      Histogram("mnemosyne_block_wait_seconds", "From a session's whole block to a worker that takes it", s.block_wait),
      Histogram("mnemosyne_commit_seconds", "Group commit of the log: the write and the fsync", s.commit),
      Histogram("mnemosyne_commit_appends", "Appends in a group commit", s.commit_appends),
      Histogram("mnemosyne_snapshot_seconds", "Snapshot of a session: encoded and written", s.snapshot),
      Histogram("mnemosyne_reload_seconds", "Session read back into memory: its state, and the log behind it",
                s.reload),
      Histogram("mnemosyne_query_batch_size", "Queries that a worker took a turn of together", s.query_batch),
  };
  out.insert(out.end(), std::make_move_iterator(std::begin(families)), std::make_move_iterator(std::end(families)));
  AddModels(engine_, s, &out);
  if (sources_.tenant_uses) AddTenants(sources_.tenant_uses(), &out);
  if (sources_.audit_failures) {
    out.push_back(Counter("mnemosyne_audit_failures_total", "Records that the audit log could not take",
                          static_cast<double>(sources_.audit_failures())));
  }
  if (sources_.access_reloads) {
    out.push_back(Reloads("mnemosyne_access_reloads_total", "Access files looked at, by whether they were taken",
                          sources_.access_reloads));
  }
  if (sources_.tls_reloads) {
    out.push_back(Reloads("mnemosyne_tls_reloads_total", "Files for TLS looked at, by whether they were taken",
                          sources_.tls_reloads));
    out.push_back(Gauge("mnemosyne_tls_certificate_not_after_seconds",
                        "When the server's certificate ends to be valid, in seconds since 1970",
                        static_cast<double>(absl::ToUnixSeconds(sources_.tls_not_after()))));
  }
  AddProcessMetrics(&out);
  return out;
}

}  // namespace mnemosyne
