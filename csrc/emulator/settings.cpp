#include "emulator/settings.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>

namespace wattcount::emulator {

SettingsFile::SettingsFile(const std::string& path, std::size_t gpus)
    : memory_(MAP_FAILED), bytes_(std::max<std::size_t>(gpus, 1) * sizeof(Settings)) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file >= 0) {
    // New bytes are zero, and what another process has set stays.
    if (ftruncate(file, static_cast<off_t>(bytes_)) == 0) {
      memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    close(file);
  }
  if (memory_ == MAP_FAILED) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (memory_ == MAP_FAILED) {
    throw std::bad_alloc();
  }
}

SettingsFile::~SettingsFile() { munmap(memory_, bytes_); }

}  // namespace wattcount::emulator
