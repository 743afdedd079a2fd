// The emulated NVML's answers that change: power and energy, temperature, clocks and limits.
// A call takes as long as it does on the GPU that it stands for.
#include <algorithm>
#include <cmath>

#include "emulator/exports.h"

using namespace wattcount;
using namespace wattcount::emulator;

namespace {

bool busy(const Gpu& gpu, std::int64_t t_ns) {
  return gpu.sensors.truth().power_w(t_ns) > 1.3 * gpu.sensors.profile().idle_w;
}

double counter_cost_ms(Device device) {
  const std::lock_guard<std::mutex> lock(mutex);
  Gpu* gpu = ready() ? gpu_of(device) : nullptr;
  if (gpu == nullptr || !gpu->sensors.profile().counter) {
    return 0.0;
  }
  const std::int64_t t_ns = monotonic_ns();
  machine->refresh(*gpu, t_ns);
  return gpu->sensors.counter_call_ms(t_ns, ++gpu->counter_reads, busy(*gpu, t_ns));
}

double cost_ms(Device device, double CallCosts::*which) {
  const std::lock_guard<std::mutex> lock(mutex);
  const Gpu* gpu = ready() ? gpu_of(device) : nullptr;
  return gpu != nullptr ? gpu->sensors.profile().costs.*which : 0.0;
}

Return list(const std::vector<unsigned int>& values, unsigned int* count, unsigned int* out) {
  if (count == nullptr) {
    return nvml::kErrorInvalidArgument;
  }
  const unsigned int room = *count;
  *count = static_cast<unsigned int>(values.size());
  if (out == nullptr || room < values.size()) {
    return nvml::kErrorInsufficientSize;
  }
  std::copy(values.begin(), values.end(), out);
  return nvml::kSuccess;
}

unsigned int to_mw(double power_w) { return static_cast<unsigned int>(std::llround(std::max(0.0, power_w) * 1e3)); }

unsigned int utilization_percent(const Gpu& gpu, std::int64_t t_ns) {
  const Profile& profile = gpu.sensors.profile();
  const double mean_w = gpu.sensors.truth().mean_w(t_ns - 200'000'000, t_ns);
  const double share = (mean_w - 1.3 * profile.idle_w) / (0.5 * profile.tdp_w - 1.3 * profile.idle_w);
  return static_cast<unsigned int>(std::lround(100.0 * std::clamp(share, 0.0, 1.0)));
}

unsigned int temperature_c(const Gpu& gpu, std::int64_t t_ns) {
  const double mean_w = gpu.sensors.truth().mean_w(t_ns - 15'000'000'000, t_ns);
  return static_cast<unsigned int>(std::lround(28.0 + 40.0 * mean_w / gpu.sensors.profile().tdp_w));
}

constexpr int kIdleSmMhz = 345;
constexpr int kSmStepMhz = 15;

unsigned int clock_mhz(const Gpu& gpu, int kind, bool maximum, std::int64_t t_ns) {
  const Facts& facts = gpu.sensors.profile().facts;
  if (kind == nvml::kClockMemory) {
    return static_cast<unsigned int>(facts.memory_clock_mhz);
  }
  const int free_mhz = maximum || busy(gpu, t_ns) ? facts.sm_clock_mhz : kIdleSmMhz;
  const auto most_mhz = static_cast<int>(gpu.settings->locked_max_mhz.load());
  if (maximum || most_mhz == 0) {
    return static_cast<unsigned int>(free_mhz);
  }
  return static_cast<unsigned int>(std::clamp(free_mhz, static_cast<int>(gpu.settings->locked_min_mhz.load()), most_mhz));
}

double least_limit_w(const Gpu& gpu) { return 0.3 * gpu.sensors.profile().tdp_w; }
double most_limit_w(const Gpu& gpu) { return std::max(gpu.sensors.profile().tdp_w, gpu.configured_limit_w); }

void field(nvml::FieldValue& value, Gpu& gpu, std::int64_t t_ns) {
  const Profile& profile = gpu.sensors.profile();
  value.timestamp_us = realtime_ns() / 1000;
  value.latency_us = 0;
  value.nvml_return = nvml::kSuccess;
  value.value_type = nvml::kUnsignedInt;
  value.value.ull = 0;
  constexpr unsigned int kWholeGpu = 0;  // nvmlPowerScopeType_t; power of the module or the memory is not emulated
  if (value.scope_id != kWholeGpu && value.field_id != nvml::kFieldTotalEnergyConsumption) {
    value.nvml_return = nvml::kErrorNotSupported;
    return;
  }
  switch (value.field_id) {
    case nvml::kFieldMemoryTemperature:
      if (profile.facts.memory_temperature) {
        value.value.ui = temperature_c(gpu, t_ns) + 6;
        return;
      }
      break;
    case nvml::kFieldPowerMinLimit:
      value.value.ui = to_mw(least_limit_w(gpu));
      return;
    case nvml::kFieldPowerMaxLimit:
      value.value.ui = to_mw(most_limit_w(gpu));
      return;
    case nvml::kFieldPowerDefaultLimit:
      value.value.ui = to_mw(profile.tdp_w);
      return;
    case nvml::kFieldPowerCurrentLimit:
    case nvml::kFieldPowerRequestedLimit:
      value.value.ui = to_mw(gpu.power_limit_w());
      return;
    case nvml::kFieldTotalEnergyConsumption:
      if (profile.counter) {
        value.value_type = nvml::kUnsignedLongLong;
        value.value.ull = static_cast<unsigned long long>(machine->counter_j(gpu, t_ns) * 1e3);
        return;
      }
      break;
    case nvml::kFieldPowerAverage:
      if (profile.average.present) {
        value.value.ui = to_mw(machine->shown_power_w(gpu, gpu.sensors.average_w(t_ns), t_ns));
        return;
      }
      break;
    case nvml::kFieldPowerInstant:
      if (profile.instant.present) {
        value.value.ui = to_mw(machine->shown_power_w(gpu, gpu.sensors.instant_w(t_ns), t_ns));
        return;
      }
      break;
    default:
      break;
  }
  value.nvml_return = nvml::kErrorNotSupported;
}

}  // namespace

EXPORT Return nvmlDeviceGetPowerUsage(Device device, unsigned int* power_mw) {
  return on_device(device, __func__, cost_ms(device, &CallCosts::field_ms), [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    if (!gpu.sensors.profile().usage.present) {
      return nvml::kErrorNotSupported;
    }
    return put(power_mw, to_mw(machine->shown_power_w(gpu, gpu.sensors.usage_w(t_ns), t_ns)));
  });
}
EXPORT Return nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long* energy_mj) {
  return on_device(device, __func__, counter_cost_ms(device), [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    if (!gpu.sensors.profile().counter) {
      return nvml::kErrorNotSupported;
    }
    return put(energy_mj, static_cast<unsigned long long>(machine->counter_j(gpu, t_ns) * 1e3));
  });
}
EXPORT Return nvmlDeviceGetFieldValues(Device device, int count, nvml::FieldValue* values) {
  if (count < 1 || values == nullptr) {
    return nvml::kErrorInvalidArgument;
  }
  // If the counter is among the fields, all of them take as long as the counter.
  const bool counter = std::any_of(values, values + count, [](const nvml::FieldValue& value) {
    return value.field_id == nvml::kFieldTotalEnergyConsumption;
  });
  const double ms = counter ? counter_cost_ms(device) : cost_ms(device, &CallCosts::field_ms);
  return on_device(device, __func__, ms, [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    for (int i = 0; i < count; ++i) {
      field(values[i], gpu, t_ns);
    }
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceGetSamples(Device device, int type, unsigned long long last_seen_us, int* value_type,
                                   unsigned int* count, nvml::Sample* samples) {
  return on_device(device, __func__, cost_ms(device, &CallCosts::ring_ms), [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    const Profile& profile = gpu.sensors.profile();
    if (type != nvml::kTotalPowerSamples || !profile.ring) {
      return nvml::kErrorNotSupported;
    }
    if (count == nullptr || value_type == nullptr) {
      return nvml::kErrorInvalidArgument;
    }
    *value_type = nvml::kUnsignedInt;
    if (samples == nullptr) {
      *count = static_cast<unsigned int>(profile.ring_depth);
      return nvml::kSuccess;
    }
    const std::int64_t offset_ns = realtime_ns() - monotonic_ns();
    const std::int64_t after_ns = last_seen_us == 0 ? INT64_MIN : static_cast<std::int64_t>(last_seen_us) * 1000 + 999 - offset_ns;
    unsigned int given = 0;
    for (const RingSample& sample : gpu.sensors.ring(t_ns, after_ns)) {
      const auto stamp_us = static_cast<unsigned long long>((sample.stamp_ns + offset_ns) / 1000);
      if (stamp_us <= last_seen_us) {
        continue;
      }
      if (given == *count) {
        break;  // the rest comes with the next call
      }
      samples[given].timestamp_us = stamp_us;
      samples[given].value.ull = 0;
      samples[given].value.ui = to_mw(machine->shown_power_w(gpu, sample.power_w, sample.stamp_ns));
      ++given;
    }
    *count = given;
    return given > 0 ? nvml::kSuccess : nvml::kErrorNotFound;
  });
}

EXPORT Return nvmlDeviceGetTemperature(Device device, int sensor, unsigned int* celsius) {
  return on_device(device, __func__, 0.003, [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    return sensor == nvml::kTemperatureGpu ? put(celsius, temperature_c(gpu, t_ns)) : Return{nvml::kErrorInvalidArgument};
  });
}
EXPORT Return nvmlDeviceGetClockInfo(Device device, int kind, unsigned int* mhz) {
  return on_device(device, __func__, 0.003,
                   [&](Gpu& gpu, std::int64_t t_ns) { return put(mhz, clock_mhz(gpu, kind, false, t_ns)); });
}
EXPORT Return nvmlDeviceGetMaxClockInfo(Device device, int kind, unsigned int* mhz) {
  return on_device(device, __func__, 0.0,
                   [&](Gpu& gpu, std::int64_t t_ns) { return put(mhz, clock_mhz(gpu, kind, true, t_ns)); });
}
EXPORT Return nvmlDeviceGetApplicationsClock(Device device, int kind, unsigned int* mhz) {
  return nvmlDeviceGetMaxClockInfo(device, kind, mhz);
}
EXPORT Return nvmlDeviceGetUtilizationRates(Device device, nvml::Utilization* utilization) {
  return on_device(device, __func__, 0.003, [&](Gpu& gpu, std::int64_t t_ns) {
    const unsigned int percent = utilization_percent(gpu, t_ns);
    return put(utilization, nvml::Utilization{percent, percent / 2});
  });
}
EXPORT Return nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned int* limit_mw) {
  return on_device(device, __func__, 0.003,
                   [&](Gpu& gpu, std::int64_t) { return put(limit_mw, to_mw(gpu.power_limit_w())); });
}
EXPORT Return nvmlDeviceGetPowerManagementLimit(Device device, unsigned int* limit_mw) {
  return nvmlDeviceGetEnforcedPowerLimit(device, limit_mw);
}
EXPORT Return nvmlDeviceGetPowerManagementDefaultLimit(Device device, unsigned int* limit_mw) {
  return constant(device, __func__, limit_mw, [](const Gpu& gpu) { return to_mw(gpu.sensors.profile().tdp_w); });
}
EXPORT Return nvmlDeviceGetPowerManagementLimitConstraints(Device device, unsigned int* least_mw, unsigned int* most_mw) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    const Return code = put(least_mw, to_mw(least_limit_w(gpu)));
    return code != nvml::kSuccess ? code : put(most_mw, to_mw(most_limit_w(gpu)));
  });
}
EXPORT Return nvmlDeviceSetPowerManagementLimit(Device device, unsigned int limit_mw) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (limit_mw < to_mw(least_limit_w(gpu)) || limit_mw > to_mw(most_limit_w(gpu))) {
      return nvml::kErrorInvalidArgument;
    }
    gpu.settings->power_limit_mw.store(limit_mw);
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceSetGpuLockedClocks(Device device, unsigned int least_mhz, unsigned int most_mhz) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (most_mhz == 0 || least_mhz > most_mhz) {
      return nvml::kErrorInvalidArgument;
    }
    gpu.settings->locked_min_mhz.store(least_mhz);
    gpu.settings->locked_max_mhz.store(most_mhz);
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceResetGpuLockedClocks(Device device) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) {
    gpu.settings->locked_min_mhz.store(0);
    gpu.settings->locked_max_mhz.store(0);
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceGetSupportedMemoryClocks(Device device, unsigned int* count, unsigned int* clocks_mhz) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) {
    return list({clock_mhz(gpu, nvml::kClockMemory, true, 0)}, count, clocks_mhz);
  });
}
EXPORT Return nvmlDeviceGetSupportedGraphicsClocks(Device device, unsigned int memory_mhz, unsigned int* count,
                                                   unsigned int* clocks_mhz) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (memory_mhz != clock_mhz(gpu, nvml::kClockMemory, true, 0)) {
      return nvml::kErrorNotFound;
    }
    std::vector<unsigned int> all;
    for (int mhz = gpu.sensors.profile().facts.sm_clock_mhz; mhz >= kIdleSmMhz; mhz -= kSmStepMhz) {
      all.push_back(static_cast<unsigned int>(mhz));
    }
    return list(all, count, clocks_mhz);
  });
}
EXPORT Return nvmlDeviceGetCurrentClocksEventReasons(Device device, unsigned long long* reasons) {
  return on_device(device, __func__, 0.003, [&](Gpu& gpu, std::int64_t t_ns) {
    // 1: GPU idle, 4: software power cap (nvmlClocksEventReason*).
    const bool capped = gpu.sensors.truth().power_w(t_ns) > 0.98 * gpu.power_limit_w();
    return put(reasons, capped ? 4ULL : busy(gpu, t_ns) ? 0ULL : 1ULL);
  });
}
EXPORT Return nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long* reasons) {
  return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}
