// How often a value fell where: counts by upper bounds, and the sum. What a Prometheus histogram is made of, without
// it.
//
//   Distribution seconds(kSecondsBounds);
//   seconds.Add(0.02);
//   Distribution::Counts counts = seconds.counts();
//
// Thread-safe; adding takes no lock.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace mnemosyne {

class Distribution {
 public:
  struct Counts {
    std::vector<double> bounds;   // upper ones, rising; what lies on a bound is below it
    std::vector<int64_t> counts;  // of each, and of what is above the last
    double sum = 0;
    int64_t total() const {
      int64_t total = 0;
      for (const int64_t count : counts) total += count;
      return total;
    }
  };

  explicit Distribution(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  void Add(double value) {
    const size_t place = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
    counts_[place].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }
  Counts counts() const {
    Counts out = {.bounds = bounds_, .counts = {}, .sum = sum_.load(std::memory_order_relaxed)};
    for (const std::atomic<int64_t>& count : counts_) out.counts.push_back(count.load(std::memory_order_relaxed));
    return out;
  }

 private:
  const std::vector<double> bounds_;
  std::vector<std::atomic<int64_t>> counts_;
  std::atomic<double> sum_ = 0;
};

// Steps of models and writes to disks: 0.1 ms to 10 s.
inline std::vector<double> StageSecondsBounds() {
  return {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
}

}  // namespace mnemosyne
