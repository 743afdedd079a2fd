// What the emulated NVML's functions share: the machine, and the course of a call.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include "clock.h"
#include "emulator/machine.h"
#include "nvml/abi.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace wattcount::emulator {

using nvml::Device;
using nvml::Return;

// Guards the machine and its GPUs.
extern std::mutex mutex;
extern std::unique_ptr<Machine> machine;

// Whether clients may ask: from the first nvmlInit to the last nvmlShutdown.
bool ready();
Gpu* gpu_of(Device device);  // nullptr where there is none
void spend(double ms);

// One call of NVML for one device. First the faults that are due take effect. Then the call takes its time without the
// lock. Then `body(gpu, now)` answers under the lock.
template <typename Body>
Return on_device(Device device, const char* function, double cost_ms, Body body) {
  double wait_ms = cost_ms;
  Return code = nvml::kErrorUninitialized;
  std::int64_t started_ns = monotonic_ns();
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
  const std::int64_t t_ns = monotonic_ns();
  machine->refresh(*gpu, t_ns);
  return body(*gpu, t_ns);
}

inline Return put(const std::string& text, char* buffer, unsigned int length) {
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

// A call that returns a number that does not change.
template <typename T, typename Value>
Return constant(Device device, const char* function, T* out, Value value) {
  return on_device(device, function, 0.0, [&](Gpu& gpu, std::int64_t) { return put(out, static_cast<T>(value(gpu))); });
}

}  // namespace wattcount::emulator
