// What clients have set on the GPUs of an emulated machine. A mapped file beside the machine's configuration holds it: all
// processes see the same settings, and these stay when the process that made them ends, as on a real GPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace wattcount::emulator {

// The settings of one GPU. 0: not set, so the machine's configuration holds.
struct Settings {
  std::atomic<std::uint32_t> power_limit_mw;
  std::atomic<std::uint32_t> locked_min_mhz;
  std::atomic<std::uint32_t> locked_max_mhz;
};

static_assert(sizeof(Settings) == 12);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

class SettingsFile {
 public:
  // Opens the file at `path`, or makes it. If neither works, only this process sees the settings.
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
