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

// NVML's functions, without the prefix `nvml`: name, parameters, and the endings of the symbols that have this form, the best first.
#define WATTCOUNT_NVML_FUNCTIONS(X) \
  X(Init, (), "_v2", "") \
  X(Shutdown, (), "") \
  X(SystemGetDriverVersion, (char*, unsigned int), "") \
  X(SystemGetNVMLVersion, (char*, unsigned int), "") \
  X(SystemGetCudaDriverVersion, (int*), "_v2", "") \
  X(DeviceGetCount, (unsigned int*), "_v2", "") \
  X(DeviceGetHandleByIndex, (unsigned int, Device*), "_v2", "") \
  X(DeviceGetHandleByUUID, (const char*, Device*), "") \
  X(DeviceGetUUID, (Device, char*, unsigned int), "") \
  X(DeviceGetName, (Device, char*, unsigned int), "") \
  X(DeviceGetSerial, (Device, char*, unsigned int), "") \
  X(DeviceGetVbiosVersion, (Device, char*, unsigned int), "") \
  X(DeviceGetBoardPartNumber, (Device, char*, unsigned int), "") \
  X(DeviceGetInforomImageVersion, (Device, char*, unsigned int), "") \
  X(DeviceGetIndex, (Device, unsigned int*), "") \
  X(DeviceGetPciInfo, (Device, PciInfo*), "_v3") \
  X(DeviceGetMemoryInfo, (Device, Memory*), "") \
  X(DeviceGetEnforcedPowerLimit, (Device, unsigned int*), "") \
  X(DeviceGetPowerManagementLimit, (Device, unsigned int*), "") \
  X(DeviceGetPowerManagementDefaultLimit, (Device, unsigned int*), "") \
  X(DeviceGetPowerManagementLimitConstraints, (Device, unsigned int*, unsigned int*), "") \
  X(DeviceSetPowerManagementLimit, (Device, unsigned int), "") \
  X(DeviceSetGpuLockedClocks, (Device, unsigned int, unsigned int), "") \
  X(DeviceResetGpuLockedClocks, (Device), "") \
  X(DeviceGetSupportedMemoryClocks, (Device, unsigned int*, unsigned int*), "") \
  X(DeviceGetSupportedGraphicsClocks, (Device, unsigned int, unsigned int*, unsigned int*), "") \
  X(DeviceGetClockInfo, (Device, int, unsigned int*), "") \
  X(DeviceGetMaxClockInfo, (Device, int, unsigned int*), "") \
  X(DeviceGetApplicationsClock, (Device, int, unsigned int*), "") \
  X(DeviceGetTemperature, (Device, int, unsigned int*), "") \
  X(DeviceGetUtilizationRates, (Device, Utilization*), "") \
  X(DeviceGetPowerUsage, (Device, unsigned int*), "") \
  X(DeviceGetTotalEnergyConsumption, (Device, unsigned long long*), "") \
  X(DeviceGetFieldValues, (Device, int, FieldValue*), "") \
  X(DeviceGetSamples, (Device, int, unsigned long long, int*, unsigned int*, Sample*), "") \
  X(DeviceGetMigMode, (Device, unsigned int*, unsigned int*), "") \
  X(DeviceGetEccMode, (Device, unsigned int*, unsigned int*), "") \
  X(DeviceGetPersistenceMode, (Device, unsigned int*), "") \
  X(DeviceGetComputeMode, (Device, unsigned int*), "") \
  X(DeviceGetVirtualizationMode, (Device, unsigned int*), "") \
  X(DeviceGetCudaComputeCapability, (Device, int*, int*), "") \
  X(DeviceGetArchitecture, (Device, unsigned int*), "") \
  X(DeviceGetPerformanceState, (Device, unsigned int*), "") \
  X(DeviceGetComputeRunningProcesses, (Device, unsigned int*, ProcessInfo*), "_v3", "_v2")

// The functions of a loaded library. Null: it lacks the function.
struct Functions {
  const char* (*ErrorString)(Return) = nullptr;
  Return (*DeviceGetCurrentClocksEventReasons)(Device, unsigned long long*) = nullptr;
#define X(name, parameters, ...) Return(*name) parameters = nullptr;
  WATTCOUNT_NVML_FUNCTIONS(X)
#undef X
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
