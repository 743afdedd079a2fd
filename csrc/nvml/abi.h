// The part of NVML's binary interface that wattcount uses: types, constants and function signatures.
//
// Written from NVML's public documentation, so that neither building nor running needs NVIDIA's headers.
// Both sides include it: the loader (csrc/nvml/library.h) looks these symbols up, the emulated library
// (csrc/emulator/library.cpp) exports them. NVML's names lose their `nvml` prefix and `_t` suffix here.
// tests/emulator/test_abi.py compares sizes and offsets with those of nvidia-ml-py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace wattcount::nvml {

struct DeviceOpaque;
using Device = DeviceOpaque*;

enum Return : int {
    SUCCESS = 0,
    ERROR_UNINITIALIZED = 1,
    ERROR_INVALID_ARGUMENT = 2,
    ERROR_NOT_SUPPORTED = 3,
    ERROR_NO_PERMISSION = 4,
    ERROR_ALREADY_INITIALIZED = 5,
    ERROR_NOT_FOUND = 6,
    ERROR_INSUFFICIENT_SIZE = 7,
    ERROR_INSUFFICIENT_POWER = 8,
    ERROR_DRIVER_NOT_LOADED = 9,
    ERROR_TIMEOUT = 10,
    ERROR_IRQ_ISSUE = 11,
    ERROR_LIBRARY_NOT_FOUND = 12,
    ERROR_FUNCTION_NOT_FOUND = 13,
    ERROR_CORRUPTED_INFOROM = 14,
    ERROR_GPU_IS_LOST = 15,
    ERROR_RESET_REQUIRED = 16,
    ERROR_OPERATING_SYSTEM = 17,
    ERROR_LIB_RM_VERSION_MISMATCH = 18,
    ERROR_IN_USE = 19,
    ERROR_MEMORY = 20,
    ERROR_NO_DATA = 21,
    ERROR_VGPU_ECC_NOT_SUPPORTED = 22,
    ERROR_INSUFFICIENT_RESOURCES = 23,
    ERROR_FREQ_NOT_SUPPORTED = 24,
    ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    ERROR_DEPRECATED = 26,
    ERROR_NOT_READY = 27,
    ERROR_GPU_NOT_FOUND = 28,
    ERROR_INVALID_STATE = 29,
    ERROR_RESET_TYPE_NOT_SUPPORTED = 30,
    ERROR_UNKNOWN = 999,
};

enum EnableState : unsigned { FEATURE_DISABLED = 0, FEATURE_ENABLED = 1 };
enum TemperatureSensors : unsigned { TEMPERATURE_GPU = 0 };
enum TemperatureThresholds : unsigned {
    TEMPERATURE_THRESHOLD_SHUTDOWN = 0,
    TEMPERATURE_THRESHOLD_SLOWDOWN = 1,
    TEMPERATURE_THRESHOLD_MEM_MAX = 2,
    TEMPERATURE_THRESHOLD_GPU_MAX = 3,
};
enum ClockType : unsigned { CLOCK_GRAPHICS = 0, CLOCK_SM = 1, CLOCK_MEM = 2, CLOCK_VIDEO = 3 };
enum ClockId : unsigned {
    CLOCK_ID_CURRENT = 0,
    CLOCK_ID_APP_CLOCK_TARGET = 1,
    CLOCK_ID_APP_CLOCK_DEFAULT = 2,
    CLOCK_ID_CUSTOMER_BOOST_MAX = 3,
};
enum ComputeMode : unsigned { COMPUTEMODE_DEFAULT = 0 };
enum Pstates : unsigned { PSTATE_0 = 0, PSTATE_8 = 8, PSTATE_UNKNOWN = 32 };
enum GpuVirtualizationMode : unsigned { GPU_VIRTUALIZATION_MODE_NONE = 0 };
enum PowerScope : unsigned { POWER_SCOPE_GPU = 0, POWER_SCOPE_MODULE = 1, POWER_SCOPE_MEMORY = 2 };

enum ValueType : unsigned {
    VALUE_TYPE_DOUBLE = 0,
    VALUE_TYPE_UNSIGNED_INT = 1,
    VALUE_TYPE_UNSIGNED_LONG = 2,
    VALUE_TYPE_UNSIGNED_LONG_LONG = 3,
    VALUE_TYPE_SIGNED_LONG_LONG = 4,
    VALUE_TYPE_SIGNED_INT = 5,
    VALUE_TYPE_UNSIGNED_SHORT = 6,
};

enum SamplingType : unsigned {
    TOTAL_POWER_SAMPLES = 0,
    GPU_UTILIZATION_SAMPLES = 1,
    MEMORY_UTILIZATION_SAMPLES = 2,
    ENC_UTILIZATION_SAMPLES = 3,
    DEC_UTILIZATION_SAMPLES = 4,
    PROCESSOR_CLK_SAMPLES = 5,
    MEMORY_CLK_SAMPLES = 6,
    MODULE_POWER_SAMPLES = 7,
};

