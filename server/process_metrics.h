// The process as Prometheus' client libraries describe it: process_cpu_seconds_total, process_resident_memory_bytes ...
#pragma once

#include <vector>

#include "prometheus/metric_family.h"

namespace mnemosyne {

// Of this process, from /proc; nothing where there is no such folder.
void AddProcessMetrics(std::vector<prometheus::MetricFamily>* out);

}  // namespace mnemosyne
