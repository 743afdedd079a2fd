// An emulated machine: GPUs with their sensors, and the faults that they have. A JSON file describes it.
//
//   {"gpus": [{"name", "uuid", "profile", "truth": "curve.csv" | "live:FILE",
//              optional: "seed", "gain", "offset_w", "counter_phase", "power_phase", "ring_phase",
//              "memory_gib", "power_limit_w", "processes": [pid, ...]}],
//    optional: "epoch_ns", "driver_version", "init_error" (what nvmlInit returns), "faults": [{"kind", "gpu", "function", "code", "ms",
//              "from_s", "until_s", "from_call", "until_call"}]}
//
// Fault kinds: error (needs code), missing (the function answers that it is not there), slow (needs ms),
// zero_power, counter_reset, counter_freeze, gpu_lost. Times are seconds since t=0 of the curves. Calls are
// counted from 1, for each function and GPU. A fault without `from_...` holds from the start, one without `until_...` to the end.
//
// `FILE.settings` beside the configuration keeps the power limit and the locked clocks that a client sets. NVML reports
// them. They do not change the true power, which the curve gives.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "emulator/config.h"
#include "emulator/live_truth.h"
#include "emulator/sensor.h"
#include "emulator/settings.h"

namespace wattcount::emulator {

enum class FaultKind { kError, kMissing, kSlow, kZeroPower, kCounterReset, kCounterFreeze, kGpuLost };

struct Fault {
  FaultKind kind = FaultKind::kError;
  std::optional<std::size_t> gpu;  // none: all
  std::string function;            // empty: all
  int code = 0;
  double ms = 0.0;
  double from_s = -1e300;
  double until_s = 1e300;
  std::uint64_t from_call = 0;
  std::uint64_t until_call = UINT64_MAX;
};

class Gpu {
 public:
  Gpu(const Profile& profile, const Board& board) : sensors(profile, board) {}

  std::size_t index = 0;
  std::string name;
  std::string uuid;
  double memory_gib = 0.0;
  double configured_limit_w = 0.0;
  Settings* settings = nullptr;  // belongs to the machine
  std::vector<unsigned int> processes;
  std::map<std::string, std::uint64_t> calls;
  std::uint64_t counter_reads = 0;
  Sensors sensors;
  std::optional<LiveReader> live;

  std::string bus_id() const {
    char text[32];
    std::snprintf(text, sizeof text, "00000000:%02X:00.0", static_cast<unsigned int>(index + 1));
    return text;
  }
  double power_limit_w() const {
    const std::uint32_t set_mw = settings->power_limit_mw.load();
    return set_mw != 0 ? set_mw * 1e-3 : configured_limit_w;
  }
};

class Machine {
 public:
  // Throws std::runtime_error, which says what is wrong and where. `now_ns`: CLOCK_MONOTONIC.
  Machine(const std::string& config_path, std::int64_t now_ns);

  std::vector<std::unique_ptr<Gpu>>& gpus() { return gpus_; }
  const std::string& driver_version() const { return driver_version_; }
  std::int64_t epoch_ns() const { return epoch_ns_; }
  int init_error() const { return init_error_; }

  // The effect of the faults on a call: the code that it returns (0: none of them sets one), and how much longer it takes.
  struct Verdict {
    int code = 0;
    double slow_ms = 0.0;
  };
  Verdict call(Gpu& gpu, const std::string& function, std::int64_t now_ns);
  // Reads the points that a live truth has gained.
  void refresh(Gpu& gpu, std::int64_t now_ns);
  // Readings that faults of their own kind change.
  double shown_power_w(const Gpu& gpu, double power_w, std::int64_t now_ns) const;
  double counter_j(const Gpu& gpu, std::int64_t now_ns) const;

 private:
  void read_gpu(const Section& section, const std::string& folder);
  void read_fault(const Section& section);
  bool active(const Fault& fault, const Gpu& gpu, std::int64_t now_ns) const;

  std::vector<std::unique_ptr<Gpu>> gpus_;
  std::unique_ptr<SettingsFile> settings_;
  std::vector<Fault> faults_;
  std::string driver_version_ = "580.159.04";
  std::int64_t epoch_ns_ = 0;
  int init_error_ = 0;
};

// The points of a `t_s,power_w` file. Throws std::runtime_error, which names the line.
std::vector<std::pair<double, double>> read_curve(const std::string& path);

}  // namespace wattcount::emulator
