#include "emulator/live_truth.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "clock.h"

namespace wattcount::emulator {
namespace {

constexpr std::uint64_t kMagic = 0x3252'5754'434c'5457ULL;
constexpr std::int64_t kPatienceNs = 250'000'000;  // to wait for a point [ns]: longer than a writer loses its core

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
  if (capacity > (std::uint64_t{1} << 24U)) {
    fail(path, "a live truth has room for at most 16777216 points");
  }
  const std::size_t bytes = sizeof(LiveHeader) + capacity * sizeof(LiveSlot);
  const std::string fresh = path + ".new-" + std::to_string(getpid());
  const int fd = ::open(fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    if (fd >= 0) {
      close(fd);
      unlink(fresh.c_str());
    }
    fail(path, std::string("cannot be made: ") + std::strerror(error));
  }
  LiveFile file(map(path, fd, bytes), bytes);
  file.header().capacity = capacity;
  file.header().read_until_ns.store(INT64_MIN, std::memory_order_relaxed);
  file.header().magic.store(kMagic, std::memory_order_release);
  if (std::rename(fresh.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(fresh.c_str());
    fail(path, std::string("cannot be made: ") + std::strerror(error));
  }
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
  const LiveHeader& header = file.header();
  if (header.magic.load(std::memory_order_acquire) != kMagic || header.capacity < 2 ||
      header.capacity > (bytes - sizeof(LiveHeader)) / sizeof(LiveSlot)) {
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

LiveWriter::LiveWriter(const std::string& path) : file_(LiveFile::open(path)) {
  const LiveHeader& header = file_.header();
  next_ = header.count.load(std::memory_order_acquire);
  for (std::uint64_t number = next_ > header.capacity ? next_ - header.capacity : 0; number < next_; ++number) {
    const LiveSlot& slot = file_.slot(number);
    history_.emplace_back(slot.t_ns.load(std::memory_order_relaxed), slot.power_mw.load(std::memory_order_relaxed));
    energy_uj_ = slot.energy_uj.load(std::memory_order_relaxed);
  }
}

void LiveWriter::append(std::int64_t t_ns, std::int64_t power_mw) {
  if (power_mw < 0) {
    throw std::invalid_argument("a power must not be negative");
  }
  LiveHeader& header = file_.header();
  if (header.count.load(std::memory_order_acquire) != next_) {
    throw std::runtime_error("another writer has taken over this live truth");
  }
  header.begun.store(next_ + 1, std::memory_order_seq_cst);
  std::int64_t earliest = header.read_until_ns.load(std::memory_order_seq_cst);
  if (!history_.empty()) {
    earliest = std::max(earliest, history_.back().first);
  }
  if (t_ns < earliest) {
    t_ns = earliest;
    header.clamped.fetch_add(1, std::memory_order_relaxed);
  }
  if (!history_.empty()) {
    // mW times ns is pJ. It is added in parts: the pJ of a day at 1 kW do not fit 64 bits.
    const auto [last_ns, last_mw] = history_.back();
    constexpr std::int64_t kPicoPerMicro = 1'000'000;
    const std::int64_t ms = (t_ns - last_ns) / kPicoPerMicro;
    energy_rest_pj_ += last_mw * ((t_ns - last_ns) % kPicoPerMicro);
    energy_uj_ += last_mw * ms + energy_rest_pj_ / kPicoPerMicro;
    energy_rest_pj_ %= kPicoPerMicro;
  }
  // With release order: a reader that sees one of these values also sees `begun`.
  LiveSlot& slot = file_.slot(next_);
  slot.t_ns.store(t_ns, std::memory_order_release);
  slot.power_mw.store(power_mw, std::memory_order_release);
  slot.energy_uj.store(energy_uj_, std::memory_order_release);
  header.count.store(++next_, std::memory_order_seq_cst);
  history_.emplace_back(t_ns, power_mw);
}

std::vector<LivePoint> LiveReader::fresh(std::int64_t t_ns) {
  LiveHeader& header = file_.header();
  std::int64_t before = header.read_until_ns.load(std::memory_order_relaxed);
  while (before < t_ns && !header.read_until_ns.compare_exchange_weak(before, t_ns, std::memory_order_seq_cst)) {
  }
  const std::uint64_t begun = header.begun.load(std::memory_order_seq_cst);
  if (header.count.load(std::memory_order_acquire) < begun && begun != given_up_) {
    const std::int64_t give_up_ns = monotonic_ns() + kPatienceNs;
    while (header.count.load(std::memory_order_acquire) < begun) {
      if (monotonic_ns() > give_up_ns) {
        given_up_ = begun;  // the writer died in the middle of this point
        break;
      }
      sched_yield();
    }
  }
  std::vector<LivePoint> points;
  while (true) {
    const std::uint64_t count = header.count.load(std::memory_order_acquire);
    const std::uint64_t oldest = count >= header.capacity ? count - header.capacity + 1 : 0;
    const std::uint64_t first = std::max(next_, oldest);
    points.clear();
    for (std::uint64_t number = first; number < count; ++number) {
      const LiveSlot& slot = file_.slot(number);
      points.push_back({slot.t_ns.load(std::memory_order_acquire), slot.power_mw.load(std::memory_order_acquire),
                        slot.energy_uj.load(std::memory_order_acquire)});
    }
    if (first >= count || header.begun.load(std::memory_order_relaxed) - first <= header.capacity) {
      missed_ += first - next_;
      next_ = std::max(first, count);
      return points;
    }
  }
}

}  // namespace wattcount::emulator
