#include "emulator/sensor.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace wattcount::emulator {
namespace {

constexpr std::uint64_t kStreamCounterDelay = 10;
constexpr std::uint64_t kStreamCounterStall = 11;
constexpr std::uint64_t kStreamRingNoise = 12;
constexpr std::uint64_t kStreamRingLost = 13;
constexpr std::uint64_t kStreamBoard = 14;

std::uint64_t mix(std::uint64_t x) {  // the finaliser of SplitMix64
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

constexpr std::int64_t kBeforeNs = 10'000'000'000;  // the GPU idled this long before its curve begins

double ms_to_ns(double ms) { return ms * 1e6; }

std::int64_t floor_tick(std::int64_t t_ns, double phase_ns, double period_ns) {
  return static_cast<std::int64_t>(std::floor((static_cast<double>(t_ns) - phase_ns) / period_ns));
}

std::int64_t tick_ns(std::int64_t tick, double phase_ns, double period_ns) {
  return std::llround(phase_ns + static_cast<double>(tick) * period_ns);
}

}  // namespace

Sensors::Sensors(const Profile& profile, const Board& board)
    : profile_(profile), board_(board), truth_(ms_to_ns(profile.lowpass_ms)) {
  stretch_ = 1.0 + profile_.drift_ppm * 1e-6 * (2.0 * uniform(kStreamBoard, 0) - 1.0);
  const double longest_ms = std::max({profile_.average.period_ms, profile_.instant.period_ms, profile_.usage.period_ms});
  counter_phase_ns_ = board_.counter_phase.value_or(uniform(kStreamBoard, 1)) * ms_to_ns(profile_.counter_period_ms);
  power_phase_ns_ = board_.power_phase.value_or(uniform(kStreamBoard, 2)) * ms_to_ns(longest_ms);
  ring_phase_ns_ = board_.ring_phase.value_or(uniform(kStreamBoard, 3)) * ms_to_ns(profile_.ring_period_ms);
  ring_late_ns_ = uniform(kStreamBoard, 4) * ms_to_ns(profile_.ring_late_ms);
}

double Sensors::uniform(std::uint64_t stream, std::int64_t tick) const {
  const std::uint64_t bits = mix(mix(board_.seed ^ mix(stream)) ^ static_cast<std::uint64_t>(tick));
  return static_cast<double>(bits >> 11U) * 0x1.0p-53;
}

double Sensors::normal(std::uint64_t stream, std::int64_t tick) const {  // Box-Muller
  const double u = std::max(uniform(stream, tick), 1e-300);
  const double v = uniform(stream + 100, tick);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

double Sensors::shown_w(double true_w, std::uint64_t stream, std::int64_t tick) const {
  const double noise = profile_.noise_w > 0.0 ? profile_.noise_w * normal(stream, tick) : 0.0;
  return std::max(0.001, board_.gain * true_w + board_.offset_w + noise);
}

double Sensors::power_w(const PowerSource& source, std::uint64_t stream, std::int64_t t_ns) const {
  const double period_ns = ms_to_ns(source.period_ms) * stretch_;
  const std::int64_t tick = floor_tick(t_ns, power_phase_ns_, period_ns);
  const std::int64_t end_ns = tick_ns(tick, power_phase_ns_, period_ns) - std::llround(ms_to_ns(source.delay_ms));
  const std::int64_t window_ns = std::llround(ms_to_ns(source.window_ms));
  const double true_w = window_ns > 0 ? truth_.mean_w(end_ns - window_ns, end_ns) : truth_.lowpass_w(end_ns);
  return shown_w(true_w, stream, tick);
}

double Sensors::counter_j(std::int64_t t_ns) const {
  const double period_ns = ms_to_ns(profile_.counter_period_ms) * stretch_;
  std::int64_t tick = floor_tick(t_ns, counter_phase_ns_, period_ns);
  const auto published_ns = [&](std::int64_t k) {
    const double stalled = uniform(kStreamCounterStall, k) < profile_.counter_stall_share ? period_ns : 0.0;
    const double late = uniform(kStreamCounterDelay, k) * ms_to_ns(profile_.counter_publish_ms) + stalled;
    return tick_ns(k, counter_phase_ns_, period_ns) + std::llround(late);
  };
  while (published_ns(tick) > t_ns) {
    --tick;
  }
  const std::int64_t at_ns = tick_ns(tick, counter_phase_ns_, period_ns);
  const double energy_j = profile_.counter_sample_ms > 0.0 ? sampled_energy_j(at_ns) : truth_.energy_j(at_ns);
  const double elapsed_s = static_cast<double>(at_ns - truth_.first_ns()) * 1e-9;
  return board_.gain * energy_j + board_.offset_w * elapsed_s;
}

// The sum of samples of the low-passed power, each standing for one period: it aliases, as such a sum does.
double Sensors::sampled_energy_j(std::int64_t t_ns) const {
  const std::int64_t step_ns = std::llround(ms_to_ns(profile_.counter_sample_ms));
  const std::int64_t steps = (t_ns - truth_.first_ns()) / step_ns;
  if (steps < summed_steps_) {
    summed_steps_ = 0;
    summed_j_ = 0.0;
  }
  for (; summed_steps_ < steps; ++summed_steps_) {
    summed_j_ += truth_.lowpass_w(truth_.first_ns() + summed_steps_ * step_ns) * static_cast<double>(step_ns) * 1e-9;
  }
  return summed_j_;
}

std::vector<RingSample> Sensors::ring(std::int64_t t_ns, std::int64_t after_ns) const {
  std::vector<RingSample> samples;
  const double period_ns = ms_to_ns(profile_.ring_period_ms) * stretch_;
  const std::int64_t delay_ns = std::llround(ms_to_ns(profile_.ring_delay_ms));
  std::int64_t tick = floor_tick(t_ns - std::llround(ring_late_ns_), ring_phase_ns_, period_ns);
  const std::int64_t half_ns = std::llround(period_ns / 2);
  while (static_cast<int>(samples.size()) < profile_.ring_depth) {
    const std::int64_t at_ns = tick_ns(tick, ring_phase_ns_, period_ns);
    const std::int64_t stamp_ns = at_ns + std::llround(ring_late_ns_);
    if (stamp_ns <= after_ns || at_ns < truth_.first_ns() - kBeforeNs) {
      break;
    }
    const double change_w = std::abs(truth_.lowpass_w(at_ns) - truth_.lowpass_w(at_ns - 2 * half_ns));
    const bool lost = change_w > profile_.ring_step_w && uniform(kStreamRingLost, tick) < profile_.ring_lost_on_step;
    if (!lost) {
      samples.push_back({stamp_ns, stamp_ns, shown_w(truth_.lowpass_w(at_ns - delay_ns), kStreamRingNoise, tick)});
    }
    --tick;
  }
  std::reverse(samples.begin(), samples.end());
  return samples;
}

}  // namespace wattcount::emulator
