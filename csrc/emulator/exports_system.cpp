// The emulated libnvidia-ml.so.1: NVML's own symbols over a machine that $WATTCOUNT_NVML_EMULATOR describes.
// Here are its start and end, the driver, and the handles of the devices.
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "emulator/exports.h"

namespace wattcount::emulator {

std::mutex mutex;
std::unique_ptr<Machine> machine;

namespace {

std::string machine_path;
unsigned int initialised = 0;

Return init() {
  const std::lock_guard<std::mutex> lock(mutex);
  const char* path = std::getenv("WATTCOUNT_NVML_EMULATOR");
  const std::string asked = path != nullptr ? path : "";
  // One process may use one machine after another, and dlclose does not unload this library.
  const bool another = initialised == 0 && !asked.empty() && asked != machine_path;
  if (machine == nullptr || another) {
    if (asked.empty()) {
      std::fputs("wattcount's emulated NVML: WATTCOUNT_NVML_EMULATOR names no configuration file\n", stderr);
      return nvml::kErrorDriverNotLoaded;
    }
    try {
      machine = std::make_unique<Machine>(asked, monotonic_ns());
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

}  // namespace

bool ready() { return machine != nullptr && initialised > 0; }

Gpu* gpu_of(Device device) {
  for (auto& gpu : machine->gpus()) {
    if (reinterpret_cast<Device>(gpu.get()) == device) {
      return gpu.get();
    }
  }
  return nullptr;
}

void spend(double ms) {
  if (ms > 0.0) {
    const auto ns = static_cast<std::int64_t>(ms * 1e6);
    timespec wait{ns / 1'000'000'000, ns % 1'000'000'000};
    nanosleep(&wait, nullptr);
  }
}

}  // namespace wattcount::emulator

using namespace wattcount::emulator;
namespace nvml = wattcount::nvml;

EXPORT const char* wattcount_nvml_emulator_version() { return WATTCOUNT_VERSION; }

EXPORT Return nvmlInit_v2() { return init(); }
EXPORT Return nvmlInit() { return init(); }
EXPORT Return nvmlInitWithFlags(unsigned int) { return init(); }

EXPORT Return nvmlShutdown() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (initialised == 0) {
    return nvml::kErrorUninitialized;
  }
  // The machine stays: the counters and grids of a GPU do not begin anew when a client leaves.
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
  return ready() ? put(machine->driver_version(), version, length) : Return{nvml::kErrorUninitialized};
}
EXPORT Return nvmlSystemGetNVMLVersion(char* version, unsigned int length) {
  const std::lock_guard<std::mutex> lock(mutex);
  return ready() ? put("13." + machine->driver_version(), version, length) : Return{nvml::kErrorUninitialized};
}
EXPORT Return nvmlSystemGetCudaDriverVersion_v2(int* version) { return put(version, 13000); }
EXPORT Return nvmlSystemGetCudaDriverVersion(int* version) { return put(version, 13000); }

EXPORT Return nvmlSystemGetProcessName(unsigned int, char* name, unsigned int length) {
  return put("process", name, length);
}

EXPORT Return nvmlDeviceGetCount_v2(unsigned int* count) {
  const std::lock_guard<std::mutex> lock(mutex);
  return ready() ? put(count, static_cast<unsigned int>(machine->gpus().size())) : Return{nvml::kErrorUninitialized};
}
EXPORT Return nvmlDeviceGetCount(unsigned int* count) { return nvmlDeviceGetCount_v2(count); }

namespace {
template <typename Wanted>
Return find(Wanted wanted, Return otherwise, Device* device) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!ready()) {
    return nvml::kErrorUninitialized;
  }
  for (const auto& gpu : machine->gpus()) {
    if (wanted(*gpu)) {
      return put(device, reinterpret_cast<Device>(gpu.get()));
    }
  }
  return otherwise;
}
}  // namespace

EXPORT Return nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device* device) {
  return find([=](const Gpu& gpu) { return gpu.index == index; }, nvml::kErrorInvalidArgument, device);
}
EXPORT Return nvmlDeviceGetHandleByIndex(unsigned int index, Device* device) {
  return nvmlDeviceGetHandleByIndex_v2(index, device);
}
EXPORT Return nvmlDeviceGetHandleByUUID(const char* uuid, Device* device) {
  return find([=](const Gpu& gpu) { return uuid != nullptr && gpu.uuid == uuid; }, nvml::kErrorNotFound, device);
}
EXPORT Return nvmlDeviceGetHandleByPciBusId_v2(const char* bus, Device* device) {
  return find([=](const Gpu& gpu) { return bus != nullptr && gpu.bus_id() == bus; }, nvml::kErrorNotFound, device);
}

// Real drivers export these too. Here they are not supported. They ignore their arguments.
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
