#include "nvml/library.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <cstring>

namespace wattcount::nvml {
namespace {

constexpr const char* kDefaultName = "libnvidia-ml.so.1";
constexpr unsigned int kTextBytes = 96;  // [bytes] of a text: the longest size that NVML documents

std::string real_path(void* handle, const std::string& asked) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr || map->l_name == nullptr) {
    return asked;
  }
  std::array<char, PATH_MAX> resolved{};
  return realpath(map->l_name, resolved.data()) != nullptr ? std::string(resolved.data())
                                                           : std::string(map->l_name);
}

}  // namespace

Library::Library(const std::optional<std::string>& path) {
  std::string name = path.value_or("");
  if (name.empty()) {
    const char* from_env = std::getenv("WATTCOUNT_NVML_PATH");
    name = from_env != nullptr && *from_env != '\0' ? from_env : kDefaultName;
  }
  handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ == nullptr) {
    const char* why = dlerror();
    throw LibraryNotFound("NVML could not be loaded (" + std::string(why != nullptr ? why : name) +
                          "). Install the NVIDIA driver, or name the library in WATTCOUNT_NVML_PATH");
  }
  path_ = real_path(handle_, name);
  emulated_ = dlsym(handle_, kEmulatorSymbol) != nullptr;

  const auto load = [this](auto& slot, const std::vector<std::string>& names) {
    for (const std::string& symbol : names) {
      if (void* found = dlsym(handle_, symbol.c_str())) {
        slot = reinterpret_cast<std::remove_reference_t<decltype(slot)>>(found);
        return;
      }
    }
    missing_.push_back(names.front());
  };
  const auto load_endings = [&](auto& slot, const std::string& name, std::vector<std::string> endings) {
    for (std::string& ending : endings) {
      ending.insert(0, name);
    }
    load(slot, endings);
  };
  Functions& f = functions_;
  load(f.ErrorString, {"nvmlErrorString"});
  load(f.DeviceGetCurrentClocksEventReasons,
       {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"});
#define X(name, parameters, ...) load_endings(f.name, "nvml" #name, {__VA_ARGS__});
  WATTCOUNT_NVML_FUNCTIONS(X)
#undef X

  if (f.Init == nullptr || f.Shutdown == nullptr || f.DeviceGetCount == nullptr ||
      f.DeviceGetHandleByIndex == nullptr || f.DeviceGetHandleByUUID == nullptr || f.DeviceGetUUID == nullptr) {
    const std::string what = path_;
    dlclose(handle_);
    throw LibraryNotFound(what + " is not NVML, or is too old: nvmlInit, nvmlDeviceGetCount and "
                                 "nvmlDeviceGetHandleByUUID are missing");
  }
  const Return code = f.Init();
  if (code != kSuccess) {
    std::string message = "nvmlInit failed: " + error_text(code);
    if (code == kErrorDriverNotLoaded) {
      message += ". Load the NVIDIA driver (nvidia-smi must work)";
    } else if (code == kErrorNoPermission) {
      message += ". Ask for read access to /dev/nvidiactl and /dev/nvidia* (group video or render, or the container's GPU option)";
    } else if (code == kErrorLibRmVersionMismatch) {
      message += ". The driver was updated under the running kernel module: reboot or reload it";
    }
    dlclose(handle_);
    throw Error(code, "nvmlInit", message);
  }
  open_ = true;
  owner_pid_ = getpid();
}

Library::Library(Functions functions) : path_("(test)"), functions_(functions) {}

Library::~Library() { close(); }

void Library::close() {
  if (!kept_open_ && open_.exchange(false)) {
    if (getpid() == owner_pid_) {
      functions_.Shutdown();
    }
    // The library stays loaded: NVML has threads and thread-local state of its own.
  }
}

std::string Library::error_text(Return code) const {
  const char* text = functions_.ErrorString != nullptr ? functions_.ErrorString(code) : nullptr;
  return (text != nullptr ? std::string(text) : "NVML error") + " (" + std::to_string(code) + ")";
}

void Library::check(Return code, const char* function) const {
  if (code != kSuccess) {
    throw Error(code, function, std::string(function) + " failed: " + error_text(code));
  }
}

std::string Library::driver_version() const {
  std::array<char, kTextBytes> text{};
  check(ask(functions_.SystemGetDriverVersion, text.data(), text.size()), "nvmlSystemGetDriverVersion");
  return text.data();
}

std::string Library::nvml_version() const {
  std::array<char, kTextBytes> text{};
  check(ask(functions_.SystemGetNVMLVersion, text.data(), text.size()), "nvmlSystemGetNVMLVersion");
  return text.data();
}

std::optional<int> Library::cuda_driver_version() const {
  int version = 0;
  const bool told = ask(functions_.SystemGetCudaDriverVersion, &version) == kSuccess;
  return told ? std::optional(version) : std::nullopt;
}

unsigned int Library::device_count() const {
  unsigned int count = 0;
  check(functions_.DeviceGetCount(&count), "nvmlDeviceGetCount");
  return count;
}

std::vector<std::string> Library::device_uuids() const {
  std::vector<std::string> uuids;
  const unsigned int count = device_count();
  for (unsigned int index = 0; index < count; ++index) {
    Device device = nullptr;
    check(functions_.DeviceGetHandleByIndex(index, &device), "nvmlDeviceGetHandleByIndex");
    std::array<char, kTextBytes> uuid{};
    check(functions_.DeviceGetUUID(device, uuid.data(), uuid.size()), "nvmlDeviceGetUUID");
    uuids.emplace_back(uuid.data());
  }
  return uuids;
}

Device Library::device(const std::string& uuid) const {
  Device device = nullptr;
  check(functions_.DeviceGetHandleByUUID(uuid.c_str(), &device), "nvmlDeviceGetHandleByUUID");
  return device;
}

std::vector<std::pair<std::string, Fact>> Library::device_info(const std::string& uuid) const {
  const Device dev = device(uuid);
  const Functions& f = functions_;
  std::vector<std::pair<std::string, Fact>> facts;

  // `value` counts only if NVML told it.
  const auto add = [&](const char* name, Return code, const auto& value) {
    if constexpr (std::is_integral_v<std::decay_t<decltype(value)>>) {
      facts.emplace_back(name, code == kSuccess ? Fact(static_cast<std::int64_t>(value)) : Fact());
    } else {
      facts.emplace_back(name, code == kSuccess ? Fact(value) : Fact());
    }
  };
  const auto text = [&](const char* name, Return (*get)(Device, char*, unsigned int)) {
    std::array<char, kTextBytes> buffer{};
    const Return code = ask(get, dev, buffer.data(), buffer.size());
    add(name, code, std::string(buffer.data()));
  };
  const auto number = [&](const char* name, Return (*get)(Device, unsigned int*)) {
    unsigned int value = 0;
    const Return code = ask(get, dev, &value);
    add(name, code, value);
  };
  const auto by_kind = [&](const char* name, Return (*get)(Device, int, unsigned int*), int kind) {
    unsigned int value = 0;
    const Return code = ask(get, dev, kind, &value);
    add(name, code, value);
  };
  const auto two = [&](const char* first, const char* second, Return (*get)(Device, unsigned int*, unsigned int*)) {
    unsigned int a = 0;
    unsigned int b = 0;
    const Return code = ask(get, dev, &a, &b);
    add(first, code, a);
    add(second, code, b);
  };

  facts.emplace_back("uuid", uuid);
  number("index", f.DeviceGetIndex);
  text("name", f.DeviceGetName);
  text("serial", f.DeviceGetSerial);
  text("vbios", f.DeviceGetVbiosVersion);
  text("board_part_number", f.DeviceGetBoardPartNumber);
  text("inforom_version", f.DeviceGetInforomImageVersion);
  PciInfo pci{};
  Return code = ask(f.DeviceGetPciInfo, dev, &pci);
  add("pci_bus_id", code, std::string(pci.bus_id));
  add("pci_device_id", code, pci.pci_device_id);
  add("pci_subsystem_id", code, pci.pci_subsystem_id);
  Memory memory{};
  code = ask(f.DeviceGetMemoryInfo, dev, &memory);
  add("memory_total_bytes", code, memory.total);
  add("memory_free_bytes", code, memory.free);
  number("power_limit_enforced_mw", f.DeviceGetEnforcedPowerLimit);
  number("power_limit_mw", f.DeviceGetPowerManagementLimit);
  number("power_limit_default_mw", f.DeviceGetPowerManagementDefaultLimit);
  two("power_limit_min_mw", "power_limit_max_mw", f.DeviceGetPowerManagementLimitConstraints);
  by_kind("max_sm_clock_mhz", f.DeviceGetMaxClockInfo, kClockSm);
  by_kind("max_memory_clock_mhz", f.DeviceGetMaxClockInfo, kClockMemory);
  by_kind("applications_graphics_clock_mhz", f.DeviceGetApplicationsClock, kClockGraphics);
  by_kind("applications_memory_clock_mhz", f.DeviceGetApplicationsClock, kClockMemory);
  two("mig_mode", "mig_mode_pending", f.DeviceGetMigMode);
  two("ecc_mode", "ecc_mode_pending", f.DeviceGetEccMode);
  number("persistence_mode", f.DeviceGetPersistenceMode);
  number("compute_mode", f.DeviceGetComputeMode);
  number("virtualization_mode", f.DeviceGetVirtualizationMode);
  number("architecture", f.DeviceGetArchitecture);
  int major = 0;
  int minor = 0;
  code = ask(f.DeviceGetCudaComputeCapability, dev, &major, &minor);
  add("compute_capability", code, std::to_string(major) + "." + std::to_string(minor));
  return facts;
}

std::vector<ComputeProcess> Library::compute_processes(const std::string& uuid) const {
  const Device dev = device(uuid);
  std::vector<ProcessInfo> infos(64);
  unsigned int count = 0;
  Return code = kSuccess;
  for (int attempt = 0; attempt < 4; ++attempt) {
    count = static_cast<unsigned int>(infos.size());
    code = ask(functions_.DeviceGetComputeRunningProcesses, dev, &count, infos.data());
    if (code != kErrorInsufficientSize) {
      break;
    }
    infos.resize(std::size_t{count} + 16);  // processes may start between two calls
  }
  check(code, "nvmlDeviceGetComputeRunningProcesses");
  std::vector<ComputeProcess> processes;
  for (unsigned int i = 0; i < count; ++i) {
    const auto used = infos[i].used_gpu_memory;
    processes.push_back({infos[i].pid, used == kValueNotAvailable ? std::nullopt : std::optional<std::uint64_t>(used)});
  }
  return processes;
}

std::vector<unsigned int> Library::supported_sm_clocks_mhz(const std::string& uuid) const {
  const Device dev = device(uuid);
  constexpr unsigned int kMost = 1024;
  std::vector<unsigned int> memory(kMost);
  unsigned int count = kMost;
  if (ask(functions_.DeviceGetSupportedMemoryClocks, dev, &count, memory.data()) != kSuccess || count == 0) {
    return {};
  }
  memory.resize(std::min(count, kMost));
  // Under load a GPU uses its highest memory clock.
  std::vector<unsigned int> clocks(kMost);
  count = kMost;
  const unsigned int fastest_mhz = *std::max_element(memory.begin(), memory.end());
  if (ask(functions_.DeviceGetSupportedGraphicsClocks, dev, fastest_mhz, &count, clocks.data()) != kSuccess) {
    return {};
  }
  clocks.resize(std::min(count, kMost));
  std::sort(clocks.begin(), clocks.end());
  return clocks;
}

void Library::set_power_limit_mw(const std::string& uuid, unsigned int limit_mw) const {
  check(ask(functions_.DeviceSetPowerManagementLimit, device(uuid), limit_mw), "nvmlDeviceSetPowerManagementLimit");
}

void Library::lock_sm_clock_mhz(const std::string& uuid, unsigned int clock_mhz) const {
  check(ask(functions_.DeviceSetGpuLockedClocks, device(uuid), clock_mhz, clock_mhz), "nvmlDeviceSetGpuLockedClocks");
}

void Library::unlock_sm_clock(const std::string& uuid) const {
  check(ask(functions_.DeviceResetGpuLockedClocks, device(uuid)), "nvmlDeviceResetGpuLockedClocks");
}

}  // namespace wattcount::nvml
