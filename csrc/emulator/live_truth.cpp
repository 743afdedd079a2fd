#include "emulator/live_truth.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace wattcount::emulator {
namespace {

constexpr std::uint64_t kMagic = 0x3152'5754'434c'5457ULL;

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what);
}

void* map(const std::string& path, int fd, std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int error = errno;
  close(fd);
  if (memory == MAP_FAILED) {
    fail(path, std::string("cannot be mapped: ") + std::strerror(error));
  }
  return memory;
}

}  // namespace

LiveFile LiveFile::create(const std::string& path, std::uint64_t capacity) {
  if (capacity < 2) {
    fail(path, "a live truth needs room for at least 2 points");
  }
  const std::size_t bytes = sizeof(LiveHeader) + capacity * sizeof(LiveSlot);
  // Not truncated: readers may have mapped it, and a second writer takes over where the first one was.
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    if (fd >= 0) {
      close(fd);
    }
    fail(path, std::string("cannot be made: ") + std::strerror(error));
  }
  LiveFile file(map(path, fd, bytes), bytes);
  if (file.header().magic == kMagic && file.header().capacity == capacity) {
    return file;
  }
  file.header().capacity = capacity;
  file.header().count.store(0, std::memory_order_relaxed);
  file.header().read_until_ns.store(INT64_MIN, std::memory_order_relaxed);
  file.header().magic = kMagic;
  return file;
}

LiveFile LiveFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat info {};
  if (fd < 0 || fstat(fd, &info) != 0) {
    const int error = errno;
    if (fd >= 0) {
      close(fd);
    }
    fail(path, std::string("cannot be opened: ") + std::strerror(error));
  }
  const auto bytes = static_cast<std::size_t>(info.st_size);
  if (bytes < sizeof(LiveHeader)) {
    close(fd);
    fail(path, "is no live truth");
  }
  LiveFile file(map(path, fd, bytes), bytes);
  if (file.header().magic != kMagic || bytes < sizeof(LiveHeader) + file.header().capacity * sizeof(LiveSlot)) {
    fail(path, "is no live truth");
  }
  return file;
}

LiveFile::LiveFile(LiveFile&& other) noexcept : memory_(other.memory_), bytes_(other.bytes_) {
  other.memory_ = nullptr;
}

LiveFile::~LiveFile() {
  if (memory_ != nullptr) {
    munmap(memory_, bytes_);
  }
}

void LiveWriter::append(std::int64_t t_ns, std::int64_t power_mw) {
  LiveHeader& header = file_.header();
  const std::uint64_t number = header.count.load(std::memory_order_relaxed);
  std::int64_t earliest = header.read_until_ns.load(std::memory_order_acquire);
  if (number > 0) {
    earliest = std::max(earliest, file_.slot(number - 1).t_ns.load(std::memory_order_relaxed));
  }
  if (t_ns < earliest) {
    t_ns = earliest;
    header.clamped.fetch_add(1, std::memory_order_relaxed);
  }
  LiveSlot& slot = file_.slot(number);
  slot.t_ns.store(t_ns, std::memory_order_relaxed);
  slot.power_mw.store(power_mw, std::memory_order_relaxed);
  header.count.store(number + 1, std::memory_order_release);
  history_.emplace_back(t_ns, power_mw);
}

std::vector<std::pair<std::int64_t, std::int64_t>> LiveReader::fresh(std::int64_t t_ns) {
  LiveHeader& header = file_.header();
  std::int64_t before = header.read_until_ns.load(std::memory_order_relaxed);
  while (before < t_ns && !header.read_until_ns.compare_exchange_weak(before, t_ns, std::memory_order_acq_rel)) {
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> points;
  while (true) {
    const std::uint64_t count = header.count.load(std::memory_order_acquire);
    // The slot being written next is not to be trusted, nor any that it may overtake meanwhile.
    const std::uint64_t oldest = count >= header.capacity ? count - header.capacity + 1 : 0;
    if (next_ > count) {
      next_ = 0;  // made anew by a writer with another capacity
    }
    const std::uint64_t first = std::max(next_, oldest);
    points.clear();
    for (std::uint64_t number = first; number < count; ++number) {
      const LiveSlot& slot = file_.slot(number);
      // Acquire: the count below is not read before them.
      points.emplace_back(slot.t_ns.load(std::memory_order_acquire), slot.power_mw.load(std::memory_order_acquire));
    }
    if (header.count.load(std::memory_order_relaxed) + 1 - first <= header.capacity || first == count) {
      next_ = count;
      return points;
    }
  }
}

}  // namespace wattcount::emulator
