// What is known of the power sensors of a GPU model, and what is guessed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wattcount::emulator {

// A power reading that NVML refreshes on a grid. With `samples`, the mean of that many of the driver's own samples
// (those of the ring, low-passed); without, the mean of the true power over a window, or its low-pass.
struct PowerSource {
  bool present = true;
  double period_ms = 100.0;
  int samples = 0;
  double window_ms = 25.0;  // 0: the low-passed power at the tick
  double delay_ms = 0.0;    // the window ends, or the sample looks, this long before
  double noise_w = 0.3;     // standard deviation of one reading
  double late_share = 0.0;  // of the delay of the ring's sample by which such a sample is late, too, while power steps
  double stray_share = 0.0;  // of the means that hold one sample more
};

// A choice of how late a slot of the ring is sampled; the rest of the probability is on time.
struct LateClass {
  double share;
  double from_ms;
  double to_ms;
};

// How long calls block. The counter's are log-normal around a median while the GPU computes.
struct CallCosts {
  double counter_idle_ms = 0.0;
  double counter_busy_ms = 0.0;
  double ring_ms = 0.0;
  double field_ms = 0.0;
  double counter_busy_sigma = 0.0;  // of the logarithm
  double counter_tick_ms = 0.0;     // at least this where a new value comes up during the call
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
  double counter_publish_ms = 20.0;  // a tick shows up to this long after it
  double counter_sample_ms = 0.0;    // 0: ideal integrator; else it sums low-passed power at this period
  double counter_stall_share = 0.0;  // of the ticks whose value comes a whole period late
  double counter_jitter_ms = 0.0;    // a tick counts up to at most this long before itself
  double counter_late_share = 0.0;   // of a late sample's delay, by which a tick counts less than up to itself
  bool ring = true;
  double ring_period_ms = 20.0;
  int ring_depth = 120;
  double ring_delay_ms = 4.0;
  double ring_lead_ms = 0.0;  // fields 185 and 186 have a sample this long before its stamp
  // Slots are sampled on their grid or late, and stamped when they were sampled. One that is later than a period
  // is lost: the next slot's sample stands for both. What makes them late is the driver's other work: the counter's
  // tick, and whatever it does while power steps (by more than ring_step_w within five slots) or goes over a limit.
  std::vector<LateClass> ring_late;              // while the power is steady
  std::vector<LateClass> ring_late_active;       // while it steps
  std::vector<LateClass> ring_late_over;         // above ring_over_w
  std::vector<LateClass> ring_late_active_tick;  // while it steps, in the slot after a tick of the counter
  LateClass ring_late_tick{0.0, 0.0, 0.0};       // at least this late in the slot after a tick of the counter
  double ring_step_w = 1e9;
  double ring_over_w = 1e9;
  double ring_noise_w = 0.3;              // standard deviation of one sample
  double drift_ppm = 20.0;                // of the sensor's clock, up to this, either way
  CallCosts costs;
  Facts facts;
};

// nullptr where there is none of that name.
const Profile* find_profile(const std::string& name);
const std::vector<Profile>& profiles();

}  // namespace wattcount::emulator
