#include "server/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Gauge(const char* name, const char* help, double value) {
  ClientMetric metric;
  metric.gauge.value = value;
  return {name, help, MetricType::Gauge, {metric}};
}

// Field `index` of /proc/self/stat as proc(5) counts them, from 1; those before the program's name are not asked for.
double StatField(absl::string_view stat, size_t index) {
  const size_t name_end = stat.rfind(") ");
  if (name_end == absl::string_view::npos) return 0;
  const std::vector<absl::string_view> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
  constexpr size_t kFirst = 3;
  double value = 0;
  if (index - kFirst < fields.size()) (void)absl::SimpleAtod(fields[index - kFirst], &value);
  return value;
}

double BootSeconds() {
  std::ifstream file("/proc/stat");
  std::string key;
  double seconds = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("btime ", 0) == 0) (void)absl::SimpleAtod(line.substr(6), &seconds);
  }
  return seconds;
}

}  // namespace

void AddProcessMetrics(std::vector<MetricFamily>* out) {
  std::ifstream file("/proc/self/stat");
  std::string stat;
  if (!std::getline(file, stat)) return;
  constexpr size_t kUserTicks = 14, kSystemTicks = 15, kThreads = 20, kStartTicks = 22, kVirtualBytes = 23, kPages = 24;
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  static const double start = BootSeconds() + StatField(stat, kStartTicks) / ticks;
  ClientMetric cpu;
  cpu.counter.value = (StatField(stat, kUserTicks) + StatField(stat, kSystemTicks)) / ticks;
  out->push_back({"process_cpu_seconds_total", "CPU time of the process", MetricType::Counter, {cpu}});
  out->push_back(Gauge("process_start_time_seconds", "When the process began, in seconds since 1970", start));
  out->push_back(Gauge("process_resident_memory_bytes", "Memory of the process",
                       StatField(stat, kPages) * static_cast<double>(sysconf(_SC_PAGESIZE))));
  out->push_back(Gauge("process_virtual_memory_bytes", "Address space of the process", StatField(stat, kVirtualBytes)));
  out->push_back(Gauge("process_threads", "Threads of the process", StatField(stat, kThreads)));
  std::error_code error;
  std::filesystem::directory_iterator files("/proc/self/fd", error);
  const auto open = error ? 0 : std::distance(files, std::filesystem::directory_iterator());
  out->push_back(Gauge("process_open_fds", "Open files of the process", static_cast<double>(open)));
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    out->push_back(Gauge("process_max_fds", "Files that the process may open", static_cast<double>(limit.rlim_cur)));
  }
}

}  // namespace mnemosyne
