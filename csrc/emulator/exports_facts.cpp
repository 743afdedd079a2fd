// The emulated NVML's answers that stay the same: what board this is, its modes and its processes.
#include <cstring>

#include "emulator/exports.h"

using namespace wattcount::emulator;
namespace nvml = wattcount::nvml;

namespace {

Return unsupported(Device device, const char* function) {
  return on_device(device, function, 0.0, [](Gpu&, std::int64_t) -> Return { return nvml::kErrorNotSupported; });
}
const Facts& facts(const Gpu& gpu) { return gpu.sensors.profile().facts; }

unsigned long long memory_bytes(const Gpu& gpu) {
  return static_cast<unsigned long long>(gpu.memory_gib * 1073741824.0);
}

}  // namespace

// A function that returns a number that does not change, given as an expression of `gpu`.
#define CONSTANT(symbol, value)                                                                          \
  EXPORT Return symbol(Device device, unsigned int* out) {                                               \
    return constant(device, __func__, out, []([[maybe_unused]] const Gpu& gpu) { return value; });       \
  }

EXPORT Return nvmlDeviceGetName(Device device, char* name, unsigned int length) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) { return put(gpu.name, name, length); });
}
EXPORT Return nvmlDeviceGetUUID(Device device, char* uuid, unsigned int length) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) { return put(gpu.uuid, uuid, length); });
}
EXPORT Return nvmlDeviceGetSerial(Device device, char*, unsigned int) { return unsupported(device, __func__); }
EXPORT Return nvmlDeviceGetVbiosVersion(Device device, char* version, unsigned int length) {
  return on_device(device, __func__, 0.0,
                   [&](Gpu&, std::int64_t) { return put(std::string("00.00.00.00.EM"), version, length); });
}
CONSTANT(nvmlDeviceGetIndex, gpu.index)
CONSTANT(nvmlDeviceGetMinorNumber, gpu.index)
EXPORT Return nvmlDeviceGetPciInfo_v3(Device device, nvml::PciInfo* pci) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) -> Return {
    if (pci == nullptr) {
      return nvml::kErrorInvalidArgument;
    }
    *pci = {};
    const std::string bus = gpu.bus_id();
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
  return on_device(device, __func__, 0.03, [&](Gpu& gpu, std::int64_t) {
    const unsigned long long total = memory_bytes(gpu);
    return put(memory, nvml::Memory{total, total - total / 100, total / 100});
  });
}
EXPORT Return nvmlDeviceGetMemoryInfo_v2(Device device, nvml::MemoryV2* memory) {
  return on_device(device, __func__, 0.03, [&](Gpu& gpu, std::int64_t) -> Return {
    if (memory != nullptr && memory->version != nvml::kMemoryV2Version) {
      return nvml::kErrorArgumentVersionMismatch;
    }
    const unsigned long long total = memory_bytes(gpu);
    return put(memory, nvml::MemoryV2{nvml::kMemoryV2Version, total, 0, total - total / 100, total / 100});
  });
}

CONSTANT(nvmlDeviceGetPowerManagementMode, 1)
CONSTANT(nvmlDeviceGetPersistenceMode, 1)
CONSTANT(nvmlDeviceGetComputeMode, 0)
CONSTANT(nvmlDeviceGetVirtualizationMode, 0)
namespace {
// The current and the pending state of a mode that not every board has.
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
  return mode(device, __func__, current, pending, &Facts::ecc, 1);
}
EXPORT Return nvmlDeviceGetMigMode(Device device, unsigned int* current, unsigned int* pending) {
  return mode(device, __func__, current, pending, &Facts::mig, 0);
}
EXPORT Return nvmlDeviceGetCudaComputeCapability(Device device, int* major, int* minor) {
  return on_device(device, __func__, 0.0, [&](Gpu& gpu, std::int64_t) {
    const Return code = put(major, gpu.sensors.profile().compute_major);
    return code != nvml::kSuccess ? code : put(minor, gpu.sensors.profile().compute_minor);
  });
}
CONSTANT(nvmlDeviceGetArchitecture, gpu.sensors.profile().architecture)
CONSTANT(nvmlDeviceGetBrand, facts(gpu).brand)
CONSTANT(nvmlDeviceGetNumGpuCores, facts(gpu).cores)
CONSTANT(nvmlDeviceGetMemoryBusWidth, facts(gpu).memory_bus_bits)
CONSTANT(nvmlDeviceIsMigDeviceHandle, 0)

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
