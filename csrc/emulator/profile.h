// What is known of the power sensors of a GPU model, and what is guessed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wattcount::emulator {

// A power reading that NVML refreshes on a grid. `samples` above 0: the mean of that many of the driver's samples, which
// are low-passed and which the ring shows too. `samples` 0: the mean of the true power over a window, or its low-pass.
struct PowerSource {
  bool present = true;
  double period_ms = 100.0;
  int samples = 0;
  double window_ms = 25.0;  // 0: the low-passed power at the tick
  double delay_ms = 0.0;    // from the end of the window, or from the sample, to the tick
  double noise_w = 0.3;     // standard deviation of one reading
  double late_share = 0.0;  // while power steps: how late a sample is, as a share of the delay of the ring's sample
  double stray_share = 0.0;  // share of the means that contain one sample more
};

// With the probability `share` a slot of the ring is sampled late, by `from_ms` to `to_ms`. The rest is on time.
struct LateClass {
  double share;
  double from_ms;
  double to_ms;
};

// How long calls block. While the GPU computes, reads of the counter are log-normal around the median `counter_busy_ms`.
struct CallCosts {
  double counter_idle_ms = 0.0;
  double counter_busy_ms = 0.0;
  double ring_ms = 0.0;
  double field_ms = 0.0;
  double counter_busy_sigma = 0.0;  // standard deviation of the logarithm
  double counter_tick_ms = 0.0;     // the least time of a call during which a new value appears
  double counter_most_ms = 1e9;
};

// What NVML says of the board besides power.
struct Facts {
  int sm_clock_mhz = 0;
  int memory_clock_mhz = 0;
  int cores = 0;
  int memory_bus_bits = 0;
  int brand = 14;    // nvmlBrandType_t: NVIDIA
  bool ecc = true;   // supported, and on
  bool mig = false;  // supported, and off
  bool fan = false;
  bool memory_temperature = true;
};

struct Profile {
  std::string name;
  std::string evidence;  // measured, published or guessed
  std::string source;    // where the figures come from
  std::string device_name;
  double memory_gib = 0.0;
  double tdp_w = 0.0;
  double idle_w = 0.0;
  int compute_major = 0;
  int compute_minor = 0;
  int architecture = 0;  // nvmlDeviceArchitecture_t
  PowerSource average;   // field 185
  PowerSource instant;   // field 186
  PowerSource usage;     // nvmlDeviceGetPowerUsage
  double lowpass_ms = 12.0;
  bool counter = true;
  double counter_period_ms = 100.0;
  double counter_publish_ms = 20.0;  // a tick's value appears at most this long after the tick
  double counter_sample_ms = 0.0;    // 0: an ideal integral; else the sum of low-passed power at this period
  double counter_stall_share = 0.0;  // share of the ticks whose value appears a whole period late
  double counter_jitter_ms = 0.0;    // a tick's value counts energy up to at most this long before the tick
  double counter_late_share = 0.0;   // and up to this share of a late sample's delay before it
  bool ring = true;
  double ring_period_ms = 20.0;
  int ring_depth = 120;
  double ring_delay_ms = 4.0;
  double ring_lead_ms = 0.0;  // fields 185 and 186 have a sample this long before its stamp
  // A slot is sampled on the ring's grid or late. Its stamp says when it was sampled. A slot that is late by a period or
  // more is lost: the next sample stands for both. The driver's other work makes slots late: the counter's tick, and what
  // the driver does while power steps (by more than ring_step_w within five slots) or is above ring_over_w.
  std::vector<LateClass> ring_late;              // while the power is steady
  std::vector<LateClass> ring_late_active;       // while it steps
  std::vector<LateClass> ring_late_over;         // above ring_over_w
  std::vector<LateClass> ring_late_active_tick;  // while it steps, in the slot after a tick of the counter
  LateClass ring_late_tick{0.0, 0.0, 0.0};       // at least this late in the slot after a tick of the counter
  double ring_step_w = 1e9;
  double ring_over_w = 1e9;
  double ring_noise_w = 0.3;              // standard deviation of one sample
  double drift_ppm = 20.0;                // the most by which the sensor's clock is fast or slow
  CallCosts costs;
  Facts facts;
};

// nullptr: there is no profile of that name.
const Profile* find_profile(const std::string& name);
const std::vector<Profile>& profiles();

}  // namespace wattcount::emulator
