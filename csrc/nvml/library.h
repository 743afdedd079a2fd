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

// NVML's functions, named without the prefix `nvml`. Null: the loaded library lacks the function.
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

// Calls a function of the table. A function that the library lacks returns kErrorFunctionNotFound, as NVML itself does.
template <typename... Parameters>
Return ask(Return (*function)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  return function != nullptr ? function(arguments...) : kErrorFunctionNotFound;
}

// A fact about a device. std::monostate: NVML did not tell it.
using Fact = std::variant<std::monostate, std::int64_t, std::string>;

struct ComputeProcess {
  unsigned int pid;
  std::optional<std::uint64_t> used_bytes;
};

// A loaded and initialised NVML library. Several may exist at once: NVML counts how often it was initialised.
class Library {
 public:
  // Loads `path`, else $WATTCOUNT_NVML_PATH, else libnvidia-ml.so.1, and initialises it.
  // Throws LibraryNotFound or Error.
  explicit Library(const std::optional<std::string>& path = std::nullopt);
  // For tests: takes their table, loads and initialises nothing.
  explicit Library(Functions functions);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  // Shuts NVML down. The function table must not be used afterwards. A second call does nothing. A forked child
  // does not shut NVML down: a thread that exists only in the parent may hold NVML's locks.
  void close();
  // From now on `close` does nothing: a thread is still in a call of NVML.
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
  // Name and value of each fact. The names are those of `GpuFacts` in wattcount/gpu/nvml.py.
  std::vector<std::pair<std::string, Fact>> device_info(const std::string& uuid) const;
  std::vector<ComputeProcess> compute_processes(const std::string& uuid) const;
  // The SM clocks [MHz, ascending] that the device can be locked to. Empty: NVML does not tell them.
  std::vector<unsigned int> supported_sm_clocks_mhz(const std::string& uuid) const;

  // These change the device for every process. The change stays when this process ends. They throw Error.
  void set_power_limit_mw(const std::string& uuid, unsigned int limit_mw) const;
  void lock_sm_clock_mhz(const std::string& uuid, unsigned int clock_mhz) const;
  void unlock_sm_clock(const std::string& uuid) const;

 private:
  void check(Return code, const char* function) const;
  std::string error_text(Return code) const;

  void* handle_ = nullptr;
  std::atomic<bool> open_{false};  // atomic: `close` runs without the GIL
  std::atomic<bool> kept_open_{false};
  int owner_pid_ = 0;
  bool emulated_ = false;
  std::string path_;
  std::vector<std::string> missing_;
  Functions functions_;
};

}  // namespace wattcount::nvml
