// The true power of an emulated GPU. It is piecewise constant; its integral and its low-pass are exact.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace wattcount::emulator {

// The power of a point holds until the next point. The first point's power also holds before it.
class Truth {
 public:
  // `lowpass_ns`: the time constant of `lowpass_w`.
  explicit Truth(double lowpass_ns) : lowpass_ns_(lowpass_ns) {}

  void append(std::int64_t t_ns, double power_w) {
    Point point{t_ns, power_w, 0.0, power_w};
    if (!points_.empty()) {
      const Point& last = points_.back();
      const double elapsed_ns = static_cast<double>(t_ns - last.t_ns);
      point.energy_j = last.energy_j + last.power_w * elapsed_ns * 1e-9;
      point.lowpass_w = filtered(last, elapsed_ns);
    }
    points_.push_back(point);
  }

  // Sets the integral of a curve whose beginning is not known: from now on energy_j(t_ns) is `energy_j`.
  void set_energy(std::int64_t t_ns, double energy_j) { base_j_ += energy_j - this->energy_j(t_ns); }

  bool empty() const { return points_.empty(); }
  std::size_t size() const { return points_.size(); }
  std::int64_t first_ns() const { return points_.front().t_ns; }
  std::int64_t last_ns() const { return points_.back().t_ns; }

  double power_w(std::int64_t t_ns) const { return at(t_ns).power_w; }

  // [J] since the first point; negative before it.
  double energy_j(std::int64_t t_ns) const {
    const Point& point = at(t_ns);
    return base_j_ + point.energy_j + point.power_w * static_cast<double>(t_ns - point.t_ns) * 1e-9;
  }

  double mean_w(std::int64_t from_ns, std::int64_t to_ns) const {
    return (energy_j(to_ns) - energy_j(from_ns)) / (static_cast<double>(to_ns - from_ns) * 1e-9);
  }

  // The first-order low-pass of the power. Before the first point it is that point's power.
  double lowpass_w(std::int64_t t_ns) const {
    const Point& point = at(t_ns);
    return lowpass_ns_ > 0.0 && t_ns <= point.t_ns ? point.lowpass_w : filtered(point, static_cast<double>(t_ns - point.t_ns));
  }

 private:
  struct Point {
    std::int64_t t_ns;
    double power_w;    // from here on
    double energy_j;   // up to here
    double lowpass_w;  // here
  };

  double filtered(const Point& point, double elapsed_ns) const {
    if (lowpass_ns_ <= 0.0) {
      return point.power_w;
    }
    return point.power_w + (point.lowpass_w - point.power_w) * std::exp(-elapsed_ns / lowpass_ns_);
  }

  // The point that holds at `t_ns`. Most questions move forward in time, so the search begins at the last answer.
  const Point& at(std::int64_t t_ns) const {
    std::size_t low = 0;
    std::size_t high = points_.size();
    if (cursor_ < points_.size() && points_[cursor_].t_ns <= t_ns) {
      if (cursor_ + 1 == points_.size() || points_[cursor_ + 1].t_ns > t_ns) {
        return points_[cursor_];
      }
      low = cursor_ + 1;
    }
    while (high - low > 1) {
      const std::size_t middle = low + (high - low) / 2;
      (points_[middle].t_ns <= t_ns ? low : high) = middle;
    }
    cursor_ = low;
    return points_[low];
  }

  double lowpass_ns_;
  double base_j_ = 0.0;
  std::vector<Point> points_;
  mutable std::size_t cursor_ = 0;
};

}  // namespace wattcount::emulator
