#include "emulator/sensor.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace wattcount::emulator {
namespace {

constexpr std::uint64_t kStreamCounterDelay = 10;
constexpr std::uint64_t kStreamCounterStall = 11;
constexpr std::uint64_t kStreamRingNoise = 12;
constexpr std::uint64_t kStreamRingLate = 13;
constexpr std::uint64_t kStreamBoard = 14;
constexpr std::uint64_t kStreamRingLateAmount = 15;
constexpr std::uint64_t kStreamCounterJitter = 16;
constexpr std::uint64_t kStreamCounterCall = 17;
constexpr std::uint64_t kStreamStray = 20;  // + the source's stream

std::uint64_t mix(std::uint64_t x) {  // the finaliser of SplitMix64
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

constexpr std::int64_t kBeforeNs = 10'000'000'000;  // [ns] that the GPU idles before its curve begins

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
  slots_.resize(static_cast<std::size_t>(profile_.ring_depth) + 64);
  ring_phase_ns_ = board_.ring_phase.value_or(uniform(kStreamBoard, 3)) * ms_to_ns(profile_.ring_period_ms);
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

double Sensors::shown_w(double true_w, double noise_w, std::uint64_t stream, std::int64_t tick) const {
  const double noise = noise_w > 0.0 ? noise_w * normal(stream, tick) : 0.0;
  return std::max(0.001, board_.gain * true_w + board_.offset_w + noise);
}

double Sensors::power_w(const PowerSource& source, std::uint64_t stream, Shown& shown, std::int64_t t_ns) const {
  const double period_ns = ms_to_ns(source.period_ms) * stretch_;
  const std::int64_t tick = floor_tick(t_ns, power_phase_ns_, period_ns);
  if (shown.tick != tick) {
    const std::int64_t at_ns = tick_ns(tick, power_phase_ns_, period_ns);
    const std::int64_t end_ns = at_ns - std::llround(ms_to_ns(source.delay_ms));
    const std::int64_t window_ns = std::llround(ms_to_ns(source.window_ms));
    const double true_w = source.samples > 0 ? mean_of_samples_w(source, stream, tick, at_ns)
                          : window_ns > 0    ? truth_.mean_w(end_ns - window_ns, end_ns)
                                             : truth_.lowpass_w(end_ns);
    shown = {tick, shown_w(true_w, source.noise_w, stream, tick)};
  }
  return shown.power_w;
}

// The sensor samples on the ring's grid, and with less delay than the ring.
double Sensors::mean_of_samples_w(const PowerSource& source, std::uint64_t stream, std::int64_t tick,
                                  std::int64_t t_ns) const {
  const std::int64_t until_ns = t_ns + std::llround(ms_to_ns(profile_.ring_lead_ms));
  const std::int64_t newest = floor_tick(until_ns, ring_phase_ns_, ring_period_ns());
  const std::int64_t delay_ns = std::llround(ms_to_ns(source.delay_ms));
  int count = source.samples;
  if (count > 1 && uniform(kStreamStray + stream, tick) < source.stray_share) {
    ++count;
  }
  double sum_w = 0.0;
  for (int back = 0; back < count; ++back) {
    const Slot& each = slot(newest - back);
    const std::int64_t slot_ns = each.stamp_ns - std::llround(each.late_ns);
    const std::int64_t late_ns = each.active ? std::llround(source.late_share * each.late_ns) : 0;
    sum_w += truth_.lowpass_w(std::min(slot_ns + late_ns - delay_ns, t_ns));
  }
  return sum_w / count;
}

std::int64_t Sensors::counter_published_ns(std::int64_t tick) const {
  const double period_ns = ms_to_ns(profile_.counter_period_ms) * stretch_;
  const double stalled = uniform(kStreamCounterStall, tick) < profile_.counter_stall_share ? period_ns : 0.0;
  const double late = uniform(kStreamCounterDelay, tick) * ms_to_ns(profile_.counter_publish_ms) + stalled;
  return tick_ns(tick, counter_phase_ns_, period_ns) + std::llround(late);
}

double Sensors::counter_call_ms(std::int64_t t_ns, std::uint64_t number, bool busy) const {
  const CallCosts& costs = profile_.costs;
  if (!busy) {
    return costs.counter_idle_ms;
  }
  const double spread = std::exp(costs.counter_busy_sigma * normal(kStreamCounterCall, static_cast<std::int64_t>(number)));
  double ms = std::min(costs.counter_busy_ms * spread, costs.counter_most_ms);
  const auto end_ns = t_ns + std::llround(ms_to_ns(ms));
  const std::int64_t last = floor_tick(t_ns, counter_phase_ns_, ms_to_ns(profile_.counter_period_ms) * stretch_);
  for (std::int64_t tick = last; tick <= last + 1; ++tick) {
    const std::int64_t published_ns = counter_published_ns(tick);
    if (published_ns > t_ns && published_ns <= end_ns) {
      ms = std::max(ms, costs.counter_tick_ms);
    }
  }
  return ms;
}

double Sensors::counter_j(std::int64_t t_ns) const {
  const double period_ns = ms_to_ns(profile_.counter_period_ms) * stretch_;
  std::int64_t tick = floor_tick(t_ns, counter_phase_ns_, period_ns);
  while (counter_published_ns(tick) > t_ns) {
    --tick;
  }
  std::int64_t at_ns = tick_ns(tick, counter_phase_ns_, period_ns);
  at_ns -= std::llround(ms_to_ns(profile_.counter_jitter_ms) * uniform(kStreamCounterJitter, tick));
  if (profile_.counter_late_share > 0.0) {
    const Slot& last = slot(floor_tick(at_ns, ring_phase_ns_, ring_period_ns()));
    at_ns -= last.active ? std::llround(profile_.counter_late_share * last.late_ns) : 0;
  }
  const double energy_j = profile_.counter_sample_ms > 0.0 ? sampled_energy_j(at_ns) : truth_.energy_j(at_ns);
  const double elapsed_s = static_cast<double>(at_ns - truth_.first_ns()) * 1e-9;
  return board_.gain * energy_j + board_.offset_w * elapsed_s;
}

// The sum of samples of the low-passed power, each times one period. Such a sum aliases fast loads.
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

// How late the driver samples a slot. A slot that is late by a period or more is not sampled.
Sensors::Delay Sensors::delay_of(std::int64_t number) const {
  constexpr int kBack = 5;
  const double period_ns = ring_period_ns();
  const std::int64_t slot_ns = tick_ns(number, ring_phase_ns_, period_ns);
  double power_w[kBack + 1];
  for (int back = 0; back <= kBack; ++back) {
    power_w[back] = truth_.lowpass_w(slot_ns - std::llround(back * period_ns + ms_to_ns(profile_.ring_delay_ms)));
  }
  const auto [least, most] = std::minmax_element(std::begin(power_w), std::end(power_w));
  const bool active = *most - *least > profile_.ring_step_w;
  const bool over = std::max(power_w[0], power_w[1]) > profile_.ring_over_w;
  const double counter_period_ns = ms_to_ns(profile_.counter_period_ms) * stretch_;
  const bool after_tick =
      profile_.counter && tick_ns(floor_tick(slot_ns, counter_phase_ns_, counter_period_ns), counter_phase_ns_, counter_period_ns) >
                              slot_ns - std::llround(period_ns);
  const auto& classes = active && after_tick ? profile_.ring_late_active_tick
                        : over               ? profile_.ring_late_over
                        : active             ? profile_.ring_late_active
                                             : profile_.ring_late;
  const double amount = uniform(kStreamRingLateAmount, number);
  const LateClass& tick = profile_.ring_late_tick;
  double late_ns = after_tick ? ms_to_ns(tick.from_ms + (tick.to_ms - tick.from_ms) * amount) : 0.0;
  double choice = uniform(kStreamRingLate, number);
  for (const LateClass& each : classes) {
    if (choice < each.share) {
      late_ns = std::max(late_ns, ms_to_ns(each.from_ms + (each.to_ms - each.from_ms) * amount));
      break;
    }
    choice -= each.share;
  }
  return {late_ns, active || over};
}

const Sensors::Slot& Sensors::slot(std::int64_t number) const {
  const auto size = static_cast<std::int64_t>(slots_.size());
  Slot& kept = slots_[static_cast<std::size_t>(((number % size) + size) % size)];
  if (kept.number != number) {
    const Delay own = delay_of(number);
    // A slot before it that took longer than a period delays this one too.
    kept.late_ns = std::max(own.late_ns, delay_of(number - 1).late_ns - ring_period_ns());
    kept.stamp_ns = tick_ns(number, ring_phase_ns_, ring_period_ns()) + std::llround(kept.late_ns);
    kept.lost = own.late_ns >= ring_period_ns();
    kept.active = own.active;
    kept.number = number;
  }
  return kept;
}

RingSample Sensors::ring_sample(const Slot& taken) const {
  const double true_w = truth_.lowpass_w(taken.stamp_ns - std::llround(ms_to_ns(profile_.ring_delay_ms)));
  return {taken.number, taken.stamp_ns, shown_w(true_w, profile_.ring_noise_w, kStreamRingNoise, taken.number)};
}

std::vector<RingSample> Sensors::ring(std::int64_t t_ns, std::int64_t after_ns) const {
  std::vector<RingSample> samples;
  std::int64_t number = floor_tick(t_ns, ring_phase_ns_, ring_period_ns());
  for (; static_cast<int>(samples.size()) < profile_.ring_depth; --number) {
    // A late sample still comes before the time of the next slot. So no older slot has a stamp above `after_ns`.
    if (tick_ns(number + 1, ring_phase_ns_, ring_period_ns()) <= after_ns ||
        tick_ns(number, ring_phase_ns_, ring_period_ns()) < truth_.first_ns() - kBeforeNs) {
      break;
    }
    const Slot& each = slot(number);
    if (!each.lost && each.stamp_ns <= t_ns && each.stamp_ns > after_ns) {
      samples.push_back(ring_sample(each));
    }
  }
  std::reverse(samples.begin(), samples.end());
  return samples;
}

std::vector<RingSample> Sensors::samples(std::int64_t start_ns, std::int64_t end_ns) const {
  std::vector<RingSample> samples;
  std::int64_t number = floor_tick(start_ns, ring_phase_ns_, ring_period_ns());
  for (; tick_ns(number, ring_phase_ns_, ring_period_ns()) < end_ns; ++number) {
    const Slot& each = slot(number);
    if (!each.lost && each.stamp_ns >= start_ns && each.stamp_ns < end_ns) {
      samples.push_back(ring_sample(each));
    }
  }
  return samples;
}

}  // namespace wattcount::emulator