enum : std::uint32_t {
    FI_DEV_MEMORY_TEMP = 82,
    FI_DEV_TOTAL_ENERGY_CONSUMPTION = 83,
    FI_DEV_POWER_AVERAGE = 185,
    FI_DEV_POWER_INSTANT = 186,
    FI_DEV_POWER_MIN_LIMIT = 187,
    FI_DEV_POWER_MAX_LIMIT = 188,
    FI_DEV_POWER_DEFAULT_LIMIT = 189,
    FI_DEV_POWER_CURRENT_LIMIT = 190,
    FI_DEV_POWER_REQUESTED_LIMIT = 192,
};

// Clock event ("throttle") reasons: bits of a 64-bit mask.
enum : std::uint64_t {
    CLOCKS_EVENT_REASON_NONE = 0x0,
    CLOCKS_EVENT_REASON_GPU_IDLE = 0x1,
    CLOCKS_EVENT_REASON_APPLICATIONS_CLOCKS_SETTING = 0x2,
    CLOCKS_EVENT_REASON_SW_POWER_CAP = 0x4,
    CLOCKS_EVENT_REASON_HW_SLOWDOWN = 0x8,
    CLOCKS_EVENT_REASON_SYNC_BOOST = 0x10,
    CLOCKS_EVENT_REASON_SW_THERMAL_SLOWDOWN = 0x20,
    CLOCKS_EVENT_REASON_HW_THERMAL_SLOWDOWN = 0x40,
    CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN = 0x80,
};

inline constexpr unsigned VALUE_NOT_AVAILABLE = 0xFFFFFFFFu;
inline constexpr unsigned long long VALUE_NOT_AVAILABLE_ULL = ~0ull;

inline constexpr std::size_t DEVICE_UUID_BUFFER_SIZE = 80;
inline constexpr std::size_t DEVICE_UUID_V2_BUFFER_SIZE = 96;
inline constexpr std::size_t DEVICE_NAME_BUFFER_SIZE = 64;
inline constexpr std::size_t DEVICE_NAME_V2_BUFFER_SIZE = 96;
inline constexpr std::size_t DEVICE_SERIAL_BUFFER_SIZE = 30;
inline constexpr std::size_t DEVICE_VBIOS_VERSION_BUFFER_SIZE = 32;
inline constexpr std::size_t DEVICE_PCI_BUS_ID_BUFFER_SIZE = 32;
inline constexpr std::size_t DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE = 16;
inline constexpr std::size_t SYSTEM_DRIVER_VERSION_BUFFER_SIZE = 80;
inline constexpr std::size_t SYSTEM_NVML_VERSION_BUFFER_SIZE = 80;

struct PciInfo {
    char busIdLegacy[DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE];
    unsigned domain;
    unsigned bus;
    unsigned device;
    unsigned pciDeviceId;
    unsigned pciSubSystemId;
    char busId[DEVICE_PCI_BUS_ID_BUFFER_SIZE];
};
static_assert(sizeof(PciInfo) == 68 && offsetof(PciInfo, busId) == 36);

struct Memory {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
};
static_assert(sizeof(Memory) == 24);

struct MemoryV2 {
    unsigned version;
    unsigned long long total;
    unsigned long long reserved;
    unsigned long long free;
    unsigned long long used;
};
static_assert(sizeof(MemoryV2) == 40 && offsetof(MemoryV2, total) == 8);

struct Bar1Memory {
    unsigned long long bar1Total;
    unsigned long long bar1Free;
    unsigned long long bar1Used;
};
static_assert(sizeof(Bar1Memory) == 24);

struct Utilization {
    unsigned gpu;
    unsigned memory;
};
static_assert(sizeof(Utilization) == 8);

union Value {
    double dVal;
    unsigned uiVal;
    unsigned long ulVal;
    unsigned long long ullVal;
    long long sllVal;
    int siVal;
    unsigned short usVal;
};
static_assert(sizeof(Value) == 8);

struct Sample {
    unsigned long long timeStamp;  // microseconds, CLOCK_REALTIME
    Value sampleValue;
};
static_assert(sizeof(Sample) == 16 && offsetof(Sample, sampleValue) == 8);

struct FieldValue {
    std::uint32_t fieldId;
    std::uint32_t scopeId;
    std::int64_t timestamp;  // microseconds, CLOCK_REALTIME
    std::int64_t latencyUsec;
    ValueType valueType;
    Return nvmlReturn;
    Value value;
};
static_assert(sizeof(FieldValue) == 40 && offsetof(FieldValue, timestamp) == 8 && offsetof(FieldValue, valueType) == 24 &&
              offsetof(FieldValue, nvmlReturn) == 28 && offsetof(FieldValue, value) == 32);

