// The emulated libnvidia-ml.so.1: NVML's own symbols over a Machine.
//
// Configured by $WATTCOUNT_NVML_EMULATOR. A call takes as long as it does on the GPU it stands for.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "emulator/machine.h"
#include "nvml/abi.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace wattcount::emulator;
namespace nvml = wattcount::nvml;
using nvml::Device;
using nvml::Return;

std::mutex mutex;
std::unique_ptr<Machine> machine;
std::string machine_path;
unsigned int initialised = 0;

std::int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::int64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }

void spend(double ms) {
  if (ms > 0.0) {
    const auto ns = static_cast<std::int64_t>(ms * 1e6);
    timespec wait{ns / 1'000'000'000, ns % 1'000'000'000};
    nanosleep(&wait, nullptr);
  }
}

// What there is to ask, between nvmlInit and the last nvmlShutdown.
bool ready() { return machine != nullptr && initialised > 0; }

Gpu* gpu_of(Device device) {
  for (auto& gpu : machine->gpus()) {
    if (reinterpret_cast<Device>(gpu.get()) == device) {
      return gpu.get();
    }
  }
  return nullptr;
}

bool busy(const Gpu& gpu, std::int64_t t_ns) {
  return gpu.sensors.truth().power_w(t_ns) > 1.3 * gpu.sensors.profile().idle_w;
}

// Runs `body(gpu, now)` for a device under the lock, with the faults that are due, and spends the call's time.
template <typename Body>
Return on_device(Device device, const char* function, double cost_ms, Body body) {
  double wait_ms = cost_ms;
  Return code = nvml::kErrorUninitialized;
  std::int64_t started_ns = now_ns();
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!ready()) {
      return code;
    }
    Gpu* gpu = gpu_of(device);
    if (gpu == nullptr) {
      return nvml::kErrorInvalidArgument;
    }
    const Machine::Verdict verdict = machine->call(*gpu, function, started_ns);
    wait_ms += verdict.slow_ms;
    code = verdict.code;
  }
  spend(wait_ms);
  if (code != nvml::kSuccess) {
    return code;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  Gpu* gpu = ready() ? gpu_of(device) : nullptr;
  if (gpu == nullptr) {
    return nvml::kErrorUninitialized;
  }
  const std::int64_t t_ns = now_ns();
  machine->refresh(*gpu, t_ns);
  return body(*gpu, t_ns);
}

double counter_cost_ms(Device device) {
  const std::lock_guard<std::mutex> lock(mutex);
  Gpu* gpu = ready() ? gpu_of(device) : nullptr;
  if (gpu == nullptr || !gpu->sensors.profile().counter) {
    return 0.0;
  }
  const std::int64_t t_ns = now_ns();
  machine->refresh(*gpu, t_ns);
  return gpu->sensors.counter_call_ms(t_ns, ++gpu->counter_reads, busy(*gpu, t_ns));
}

double cost_ms(Device device, double CallCosts::*which) {
  const std::lock_guard<std::mutex> lock(mutex);
  const Gpu* gpu = ready() ? gpu_of(device) : nullptr;
  return gpu != nullptr ? gpu->sensors.profile().costs.*which : 0.0;
}

Return put(const std::string& text, char* buffer, unsigned int length) {
  if (buffer == nullptr) {
    return nvml::kErrorInvalidArgument;
  }
  if (text.size() + 1 > length) {
    return nvml::kErrorInsufficientSize;
  }
  std::memcpy(buffer, text.c_str(), text.size() + 1);
  return nvml::kSuccess;
}

