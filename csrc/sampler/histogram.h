// Counts durations in logarithmic buckets, each an eighth of an octave wide: quantiles to 5 % in constant memory.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace wattcount {

class Histogram {
 public:
  void add(std::int64_t ns) {
    ++count_;
    sum_ns_ += ns;
    if (ns > max_ns_) {
      max_ns_ = ns;
    }
    ++buckets_[index(ns)];
  }

  std::uint64_t count() const { return count_; }
  std::int64_t max_ns() const { return max_ns_; }
  std::int64_t sum_ns() const { return sum_ns_; }

  // The `q` quantile (0 < q <= 1): the middle of its bucket, but at most the largest duration. 0: empty.
  double quantile_ns(double q) const {
    if (count_ == 0) {
      return 0.0;
    }
    const double wanted = q * static_cast<double>(count_);
    double seen = 0.0;
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      seen += static_cast<double>(buckets_[i]);
      if (seen >= wanted) {
        const double middle = std::exp2((static_cast<double>(i) + 0.5) / kPerOctave);
        return std::fmin(middle, static_cast<double>(max_ns_));
      }
    }
    return static_cast<double>(max_ns_);
  }

 private:
  static constexpr int kPerOctave = 8;
  static constexpr std::size_t kBuckets = 40 * kPerOctave;  // up to 2^40 ns, 18 minutes

  static std::size_t index(std::int64_t ns) {
    if (ns < 1) {
      return 0;
    }
    const auto i = static_cast<std::size_t>(std::log2(static_cast<double>(ns)) * kPerOctave);
    return i < kBuckets ? i : kBuckets - 1;
  }

  std::array<std::uint32_t, kBuckets> buckets_{};
  std::uint64_t count_ = 0;
  std::int64_t sum_ns_ = 0;
  std::int64_t max_ns_ = 0;
};

}  // namespace wattcount
