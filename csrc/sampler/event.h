// One observation of one source, as a record holds it. It has the layout of EVENT_DTYPE and the numbers of
// `Source` in wattcount/energy/events.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace wattcount {

enum class Source : std::uint16_t {
  kEnergyCounter = 0,
  kPowerAverage = 1,
  kPowerInstant = 2,
  kPowerUsage = 3,
  kPowerSamples = 4,
  kTemperatureGpu = 5,
  kTemperatureMemory = 6,
  kClockSm = 7,
  kClockMemory = 8,
  kUtilizationGpu = 9,
  kUtilizationMemory = 10,
  kMemoryUsed = 11,
  kClockEventReasons = 12,
  kPowerLimit = 13,
  kComputeProcesses = 14,
  kRealtime = 15,
};
constexpr std::size_t kSourceCount = 16;
constexpr std::size_t index_of(Source source) { return static_cast<std::size_t>(source); }

constexpr std::array<const char*, kSourceCount> kSourceNames = {
    "energy_counter",     "power_average", "power_instant",    "power_usage",
    "power_samples",      "temperature_gpu", "temperature_memory", "clock_sm",
    "clock_memory",       "utilization_gpu", "utilization_memory", "memory_used",
    "clock_event_reasons", "power_limit",  "compute_processes", "realtime"};

struct Event {
  std::int64_t prev_t0_ns;    // start of the last call that returned the old value; -1: none
  std::int64_t t0_ns;         // start and end of the call that returned this value
  std::int64_t t1_ns;
  std::int64_t source_ts_us;  // the driver's own stamp; -1: the source has none
  std::int64_t value;
  std::int32_t nvml_return;
  std::uint16_t source;
  std::uint16_t gpu;
};

static_assert(sizeof(Event) == 48);
static_assert(offsetof(Event, value) == 32 && offsetof(Event, nvml_return) == 40);
static_assert(offsetof(Event, source) == 44 && offsetof(Event, gpu) == 46);

}  // namespace wattcount