template <typename T>
Return put(T* out, T value) {
  if (out == nullptr) {
    return nvml::kErrorInvalidArgument;
  }
  *out = value;
  return nvml::kSuccess;
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

unsigned long long memory_bytes(const Gpu& gpu) {
  return static_cast<unsigned long long>(gpu.memory_gib * 1073741824.0);
}

void field(nvml::FieldValue& value, Gpu& gpu, std::int64_t t_ns) {
  const Profile& profile = gpu.sensors.profile();
  value.timestamp_us = clock_ns(CLOCK_REALTIME) / 1000;
  value.latency_us = 0;
  value.nvml_return = nvml::kSuccess;
  value.value_type = nvml::kUnsignedInt;
  value.value.ull = 0;
  constexpr unsigned int kWholeGpu = 0;  // nvmlPowerScopeType_t; no module, no memory power here
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

Return init() {
  const std::lock_guard<std::mutex> lock(mutex);
  const char* path = std::getenv("WATTCOUNT_NVML_EMULATOR");
  const std::string asked = path != nullptr ? path : "";
  // A sweep goes from machine to machine in one process, and dlclose does not unload a C++ library.
  const bool another = initialised == 0 && !asked.empty() && asked != machine_path;
  if (machine == nullptr || another) {
    if (asked.empty()) {
      std::fputs("wattcount's emulated NVML: WATTCOUNT_NVML_EMULATOR names no configuration file\n", stderr);
      return nvml::kErrorDriverNotLoaded;
    }
    try {
      machine = std::make_unique<Machine>(asked, now_ns());
      machine_path = asked;
      if (const Return code = machine->init_error(); code != nvml::kSuccess) {
        machine.reset();
        return code;
      }
    } catch (const std::exception& error) {
      std::fprintf(stderr, "wattcount's emulated NVML: %s\n", error.what());
      return nvml::kErrorUnknown;
    }
  }
  ++initialised;
  return nvml::kSuccess;
}

Return on_machine() { return ready() ? nvml::kSuccess : nvml::kErrorUninitialized; }

}  // namespace

EXPORT const char* wattcount_nvml_emulator_version() { return WATTCOUNT_VERSION; }

EXPORT Return nvmlInit_v2() { return init(); }
EXPORT Return nvmlInit() { return init(); }
EXPORT Return nvmlInitWithFlags(unsigned int) { return init(); }

EXPORT Return nvmlShutdown() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (initialised == 0) {
    return nvml::kErrorUninitialized;
  }
  // The machine stays: a GPU's counters and grids do not start anew when a client leaves.
  --initialised;
  return nvml::kSuccess;
}

EXPORT const char* nvmlErrorString(Return code) {
  static constexpr const char* kTexts[] = {
      "Success",
      "Uninitialized",
      "Invalid Argument",
      "Not Supported",
      "Insufficient Permissions",
      "Already Initialized",
      "Not Found",
      "Insufficient Size",
      "Insufficient External Power",
      "Driver Not Loaded",
      "Timeout",
      "Interrupt Request Issue",
      "NVML Shared Library Not Found",
      "Function Not Found",
      "Corrupted infoROM",
      "GPU is lost",
      "GPU requires reset",
      "The operating system has blocked the request",
      "Driver/library version mismatch",
      "In use by another client",
      "Insufficient Memory",
      "No data",
      "vGPU ECC is not supported",
      "Insufficient Resources",
      "Requested frequency is not supported",
      "Argument version mismatch",
      "The requested functionality has been deprecated",
      "The system is not ready",
      "GPU not found",
      "Resource not in proper state",
      "Reset type not supported",
  };
  const auto index = static_cast<std::size_t>(code);
  return code >= 0 && index < std::size(kTexts) ? kTexts[index] : "Unknown Error";
}

EXPORT Return nvmlSystemGetDriverVersion(char* version, unsigned int length) {
  const std::lock_guard<std::mutex> lock(mutex);
  return ready() ? put(machine->driver_version(), version, length) : on_machine();
}
EXPORT Return nvmlSystemGetNVMLVersion(char* version, unsigned int length) {
  const std::lock_guard<std::mutex> lock(mutex);
  return ready() ? put("13." + machine->driver_version(), version, length) : on_machine();
}
EXPORT Return nvmlSystemGetCudaDriverVersion_v2(int* version) { return put(version, 13000); }
EXPORT Return nvmlSystemGetCudaDriverVersion(int* version) { return put(version, 13000); }

