// What clients have set on the GPUs of an emulated machine: one mapped file beside its configuration, so that all
// processes see the same, and a setting outlives the process that made it, as a real GPU's does.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace wattcount::emulator {

// Of one GPU; 0: as the machine's configuration has it.
struct Settings {
  std::atomic<std::uint32_t> power_limit_mw;
  std::atomic<std::uint32_t> locked_min_mhz;
  std::atomic<std::uint32_t> locked_max_mhz;
};

static_assert(sizeof(Settings) == 12);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

class SettingsFile {
 public:
  // The file at `path`, made if need be. Where it cannot be, settings are this process' own.
  SettingsFile(const std::string& path, std::size_t gpus);
  SettingsFile(const SettingsFile&) = delete;
  SettingsFile& operator=(const SettingsFile&) = delete;
  ~SettingsFile();

  Settings& of(std::size_t gpu) const { return static_cast<Settings*>(memory_)[gpu]; }

 private:
  void* memory_;
  std::size_t bytes_;
};

}  // namespace wattcount::emulator
