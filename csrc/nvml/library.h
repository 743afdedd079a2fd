// NVML loaded at run time: the function table, and the facts of a device.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "nvml/abi.h"

namespace wattcount::nvml {

// An NVML call failed.
class Error : public std::runtime_error {
 public:
  Error(Return code, std::string function, const std::string& message)
      : std::runtime_error(message), code_(code), function_(std::move(function)) {}
  Return code() const { return code_; }
  const std::string& function() const { return function_; }

 private:
  Return code_;
  std::string function_;
};

// No library could be loaded.
class LibraryNotFound : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// NVML's functions by name without the `nvml` prefix. A null entry is a symbol this library lacks.
struct Functions {
  Return (*Init)() = nullptr;
  Return (*Shutdown)() = nullptr;
  const char* (*ErrorString)(Return) = nullptr;
  Return (*SystemGetDriverVersion)(char*, unsigned int) = nullptr;
  Return (*SystemGetNVMLVersion)(char*, unsigned int) = nullptr;
  Return (*SystemGetCudaDriverVersion)(int*) = nullptr;
  Return (*DeviceGetCount)(unsigned int*) = nullptr;
  Return (*DeviceGetHandleByIndex)(unsigned int, Device*) = nullptr;
  Return (*DeviceGetHandleByUUID)(const char*, Device*) = nullptr;
  Return (*DeviceGetUUID)(Device, char*, unsigned int) = nullptr;
  Return (*DeviceGetName)(Device, char*, unsigned int) = nullptr;
  Return (*DeviceGetSerial)(Device, char*, unsigned int) = nullptr;
  Return (*DeviceGetVbiosVersion)(Device, char*, unsigned int) = nullptr;
  Return (*DeviceGetBoardPartNumber)(Device, char*, unsigned int) = nullptr;
  Return (*DeviceGetInforomImageVersion)(Device, char*, unsigned int) = nullptr;
  Return (*DeviceGetIndex)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetPciInfo)(Device, PciInfo*) = nullptr;
  Return (*DeviceGetMemoryInfo)(Device, Memory*) = nullptr;
  Return (*DeviceGetEnforcedPowerLimit)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetPowerManagementLimit)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetPowerManagementDefaultLimit)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetPowerManagementLimitConstraints)(Device, unsigned int*, unsigned int*) = nullptr;
  Return (*DeviceSetPowerManagementLimit)(Device, unsigned int) = nullptr;
  Return (*DeviceSetGpuLockedClocks)(Device, unsigned int, unsigned int) = nullptr;
  Return (*DeviceResetGpuLockedClocks)(Device) = nullptr;
  Return (*DeviceGetSupportedMemoryClocks)(Device, unsigned int*, unsigned int*) = nullptr;
  Return (*DeviceGetSupportedGraphicsClocks)(Device, unsigned int, unsigned int*, unsigned int*) = nullptr;
  Return (*DeviceGetClockInfo)(Device, int, unsigned int*) = nullptr;
  Return (*DeviceGetMaxClockInfo)(Device, int, unsigned int*) = nullptr;
  Return (*DeviceGetApplicationsClock)(Device, int, unsigned int*) = nullptr;
  Return (*DeviceGetTemperature)(Device, int, unsigned int*) = nullptr;
  Return (*DeviceGetUtilizationRates)(Device, Utilization*) = nullptr;
  Return (*DeviceGetCurrentClocksEventReasons)(Device, unsigned long long*) = nullptr;
  Return (*DeviceGetPowerUsage)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetTotalEnergyConsumption)(Device, unsigned long long*) = nullptr;
  Return (*DeviceGetFieldValues)(Device, int, FieldValue*) = nullptr;
  Return (*DeviceGetSamples)(Device, int, unsigned long long, int*, unsigned int*, Sample*) = nullptr;
  Return (*DeviceGetMigMode)(Device, unsigned int*, unsigned int*) = nullptr;
  Return (*DeviceGetEccMode)(Device, unsigned int*, unsigned int*) = nullptr;
  Return (*DeviceGetPersistenceMode)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetComputeMode)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetVirtualizationMode)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetCudaComputeCapability)(Device, int*, int*) = nullptr;
  Return (*DeviceGetArchitecture)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetPerformanceState)(Device, unsigned int*) = nullptr;
  Return (*DeviceGetComputeRunningProcesses)(Device, unsigned int*, ProcessInfo*) = nullptr;
};

// Calls a function of the table. One that this library lacks answers as NVML does for a function that it does not know.
template <typename... Parameters>
Return ask(Return (*function)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  return function != nullptr ? function(arguments...) : kErrorFunctionNotFound;
}

// A fact NVML told of a device; nothing where it did not.
using Fact = std::variant<std::monostate, std::int64_t, std::string>;

struct ComputeProcess {
  unsigned int pid;
  std::optional<std::uint64_t> used_bytes;
};

// A loaded and initialised NVML library. Initialisation is counted by NVML itself, so several may live at once.
class Library {
 public:
  // Loads `path`, else $WATTCOUNT_NVML_PATH, else libnvidia-ml.so.1, and initialises it.
  // Throws LibraryNotFound or Error.
  explicit Library(const std::optional<std::string>& path = std::nullopt);
  // Around a table made by a test; nothing is loaded or initialised.
  explicit Library(Functions functions);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  // Shuts NVML down; the function table must not be used afterwards. May be called twice. In a forked child
  // NVML is left alone: its locks may have been held by a thread that exists in the parent only.
  void close();
  // From now on `close` does nothing: a thread has not returned from a call, which NVML must outlive.
  void keep_open() { kept_open_ = true; }

  const Functions& functions() const { return functions_; }
  const std::string& path() const { return path_; }
  bool emulated() const { return emulated_; }
  const std::vector<std::string>& missing_symbols() const { return missing_; }
  std::string driver_version() const;
  std::string nvml_version() const;
  std::optional<int> cuda_driver_version() const;
  unsigned int device_count() const;
  std::vector<std::string> device_uuids() const;
  Device device(const std::string& uuid) const;  // throws Error
  // Name and value of everything asked; names are those of `GpuFacts` in wattcount/gpu/nvml.py.
  std::vector<std::pair<std::string, Fact>> device_info(const std::string& uuid) const;
  std::vector<ComputeProcess> compute_processes(const std::string& uuid) const;
  // SM clocks the device can be locked to (MHz, ascending); empty where NVML does not tell.
  std::vector<unsigned int> supported_sm_clocks_mhz(const std::string& uuid) const;

  // What changes the device, for every process on it and beyond the end of this one. Throws Error.
  void set_power_limit_mw(const std::string& uuid, unsigned int limit_mw) const;
  void lock_sm_clock_mhz(const std::string& uuid, unsigned int clock_mhz) const;
  void unlock_sm_clock(const std::string& uuid) const;

 private:
  void check(Return code, const char* function) const;
  std::string error_text(Return code) const;

  void* handle_ = nullptr;
  std::atomic<bool> open_{false};  // closed without the GIL
  std::atomic<bool> kept_open_{false};
  int owner_pid_ = 0;
  bool emulated_ = false;
  std::string path_;
  std::vector<std::string> missing_;
  Functions functions_;
};

}  // namespace wattcount::nvml