EXPORT Return nvmlSystemGetProcessName(unsigned int, char* name, unsigned int length) {
  return put("process", name, length);
}

EXPORT Return nvmlDeviceGetCount_v2(unsigned int* count) {
  const std::lock_guard<std::mutex> lock(mutex);
  return ready() ? put(count, static_cast<unsigned int>(machine->gpus().size())) : on_machine();
}
EXPORT Return nvmlDeviceGetCount(unsigned int* count) { return nvmlDeviceGetCount_v2(count); }

EXPORT Return nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device* device) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!ready()) {
    return nvml::kErrorUninitialized;
  }
  if (index >= machine->gpus().size()) {
    return nvml::kErrorInvalidArgument;
  }
  return put(device, reinterpret_cast<Device>(machine->gpus()[index].get()));
}
EXPORT Return nvmlDeviceGetHandleByIndex(unsigned int index, Device* device) {
  return nvmlDeviceGetHandleByIndex_v2(index, device);
}

EXPORT Return nvmlDeviceGetHandleByUUID(const char* uuid, Device* device) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!ready()) {
    return nvml::kErrorUninitialized;
  }
  for (auto& gpu : machine->gpus()) {
    if (uuid != nullptr && gpu->uuid == uuid) {
      return put(device, reinterpret_cast<Device>(gpu.get()));
    }
  }
  return nvml::kErrorNotFound;
}

namespace {
std::string bus_id(const Gpu& gpu) {
  char text[32];
  std::snprintf(text, sizeof text, "00000000:%02X:00.0", static_cast<unsigned int>(gpu.index + 1));
  return text;
}
}  // namespace

EXPORT Return nvmlDeviceGetHandleByPciBusId_v2(const char* bus, Device* device) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!ready()) {
    return nvml::kErrorUninitialized;
  }
  for (auto& gpu : machine->gpus()) {
    if (bus != nullptr && bus_id(*gpu) == bus) {
      return put(device, reinterpret_cast<Device>(gpu.get()));
    }
  }
  return nvml::kErrorNotFound;
}

namespace {
// A getter of one number that does not change.
template <typename T, typename Value>
Return constant(Device device, const char* function, T* out, Value value) {
  return on_device(device, function, 0.0, [&](Gpu& gpu, std::int64_t) { return put(out, static_cast<T>(value(gpu))); });
}
Return unsupported(Device device, const char* function) {
  return on_device(device, function, 0.0, [](Gpu&, std::int64_t) -> Return { return nvml::kErrorNotSupported; });
}
const Facts& facts(const Gpu& gpu) { return gpu.sensors.profile().facts; }
}  // namespace

