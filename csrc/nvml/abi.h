// The part of NVML's binary interface that wattcount uses. It is written down here, so a build needs no CUDA toolkit.
// Source: NVIDIA's NVML API reference guide. Sizes and offsets are asserted below; tests compare them with nvidia-ml-py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wattcount::nvml {

using Return = int;  // nvmlReturn_t
enum ReturnCode : int {
  kSuccess = 0,
  kErrorUninitialized = 1,
  kErrorInvalidArgument = 2,
  kErrorNotSupported = 3,
  kErrorNoPermission = 4,
  kErrorNotFound = 6,
  kErrorInsufficientSize = 7,
  kErrorDriverNotLoaded = 9,
  kErrorTimeout = 10,
  kErrorLibraryNotFound = 12,
  kErrorFunctionNotFound = 13,
  kErrorGpuIsLost = 15,
  kErrorResetRequired = 16,
  kErrorLibRmVersionMismatch = 18,
  kErrorNoData = 21,
  kErrorArgumentVersionMismatch = 25,
  kErrorUnknown = 999,
};

struct DeviceOpaque;
using Device = DeviceOpaque*;  // nvmlDevice_t

enum ValueType : int {
  kDouble = 0,
  kUnsignedInt = 1,
  kUnsignedLong = 2,
  kUnsignedLongLong = 3,
  kSignedLongLong = 4,
  kSignedInt = 5,
  kUnsignedShort = 6,
};

union Value {
  double d;
  int si;
  unsigned int ui;
  unsigned long ul;
  unsigned long long ull;
  signed long long sll;
  unsigned short us;
};

struct FieldValue {  // nvmlFieldValue_t
  unsigned int field_id;
  unsigned int scope_id;
  long long timestamp_us;
  long long latency_us;
  int value_type;
  Return nvml_return;
  Value value;
};

struct Sample {  // nvmlSample_t
  unsigned long long timestamp_us;
  Value value;
};

struct Memory {  // nvmlMemory_t
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct MemoryV2 {  // nvmlMemory_v2_t
  unsigned int version;
  unsigned long long total;
  unsigned long long reserved;
  unsigned long long free;
  unsigned long long used;
};

struct Utilization {  // nvmlUtilization_t
  unsigned int gpu;
  unsigned int memory;
};

struct PciInfo {  // nvmlPciInfo_t, as of nvmlDeviceGetPciInfo_v3
  char bus_id_legacy[16];
  unsigned int domain;
  unsigned int bus;
  unsigned int device;
  unsigned int pci_device_id;
  unsigned int pci_subsystem_id;
  char bus_id[32];
};

struct ProcessInfoV1 {  // nvmlProcessInfo_v1_t
  unsigned int pid;
  unsigned long long used_gpu_memory;
};

struct ProcessInfo {  // nvmlProcessInfo_t, as of nvmlDeviceGetComputeRunningProcesses_v3
  unsigned int pid;
  unsigned long long used_gpu_memory;
  unsigned int gpu_instance_id;
  unsigned int compute_instance_id;
};

static_assert(sizeof(void*) == 8, "64-bit only, as NVML is");
static_assert(sizeof(Value) == 8);
static_assert(sizeof(FieldValue) == 40 && offsetof(FieldValue, value) == 32);
static_assert(sizeof(Sample) == 16);
static_assert(sizeof(Memory) == 24);
static_assert(sizeof(MemoryV2) == 40 && offsetof(MemoryV2, total) == 8);
static_assert(sizeof(Utilization) == 8);
static_assert(sizeof(PciInfo) == 68 && offsetof(PciInfo, bus_id) == 36);
static_assert(sizeof(ProcessInfoV1) == 16);
static_assert(sizeof(ProcessInfo) == 24);

enum FieldId : unsigned int {
  kFieldMemoryTemperature = 82,
  kFieldTotalEnergyConsumption = 83,
  kFieldPowerAverage = 185,
  kFieldPowerInstant = 186,
  kFieldPowerMinLimit = 187,
  kFieldPowerMaxLimit = 188,
  kFieldPowerDefaultLimit = 189,
  kFieldPowerCurrentLimit = 190,
  kFieldPowerRequestedLimit = 192,
};

constexpr int kTotalPowerSamples = 0;  // nvmlSamplingType_t
constexpr int kTemperatureGpu = 0;     // nvmlTemperatureSensors_t
constexpr int kClockGraphics = 0;      // nvmlClockType_t
constexpr int kClockSm = 1;
constexpr int kClockMemory = 2;
constexpr unsigned long long kValueNotAvailable = ~0ULL;
constexpr unsigned int kMemoryV2Version = static_cast<unsigned int>(sizeof(MemoryV2) | (2U << 24U));

// The emulated library exports this symbol, and NVIDIA's does not.
constexpr const char* kEmulatorSymbol = "wattcount_nvml_emulator_version";

}  // namespace wattcount::nvml
