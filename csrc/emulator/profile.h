// What is known of the power sensors of a GPU model, and what is guessed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wattcount::emulator {

// A power reading that NVML refreshes on a grid: the mean of the true power over a window, or its low-pass.
struct PowerSource {
  bool present = true;
  double period_ms = 100.0;
  double window_ms = 25.0;  // 0: the low-passed power at the tick
  double delay_ms = 0.0;    // the window ends this long before the tick
};

struct CallCosts {
  double counter_idle_ms = 0.0;
  double counter_busy_ms = 0.0;
  double ring_ms = 0.0;
  double field_ms = 0.0;
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
  bool ring = true;
  double ring_period_ms = 20.0;
  int ring_depth = 120;
  double ring_delay_ms = 4.0;
  double ring_late_ms = 20.0;       // stamps are late by a constant up to this
  double ring_lost_on_step = 0.05;  // share of slots lost while the power steps
  double ring_step_w = 20.0;        // what counts as a step within a slot
  double noise_w = 0.3;             // standard deviation of one power reading
  double drift_ppm = 20.0;          // of the sensor's clock, up to this, either way
  CallCosts costs;
};

// nullptr where there is none of that name.
const Profile* find_profile(const std::string& name);
const std::vector<Profile>& profiles();

}  // namespace wattcount::emulator
