// A true power curve that grows while others read it: one writer, many readers, one mapped file.
//
//   header | slot 0 | slot 1 | ... | slot capacity-1      slot n is overwritten by slot n + capacity
//
// What a reader has read must not change afterwards. A reader first stores the moment up to which it reads
// (`read_until_ns`), then looks at `begun`. The writer first stores `begun`, then looks at `read_until_ns`. Both are
// sequentially consistent, so one of two things happens. The writer sees the reader's moment, and moves an older point up
// to it. Or the reader sees that a point is being written, and waits for it. `begun` also tells a reader which slots the
// writer may have overwritten meanwhile. Each point carries the energy up to it. So a reader that comes late, or has missed
// a whole ring, has the same integral as the others.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace wattcount::emulator {

struct LiveHeader {
  std::atomic<std::uint64_t> magic;  // stored last
  std::uint64_t capacity;
  std::atomic<std::uint64_t> begun;  // number of slots whose writing has begun
  std::atomic<std::uint64_t> count;  // number of slots written
  std::atomic<std::int64_t> read_until_ns;  // the latest of all readers
  std::atomic<std::uint64_t> clamped;
};

struct LiveSlot {
  std::atomic<std::int64_t> t_ns;
  std::atomic<std::int64_t> power_mw;
  std::atomic<std::int64_t> energy_uj;  // since the first point
};

static_assert(sizeof(LiveHeader) == 48 && sizeof(LiveSlot) == 24);
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

// The mapped file; throws std::runtime_error with the file's name.
class LiveFile {
 public:
  // Replaces an old file. A process that has mapped the old file keeps it.
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

struct LivePoint {
  std::int64_t t_ns;
  std::int64_t power_mw;
  std::int64_t energy_uj;
};

class LiveWriter {
 public:
  LiveWriter(const std::string& path, std::uint64_t capacity) : file_(LiveFile::create(path, capacity)) {}
  // Goes on after the last point of another writer. From now on the other writer's `append` throws.
  explicit LiveWriter(const std::string& path);
  // From `t_ns` on the power is `power_mw`. Throws std::invalid_argument for a negative power, and std::runtime_error
  // if another writer has taken over.
  void append(std::int64_t t_ns, std::int64_t power_mw);
  std::uint64_t clamped() const { return file_.header().clamped.load(std::memory_order_relaxed); }
  // All points since this writer came, oldest first, as they took effect; also those that the ring has overwritten.
  const std::vector<std::pair<std::int64_t, std::int64_t>>& history() const { return history_; }

 private:
  LiveFile file_;
  std::vector<std::pair<std::int64_t, std::int64_t>> history_;
  std::uint64_t next_ = 0;
  std::int64_t energy_uj_ = 0;
  std::int64_t energy_rest_pj_ = 0;
};

class LiveReader {
 public:
  explicit LiveReader(const std::string& path) : file_(LiveFile::open(path)) {}
  // Stores that the curve is read up to `t_ns`. Then returns the points that it has not returned yet.
  std::vector<LivePoint> fresh(std::int64_t t_ns);
  // The number of points that were overwritten before this reader read them.
  std::uint64_t missed() const { return missed_; }

 private:
  LiveFile file_;
  std::uint64_t next_ = 0;
  std::uint64_t missed_ = 0;
  std::uint64_t given_up_ = 0;
};

}  // namespace wattcount::emulator
