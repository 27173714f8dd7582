// A session's surprise over its stream, as coarse as a bounded number of points needs it to be.
//
//   history.Add(64, 0.9f);
//   history.points();   // {{64, 0.9}}
//
// When there are kMaxPoints, every two that follow each other become one, and from then on a point stands for twice as
// many blocks. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mnemosyne {

struct SurprisePoint {
  int64_t end_offset = 0;  // tokens of the session up to the point's end
  float mean = 0;          // of its blocks
};

class SurpriseHistory {
 public:
  static constexpr size_t kMaxPoints = 256;  // an even number

  // The surprise of the block that ends at `end_offset`; blocks come in their order.
  void Add(int64_t end_offset, float surprise) {
    sum_ += surprise;
    blocks_ += 1;
    end_offset_ = end_offset;
    if (blocks_ < blocks_a_point_) return;
    points_.push_back(Open());
    sum_ = 0;
    blocks_ = 0;
    if (points_.size() < kMaxPoints) return;
    for (size_t i = 0; i < kMaxPoints / 2; ++i) {
      const SurprisePoint &first = points_[2 * i], &second = points_[2 * i + 1];
      points_[i] = {second.end_offset, (first.mean + second.mean) / 2};
    }
    points_.resize(kMaxPoints / 2);
    blocks_a_point_ *= 2;
  }

  std::vector<SurprisePoint> points() const {
    std::vector<SurprisePoint> all = points_;
    if (blocks_ > 0) all.push_back(Open());
    return all;
  }

 private:
  SurprisePoint Open() const { return {end_offset_, static_cast<float>(sum_ / static_cast<double>(blocks_))}; }

  std::vector<SurprisePoint> points_;
  int64_t blocks_a_point_ = 1;
  // Of the point that is being made.
  int64_t blocks_ = 0, end_offset_ = 0;
  double sum_ = 0;
};

}  // namespace mnemosyne