EXPORT Return nvmlDeviceGetName(Device device, char* name, unsigned int length) {
  return on_device(device, "nvmlDeviceGetName", 0.0, [&](Gpu& gpu, std::int64_t) { return put(gpu.name, name, length); });
}
EXPORT Return nvmlDeviceGetUUID(Device device, char* uuid, unsigned int length) {
  return on_device(device, "nvmlDeviceGetUUID", 0.0, [&](Gpu& gpu, std::int64_t) { return put(gpu.uuid, uuid, length); });
}
EXPORT Return nvmlDeviceGetSerial(Device device, char*, unsigned int) { return unsupported(device, "nvmlDeviceGetSerial"); }
EXPORT Return nvmlDeviceGetVbiosVersion(Device device, char* version, unsigned int length) {
  return on_device(device, "nvmlDeviceGetVbiosVersion", 0.0,
                   [&](Gpu&, std::int64_t) { return put(std::string("00.00.00.00.EM"), version, length); });
}
EXPORT Return nvmlDeviceGetIndex(Device device, unsigned int* index) {
  return on_device(device, "nvmlDeviceGetIndex", 0.0,
                   [&](Gpu& gpu, std::int64_t) { return put(index, static_cast<unsigned int>(gpu.index)); });
}
EXPORT Return nvmlDeviceGetMinorNumber(Device device, unsigned int* minor) {
  return on_device(device, "nvmlDeviceGetMinorNumber", 0.0,
                   [&](Gpu& gpu, std::int64_t) { return put(minor, static_cast<unsigned int>(gpu.index)); });
}
EXPORT Return nvmlDeviceGetPciInfo_v3(Device device, nvml::PciInfo* pci) {
  return on_device(device, "nvmlDeviceGetPciInfo_v3", 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (pci == nullptr) {
      return nvml::kErrorInvalidArgument;
    }
    *pci = {};
    const std::string bus = bus_id(gpu);
    std::memcpy(pci->bus_id, bus.c_str(), bus.size() + 1);
    const std::string legacy = bus.substr(4);
    std::memcpy(pci->bus_id_legacy, legacy.c_str(), legacy.size() + 1);
    pci->bus = static_cast<unsigned int>(gpu.index + 1);
    pci->pci_device_id = 0x233510DE;
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceGetPciInfo_v2(Device device, nvml::PciInfo* pci) { return nvmlDeviceGetPciInfo_v3(device, pci); }
EXPORT Return nvmlDeviceGetPciInfo(Device device, nvml::PciInfo* pci) { return nvmlDeviceGetPciInfo_v3(device, pci); }

EXPORT Return nvmlDeviceGetMemoryInfo(Device device, nvml::Memory* memory) {
  return on_device(device, "nvmlDeviceGetMemoryInfo", 0.03, [&](Gpu& gpu, std::int64_t) {
    const unsigned long long total = memory_bytes(gpu);
    return put(memory, nvml::Memory{total, total - total / 100, total / 100});
  });
}
EXPORT Return nvmlDeviceGetMemoryInfo_v2(Device device, nvml::MemoryV2* memory) {
  return on_device(device, "nvmlDeviceGetMemoryInfo_v2", 0.03, [&](Gpu& gpu, std::int64_t) -> Return {
    if (memory != nullptr && memory->version != nvml::kMemoryV2Version) {
      return nvml::kErrorArgumentVersionMismatch;
    }
    const unsigned long long total = memory_bytes(gpu);
    return put(memory, nvml::MemoryV2{nvml::kMemoryV2Version, total, 0, total - total / 100, total / 100});
  });
}

EXPORT Return nvmlDeviceGetPowerUsage(Device device, unsigned int* power_mw) {
  return on_device(device, "nvmlDeviceGetPowerUsage", cost_ms(device, &CallCosts::field_ms), [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    if (!gpu.sensors.profile().usage.present) {
      return nvml::kErrorNotSupported;
    }
    return put(power_mw, to_mw(machine->shown_power_w(gpu, gpu.sensors.usage_w(t_ns), t_ns)));
  });
}
EXPORT Return nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long* energy_mj) {
  return on_device(device, "nvmlDeviceGetTotalEnergyConsumption", counter_cost_ms(device), [&](Gpu& gpu, std::int64_t t_ns) -> Return {
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
  // The counter among the fields makes all of them wait for it.
  const bool counter = std::any_of(values, values + count, [](const nvml::FieldValue& value) {
    return value.field_id == nvml::kFieldTotalEnergyConsumption;
  });
  const double ms = counter ? counter_cost_ms(device) : cost_ms(device, &CallCosts::field_ms);
  return on_device(device, "nvmlDeviceGetFieldValues", ms, [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    for (int i = 0; i < count; ++i) {
      field(values[i], gpu, t_ns);
    }
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceGetSamples(Device device, int type, unsigned long long last_seen_us, int* value_type,
                                   unsigned int* count, nvml::Sample* samples) {
  return on_device(device, "nvmlDeviceGetSamples", cost_ms(device, &CallCosts::ring_ms), [&](Gpu& gpu, std::int64_t t_ns) -> Return {
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
    const std::int64_t offset_ns = clock_ns(CLOCK_REALTIME) - now_ns();
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
  return on_device(device, "nvmlDeviceGetTemperature", 0.003, [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    return sensor == nvml::kTemperatureGpu ? put(celsius, temperature_c(gpu, t_ns)) : Return{nvml::kErrorInvalidArgument};
  });
}
EXPORT Return nvmlDeviceGetClockInfo(Device device, int kind, unsigned int* mhz) {
  return on_device(device, "nvmlDeviceGetClockInfo", 0.003,
                   [&](Gpu& gpu, std::int64_t t_ns) { return put(mhz, clock_mhz(gpu, kind, false, t_ns)); });
}
EXPORT Return nvmlDeviceGetMaxClockInfo(Device device, int kind, unsigned int* mhz) {
  return on_device(device, "nvmlDeviceGetMaxClockInfo", 0.0,
                   [&](Gpu& gpu, std::int64_t t_ns) { return put(mhz, clock_mhz(gpu, kind, true, t_ns)); });
}
EXPORT Return nvmlDeviceGetApplicationsClock(Device device, int kind, unsigned int* mhz) {
  return nvmlDeviceGetMaxClockInfo(device, kind, mhz);
}
EXPORT Return nvmlDeviceGetUtilizationRates(Device device, nvml::Utilization* utilization) {
  return on_device(device, "nvmlDeviceGetUtilizationRates", 0.003, [&](Gpu& gpu, std::int64_t t_ns) {
    const unsigned int percent = utilization_percent(gpu, t_ns);
    return put(utilization, nvml::Utilization{percent, percent / 2});
  });
}
EXPORT Return nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned int* limit_mw) {
  return on_device(device, "nvmlDeviceGetEnforcedPowerLimit", 0.003,
                   [&](Gpu& gpu, std::int64_t) { return put(limit_mw, to_mw(gpu.power_limit_w())); });
}
EXPORT Return nvmlDeviceGetPowerManagementLimit(Device device, unsigned int* limit_mw) {
  return nvmlDeviceGetEnforcedPowerLimit(device, limit_mw);
}
EXPORT Return nvmlDeviceGetPowerManagementDefaultLimit(Device device, unsigned int* limit_mw) {
  return on_device(device, "nvmlDeviceGetPowerManagementDefaultLimit", 0.0,
                   [&](Gpu& gpu, std::int64_t) { return put(limit_mw, to_mw(gpu.sensors.profile().tdp_w)); });
}
EXPORT Return nvmlDeviceGetPowerManagementLimitConstraints(Device device, unsigned int* least_mw, unsigned int* most_mw) {
  return on_device(device, "nvmlDeviceGetPowerManagementLimitConstraints", 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    const Return code = put(least_mw, to_mw(least_limit_w(gpu)));
    return code != nvml::kSuccess ? code : put(most_mw, to_mw(most_limit_w(gpu)));
  });
}
EXPORT Return nvmlDeviceSetPowerManagementLimit(Device device, unsigned int limit_mw) {
  return on_device(device, "nvmlDeviceSetPowerManagementLimit", 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (limit_mw < to_mw(least_limit_w(gpu)) || limit_mw > to_mw(most_limit_w(gpu))) {
      return nvml::kErrorInvalidArgument;
    }
    gpu.settings->power_limit_mw.store(limit_mw);
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceSetGpuLockedClocks(Device device, unsigned int least_mhz, unsigned int most_mhz) {
  return on_device(device, "nvmlDeviceSetGpuLockedClocks", 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (most_mhz == 0 || least_mhz > most_mhz) {
      return nvml::kErrorInvalidArgument;
    }
    gpu.settings->locked_min_mhz.store(least_mhz);
    gpu.settings->locked_max_mhz.store(most_mhz);
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceResetGpuLockedClocks(Device device) {
  return on_device(device, "nvmlDeviceResetGpuLockedClocks", 0.0, [&](Gpu& gpu, std::int64_t) {
    gpu.settings->locked_min_mhz.store(0);
    gpu.settings->locked_max_mhz.store(0);
    return nvml::kSuccess;
  });
}
EXPORT Return nvmlDeviceGetSupportedMemoryClocks(Device device, unsigned int* count, unsigned int* clocks_mhz) {
  return on_device(device, "nvmlDeviceGetSupportedMemoryClocks", 0.0, [&](Gpu& gpu, std::int64_t) {
    return list({clock_mhz(gpu, nvml::kClockMemory, true, 0)}, count, clocks_mhz);
  });
}
EXPORT Return nvmlDeviceGetSupportedGraphicsClocks(Device device, unsigned int memory_mhz, unsigned int* count,
                                                   unsigned int* clocks_mhz) {
  return on_device(device, "nvmlDeviceGetSupportedGraphicsClocks", 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
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
EXPORT Return nvmlDeviceGetPowerManagementMode(Device device, unsigned int* mode) {
  return constant(device, "nvmlDeviceGetPowerManagementMode", mode, [](const Gpu&) { return 1; });
}
EXPORT Return nvmlDeviceGetCurrentClocksEventReasons(Device device, unsigned long long* reasons) {
  return on_device(device, "nvmlDeviceGetCurrentClocksEventReasons", 0.003, [&](Gpu& gpu, std::int64_t t_ns) {
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
  return on_device(device, "nvmlDeviceGetPerformanceState", 0.003,
                   [&](Gpu& gpu, std::int64_t t_ns) { return put(state, busy(gpu, t_ns) ? 0U : 8U); });
}
EXPORT Return nvmlDeviceGetPersistenceMode(Device device, unsigned int* mode) {
  return constant(device, "nvmlDeviceGetPersistenceMode", mode, [](const Gpu&) { return 1; });
}
EXPORT Return nvmlDeviceGetComputeMode(Device device, unsigned int* mode) {
  return constant(device, "nvmlDeviceGetComputeMode", mode, [](const Gpu&) { return 0; });
}
EXPORT Return nvmlDeviceGetVirtualizationMode(Device device, unsigned int* mode) {
  return constant(device, "nvmlDeviceGetVirtualizationMode", mode, [](const Gpu&) { return 0; });
}
namespace {
// Current and pending state of something that a board has (on or off) or has not.
Return mode(Device device, const char* function, unsigned int* current, unsigned int* pending, bool Facts::*has, unsigned int value) {
  return on_device(device, function, 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (!(facts(gpu).*has)) {
      return nvml::kErrorNotSupported;
    }
    const Return code = put(current, value);
    return code != nvml::kSuccess ? code : put(pending, value);
  });
}
}  // namespace

EXPORT Return nvmlDeviceGetEccMode(Device device, unsigned int* current, unsigned int* pending) {
  return mode(device, "nvmlDeviceGetEccMode", current, pending, &Facts::ecc, 1);
}
EXPORT Return nvmlDeviceGetMigMode(Device device, unsigned int* current, unsigned int* pending) {
  return mode(device, "nvmlDeviceGetMigMode", current, pending, &Facts::mig, 0);
}
EXPORT Return nvmlDeviceGetCudaComputeCapability(Device device, int* major, int* minor) {
  return on_device(device, "nvmlDeviceGetCudaComputeCapability", 0.0, [&](Gpu& gpu, std::int64_t) {
    const Return code = put(major, gpu.sensors.profile().compute_major);
    return code != nvml::kSuccess ? code : put(minor, gpu.sensors.profile().compute_minor);
  });
}
EXPORT Return nvmlDeviceGetArchitecture(Device device, unsigned int* architecture) {
  return on_device(device, "nvmlDeviceGetArchitecture", 0.0, [&](Gpu& gpu, std::int64_t) {
    return put(architecture, static_cast<unsigned int>(gpu.sensors.profile().architecture));
  });
}
EXPORT Return nvmlDeviceGetBrand(Device device, unsigned int* brand) {
  return constant(device, "nvmlDeviceGetBrand", brand, [](const Gpu& gpu) { return facts(gpu).brand; });
}
EXPORT Return nvmlDeviceGetNumGpuCores(Device device, unsigned int* cores) {
  return constant(device, "nvmlDeviceGetNumGpuCores", cores, [](const Gpu& gpu) { return facts(gpu).cores; });
}
EXPORT Return nvmlDeviceGetMemoryBusWidth(Device device, unsigned int* bits) {
  return constant(device, "nvmlDeviceGetMemoryBusWidth", bits, [](const Gpu& gpu) { return facts(gpu).memory_bus_bits; });
}
EXPORT Return nvmlDeviceIsMigDeviceHandle(Device device, unsigned int* mig) {
  return constant(device, "nvmlDeviceIsMigDeviceHandle", mig, [](const Gpu&) { return 0; });
}

namespace {
template <typename Info>
Return compute_processes(Device device, unsigned int* count, Info* infos) {
  return on_device(device, "nvmlDeviceGetComputeRunningProcesses", 0.15, [&](Gpu& gpu, std::int64_t) -> Return {
    if (count == nullptr) {
      return nvml::kErrorInvalidArgument;
    }
    const auto there = static_cast<unsigned int>(gpu.processes.size());
    const unsigned int room = *count;
    *count = there;
    if (there > room || (infos == nullptr && there > 0)) {
      return nvml::kErrorInsufficientSize;
    }
    for (unsigned int i = 0; i < there; ++i) {
      infos[i].pid = gpu.processes[i];
      infos[i].used_gpu_memory = 1ULL << 30U;
      if constexpr (requires { infos[i].gpu_instance_id; }) {
        infos[i].gpu_instance_id = ~0U;
        infos[i].compute_instance_id = ~0U;
      }
    }
    return nvml::kSuccess;
  });
}
}  // namespace

EXPORT Return nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned int* count, nvml::ProcessInfo* infos) {
  return compute_processes(device, count, infos);
}
EXPORT Return nvmlDeviceGetComputeRunningProcesses_v2(Device device, unsigned int* count, nvml::ProcessInfo* infos) {
  return compute_processes(device, count, infos);
}
EXPORT Return nvmlDeviceGetComputeRunningProcesses(Device device, unsigned int* count, nvml::ProcessInfoV1* infos) {
  return compute_processes(device, count, infos);
}
EXPORT Return nvmlDeviceGetGraphicsRunningProcesses_v3(Device, unsigned int* count, nvml::ProcessInfo*) { return put(count, 0U); }
EXPORT Return nvmlDeviceGetMPSComputeRunningProcesses_v3(Device, unsigned int* count, nvml::ProcessInfo*) { return put(count, 0U); }

EXPORT Return nvmlDeviceGetFanSpeed(Device device, unsigned int* percent) {
  return on_device(device, "nvmlDeviceGetFanSpeed", 0.0, [&](Gpu& gpu, std::int64_t t_ns) -> Return {
    return facts(gpu).fan ? put(percent, busy(gpu, t_ns) ? 60U : 30U) : Return{nvml::kErrorNotSupported};
  });
}

EXPORT Return nvmlDeviceGetTemperatureThreshold(Device device, int threshold, unsigned int* celsius) {
  return on_device(device, "nvmlDeviceGetTemperatureThreshold", 0.0, [&](Gpu&, std::int64_t) -> Return {
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

// Real drivers export these, too; here they have nothing to say. Arguments stay where the caller put them.
#define UNSUPPORTED(symbol)                              \
  EXPORT Return symbol() {                               \
    const std::lock_guard<std::mutex> lock(mutex);       \
    return ready() ? nvml::kErrorNotSupported : nvml::kErrorUninitialized; \
  }

UNSUPPORTED(nvmlDeviceGetAttributes_v2)
UNSUPPORTED(nvmlDeviceGetBAR1MemoryInfo)
UNSUPPORTED(nvmlDeviceGetBoardId)
UNSUPPORTED(nvmlDeviceGetBoardPartNumber)
UNSUPPORTED(nvmlDeviceGetComputeInstanceId)
UNSUPPORTED(nvmlDeviceGetCpuAffinity)
UNSUPPORTED(nvmlDeviceGetCurrPcieLinkGeneration)
UNSUPPORTED(nvmlDeviceGetCurrPcieLinkWidth)
UNSUPPORTED(nvmlDeviceGetDecoderUtilization)
UNSUPPORTED(nvmlDeviceGetDisplayActive)
UNSUPPORTED(nvmlDeviceGetDisplayMode)
UNSUPPORTED(nvmlDeviceGetEncoderUtilization)
UNSUPPORTED(nvmlDeviceGetFanSpeed_v2)
UNSUPPORTED(nvmlDeviceGetGpuFabricInfoV)
UNSUPPORTED(nvmlDeviceGetGpuInstanceId)
UNSUPPORTED(nvmlDeviceGetHandleBySerial)
UNSUPPORTED(nvmlDeviceGetInforomImageVersion)
UNSUPPORTED(nvmlDeviceGetInforomVersion)
UNSUPPORTED(nvmlDeviceGetMaxCustomerBoostClock)
UNSUPPORTED(nvmlDeviceGetMaxMigDeviceCount)
UNSUPPORTED(nvmlDeviceGetMaxPcieLinkGeneration)
UNSUPPORTED(nvmlDeviceGetMaxPcieLinkWidth)
UNSUPPORTED(nvmlDeviceGetMemoryAffinity)
UNSUPPORTED(nvmlDeviceGetMemoryErrorCounter)
UNSUPPORTED(nvmlDeviceGetMigDeviceHandleByIndex)
UNSUPPORTED(nvmlDeviceGetNumFans)
UNSUPPORTED(nvmlDeviceGetNumaNodeId)
UNSUPPORTED(nvmlDeviceGetNvLinkState)
UNSUPPORTED(nvmlDeviceGetP2PStatus)
UNSUPPORTED(nvmlDeviceGetPcieReplayCounter)
UNSUPPORTED(nvmlDeviceGetPcieThroughput)
UNSUPPORTED(nvmlDeviceGetProcessUtilization)
UNSUPPORTED(nvmlDeviceGetRemappedRows)
UNSUPPORTED(nvmlDeviceGetRetiredPages)
UNSUPPORTED(nvmlDeviceGetRunningProcessDetailList)
UNSUPPORTED(nvmlDeviceGetTemperatureV)
UNSUPPORTED(nvmlDeviceGetTopologyCommonAncestor)
UNSUPPORTED(nvmlDeviceGetTotalEccErrors)
UNSUPPORTED(nvmlDeviceGetViolationStatus)
UNSUPPORTED(nvmlDeviceRegisterEvents)
UNSUPPORTED(nvmlDeviceResetApplicationsClocks)
UNSUPPORTED(nvmlDeviceSetApplicationsClocks)
UNSUPPORTED(nvmlDeviceSetPersistenceMode)
UNSUPPORTED(nvmlEventSetCreate)
UNSUPPORTED(nvmlEventSetFree)
UNSUPPORTED(nvmlEventSetWait_v2)
UNSUPPORTED(nvmlGpmQueryDeviceSupport)
UNSUPPORTED(nvmlSystemGetTopologyGpuSet)
UNSUPPORTED(nvmlUnitGetCount)