EXPORT Return nvmlDeviceGetSupportedClocksEventReasons(Device, unsigned long long* reasons) { return put(reasons, 0xFFULL); }
EXPORT Return nvmlDeviceGetPerformanceState(Device device, unsigned int* state) {
  return on_device(device, __func__, 0.003,
                   [&](Gpu& gpu, std::int64_t t_ns) { return put(state, busy(gpu, t_ns) ? 0U : 8U); });
}

EXPORT Return nvmlDeviceGetFanSpeed(Device device, unsigned int* percent) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    return gpu.sensors.profile().facts.fan ? put(percent, busy(gpu, t_ns) ? 60U : 30U) : Return{nvml::kErrorNotSupported};
  });
}

EXPORT Return nvmlDeviceGetTemperatureThreshold(Device device, int threshold, unsigned int* celsius) {
  return on_device(device, __func__, 0.0, [&](Gpu&, std::int64_t) -> Return {
    switch (threshold) {
      case 0:  // shutdown
        return put(celsius, 92U);
      case 1:  // slowdown
        return put(celsius, 89U);
      case 3:  // GPU maximum
        return put(celsius, 87U);
      default:
        return nvml::kErrorNotSupported;
    }
  });
}

EXPORT Return nvmlDeviceGetClock(Device device, int kind, int id, unsigned int* mhz) {
  return id == 0 ? nvmlDeviceGetClockInfo(device, kind, mhz) : nvmlDeviceGetMaxClockInfo(device, kind, mhz);
}