struct ProcessInfoV1 {
    unsigned pid;
    unsigned long long usedGpuMemory;
};
static_assert(sizeof(ProcessInfoV1) == 16);

struct ProcessInfo {  // _v2 and _v3
    unsigned pid;
    unsigned long long usedGpuMemory;
    unsigned gpuInstanceId;
    unsigned computeInstanceId;
};
static_assert(sizeof(ProcessInfo) == 24 && offsetof(ProcessInfo, usedGpuMemory) == 8 && offsetof(ProcessInfo, gpuInstanceId) == 16);

struct TemperatureV1 {
    unsigned version;
    TemperatureSensors sensorType;
    int temperature;
};
static_assert(sizeof(TemperatureV1) == 12);

// NVML's structVersion: size of the struct in the low 24 bits, version in the high 8.
template <class T>
constexpr unsigned struct_version(unsigned version) {
    return static_cast<unsigned>(sizeof(T)) | (version << 24);
}
inline constexpr unsigned MEMORY_V2_VERSION = struct_version<MemoryV2>(2);
inline constexpr unsigned TEMPERATURE_V1_VERSION = struct_version<TemperatureV1>(1);
static_assert(MEMORY_V2_VERSION == 0x02000028 && TEMPERATURE_V1_VERSION == 0x0100000C);

// Symbol that only the emulated library exports; finding it makes a run's evidence `emulated`.
inline constexpr char EMULATOR_MARKER[] = "wattcount_nvml_emulator_version";

}  // namespace wattcount::nvml

