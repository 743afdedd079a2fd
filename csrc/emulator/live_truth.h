// A true power curve that grows while it is read: one writer, many readers, in a mapped file.
//
//   header | slot 0 | slot 1 | ... | slot capacity-1      slot n is overwritten by slot n + capacity
//
// The writer fills a slot, then releases the count; a reader acquires the count and reads the slots it has not
// seen. A reader that falls a whole ring behind notices and starts again at the oldest slot that is whole. Readers
// publish the latest moment they have answered for; an append older than that is moved there, and counted:
// what a sensor has shown cannot be changed afterwards.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace wattcount::emulator {

struct LiveHeader {
  std::uint64_t magic;
  std::uint64_t capacity;
  std::atomic<std::uint64_t> count;        // slots ever written
  std::atomic<std::int64_t> read_until_ns;  // by any reader
  std::atomic<std::uint64_t> clamped;
};

struct LiveSlot {
  std::atomic<std::int64_t> t_ns;
  std::atomic<std::int64_t> power_mw;
};

static_assert(sizeof(LiveHeader) == 40 && sizeof(LiveSlot) == 16);
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

// The mapped file; throws std::runtime_error with the file's name.
class LiveFile {
 public:
  static LiveFile create(const std::string& path, std::uint64_t capacity);
  static LiveFile open(const std::string& path);
  LiveFile(LiveFile&& other) noexcept;
  LiveFile(const LiveFile&) = delete;
  LiveFile& operator=(const LiveFile&) = delete;
  LiveFile& operator=(LiveFile&&) = delete;
  ~LiveFile();

  LiveHeader& header() const { return *static_cast<LiveHeader*>(memory_); }
  LiveSlot& slot(std::uint64_t number) const {
    return reinterpret_cast<LiveSlot*>(static_cast<char*>(memory_) + sizeof(LiveHeader))[number % header().capacity];
  }

 private:
  LiveFile(void* memory, std::size_t bytes) : memory_(memory), bytes_(bytes) {}
  void* memory_;
  std::size_t bytes_;
};

class LiveWriter {
 public:
  LiveWriter(const std::string& path, std::uint64_t capacity) : file_(LiveFile::create(path, capacity)) {}
  // From `t_ns` on the power is `power_mw`.
  void append(std::int64_t t_ns, std::int64_t power_mw);
  std::uint64_t clamped() const { return file_.header().clamped.load(std::memory_order_relaxed); }
  // The curve as it was in effect, oldest first; all of it, also what the ring has overwritten.
  const std::vector<std::pair<std::int64_t, std::int64_t>>& history() const { return history_; }

 private:
  LiveFile file_;
  std::vector<std::pair<std::int64_t, std::int64_t>> history_;
};

class LiveReader {
 public:
  explicit LiveReader(const std::string& path) : file_(LiveFile::open(path)) {}
  // Says that the curve is read up to `t_ns`, then returns the points not yet returned.
  std::vector<std::pair<std::int64_t, std::int64_t>> fresh(std::int64_t t_ns);

 private:
  LiveFile file_;
  std::uint64_t next_ = 0;
};

}  // namespace wattcount::emulator
