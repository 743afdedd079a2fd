// A true power curve that grows while it is read: one writer, many readers, in a mapped file.
//
//   header | slot 0 | slot 1 | ... | slot capacity-1      slot n is overwritten by slot n + capacity
//
// What a reader has answered for cannot be changed afterwards. A reader announces the moment it reads at
// (`read_until_ns`) before it looks at `begun`; the writer says that it begins (`begun`) before it looks at
// `read_until_ns`. Both are sequentially consistent: either the writer sees the announcement, and moves an older
// point up to it, or the reader sees that a point is on its way, and waits for it. `begun` also tells a reader
// which slots may have been overwritten under its hands. Each point carries the energy up to it, so that a reader
// that comes late, or fell behind by a whole ring, has the same integral as the others.
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
  std::atomic<std::uint64_t> begun;  // slots whose writing has begun
  std::atomic<std::uint64_t> count;  // slots written
  std::atomic<std::int64_t> read_until_ns;  // by any reader
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
  // A new file in the place of an old one: who has the old one mapped keeps it.
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
  // Goes on where another writer has left off; that one must not append any more (it throws).
  explicit LiveWriter(const std::string& path);
  // From `t_ns` on the power is `power_mw`. Throws std::invalid_argument for a negative power, std::runtime_error
  // where another writer has taken over.
  void append(std::int64_t t_ns, std::int64_t power_mw);
  std::uint64_t clamped() const { return file_.header().clamped.load(std::memory_order_relaxed); }
  // The curve as it was in effect, oldest first; all of it, also what the ring has overwritten since this writer came.
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
  // Says that the curve is read up to `t_ns`, then returns the points not yet returned.
  std::vector<LivePoint> fresh(std::int64_t t_ns);
  // Points that were overwritten before this reader came to them.
  std::uint64_t missed() const { return missed_; }

 private:
  LiveFile file_;
  std::uint64_t next_ = 0;
  std::uint64_t missed_ = 0;
  std::uint64_t given_up_ = 0;
};

}  // namespace wattcount::emulator