// Every NVML function that wattcount knows: X(symbol, (parameter types)). All of them return `Return`.
// (nvmlErrorString, which returns a string, is not in the list.)
// clang-format off
#define WATTCOUNT_NVML_FUNCTIONS(X)                                                                     \
    X(nvmlInit_v2, (void))                                                                              \
    X(nvmlInitWithFlags, (unsigned))                                                                    \
    X(nvmlShutdown, (void))                                                                             \
    X(nvmlSystemGetDriverVersion, (char*, unsigned))                                                    \
    X(nvmlSystemGetNVMLVersion, (char*, unsigned))                                                      \
    X(nvmlSystemGetCudaDriverVersion, (int*))                                                           \
    X(nvmlSystemGetCudaDriverVersion_v2, (int*))                                                        \
    X(nvmlSystemGetProcessName, (unsigned, char*, unsigned))                                            \
    X(nvmlDeviceGetCount_v2, (unsigned*))                                                               \
    X(nvmlDeviceGetHandleByIndex_v2, (unsigned, Device*))                                               \
    X(nvmlDeviceGetHandleByUUID, (const char*, Device*))                                                \
    X(nvmlDeviceGetHandleByPciBusId_v2, (const char*, Device*))                                         \
    X(nvmlDeviceGetHandleBySerial, (const char*, Device*))                                              \
    X(nvmlDeviceGetName, (Device, char*, unsigned))                                                     \
    X(nvmlDeviceGetUUID, (Device, char*, unsigned))                                                     \
    X(nvmlDeviceGetSerial, (Device, char*, unsigned))                                                   \
    X(nvmlDeviceGetVbiosVersion, (Device, char*, unsigned))                                             \
    X(nvmlDeviceGetBoardPartNumber, (Device, char*, unsigned))                                          \
    X(nvmlDeviceGetPciInfo_v3, (Device, PciInfo*))                                                      \
    X(nvmlDeviceGetIndex, (Device, unsigned*))                                                          \
    X(nvmlDeviceGetMinorNumber, (Device, unsigned*))                                                    \
    X(nvmlDeviceGetBrand, (Device, unsigned*))                                                          \
    X(nvmlDeviceGetArchitecture, (Device, unsigned*))                                                   \
    X(nvmlDeviceGetCudaComputeCapability, (Device, int*, int*))                                         \
    X(nvmlDeviceGetNumGpuCores, (Device, unsigned*))                                                    \
    X(nvmlDeviceGetMemoryBusWidth, (Device, unsigned*))                                                 \
    X(nvmlDeviceGetMemoryInfo, (Device, Memory*))                                                       \
    X(nvmlDeviceGetMemoryInfo_v2, (Device, MemoryV2*))                                                  \
    X(nvmlDeviceGetBAR1MemoryInfo, (Device, Bar1Memory*))                                               \
    X(nvmlDeviceGetPowerUsage, (Device, unsigned*))                                                     \
    X(nvmlDeviceGetTotalEnergyConsumption, (Device, unsigned long long*))                               \
    X(nvmlDeviceGetFieldValues, (Device, int, FieldValue*))                                             \
    X(nvmlDeviceGetSamples, (Device, SamplingType, unsigned long long, ValueType*, unsigned*, Sample*)) \
    X(nvmlDeviceGetTemperature, (Device, TemperatureSensors, unsigned*))                                \
    X(nvmlDeviceGetTemperatureV, (Device, TemperatureV1*))                                              \
    X(nvmlDeviceGetTemperatureThreshold, (Device, TemperatureThresholds, unsigned*))                    \
    X(nvmlDeviceGetClockInfo, (Device, ClockType, unsigned*))                                           \
    X(nvmlDeviceGetMaxClockInfo, (Device, ClockType, unsigned*))                                        \
    X(nvmlDeviceGetClock, (Device, ClockType, ClockId, unsigned*))                                      \
    X(nvmlDeviceGetMaxCustomerBoostClock, (Device, ClockType, unsigned*))                               \
    X(nvmlDeviceGetApplicationsClock, (Device, ClockType, unsigned*))                                   \
    X(nvmlDeviceGetDefaultApplicationsClock, (Device, ClockType, unsigned*))                            \
    X(nvmlDeviceGetUtilizationRates, (Device, Utilization*))                                            \
    X(nvmlDeviceGetEnforcedPowerLimit, (Device, unsigned*))                                             \
    X(nvmlDeviceGetPowerManagementMode, (Device, EnableState*))                                         \
    X(nvmlDeviceGetPowerManagementLimit, (Device, unsigned*))                                           \
    X(nvmlDeviceGetPowerManagementDefaultLimit, (Device, unsigned*))                                    \
    X(nvmlDeviceGetPowerManagementLimitConstraints, (Device, unsigned*, unsigned*))                     \
    X(nvmlDeviceGetCurrentClocksThrottleReasons, (Device, unsigned long long*))                         \
    X(nvmlDeviceGetCurrentClocksEventReasons, (Device, unsigned long long*))                            \
    X(nvmlDeviceGetSupportedClocksThrottleReasons, (Device, unsigned long long*))                       \
    X(nvmlDeviceGetSupportedClocksEventReasons, (Device, unsigned long long*))                          \
    X(nvmlDeviceGetPerformanceState, (Device, Pstates*))                                                \
    X(nvmlDeviceGetPowerState, (Device, Pstates*))                                                      \
    X(nvmlDeviceGetPersistenceMode, (Device, EnableState*))                                             \
    X(nvmlDeviceGetComputeMode, (Device, ComputeMode*))                                                 \
    X(nvmlDeviceGetEccMode, (Device, EnableState*, EnableState*))                                       \
    X(nvmlDeviceGetMigMode, (Device, unsigned*, unsigned*))                                             \
    X(nvmlDeviceGetMaxMigDeviceCount, (Device, unsigned*))                                              \
    X(nvmlDeviceIsMigDeviceHandle, (Device, unsigned*))                                                 \
    X(nvmlDeviceGetVirtualizationMode, (Device, GpuVirtualizationMode*))                                \
    X(nvmlDeviceGetDisplayMode, (Device, EnableState*))                                                 \
    X(nvmlDeviceGetDisplayActive, (Device, EnableState*))                                               \
    X(nvmlDeviceGetFanSpeed, (Device, unsigned*))                                                       \
    X(nvmlDeviceGetComputeRunningProcesses, (Device, unsigned*, ProcessInfoV1*))                        \
    X(nvmlDeviceGetComputeRunningProcesses_v2, (Device, unsigned*, ProcessInfo*))                       \
    X(nvmlDeviceGetComputeRunningProcesses_v3, (Device, unsigned*, ProcessInfo*))                       \
    X(nvmlDeviceGetGraphicsRunningProcesses_v3, (Device, unsigned*, ProcessInfo*))                      \
    X(nvmlDeviceGetMPSComputeRunningProcesses_v3, (Device, unsigned*, ProcessInfo*))                    \
    X(nvmlDeviceGetCurrPcieLinkGeneration, (Device, unsigned*))                                         \
    X(nvmlDeviceGetCurrPcieLinkWidth, (Device, unsigned*))                                              \
    X(nvmlDeviceGetMaxPcieLinkGeneration, (Device, unsigned*))                                          \
    X(nvmlDeviceGetMaxPcieLinkWidth, (Device, unsigned*))                                               \
    X(nvmlDeviceGetNumaNodeId, (Device, unsigned*))
// clang-format on

namespace wattcount::nvml::fn {
// One function pointer type per symbol, named like the symbol.
#define WATTCOUNT_NVML_POINTER(symbol, parameters) using symbol = Return(*) parameters;
WATTCOUNT_NVML_FUNCTIONS(WATTCOUNT_NVML_POINTER)
#undef WATTCOUNT_NVML_POINTER
using nvmlErrorString = const char* (*)(Return);
}  // namespace wattcount::nvml::fn
