// Reads all power and energy sources of a set of GPUs, with one native thread for each GPU.
//
//   construct --- start() ------------------- mark()* drain()* --- stop()
//   (throws)      starts the threads; each                         tells the threads to end; each
//                 reads everything first                           reads everything once more first
//
// A call of the driver may never return. So `start` and `stop` wait up to a limit. A thread that is still in its call
// then is given up: what it has collected stays, and NVML must not be shut down any more.
//
// Each GPU has a thread of its own, because one read of the counter takes 3 to 12 ms on an H200. Deadlines are absolute.
// A missed deadline is skipped and counted. The sampler keeps changes, and an unchanged value at each heartbeat.
#pragma once

#include <atomic>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "clock.h"
#include "nvml/library.h"
#include "sampler/event.h"
#include "sampler/histogram.h"

namespace wattcount {

struct SamplingPlan {
  std::int64_t energy_counter_period_ns = 1'009'000'000;
  std::int64_t power_period_ns = 20'000'000;
  std::int64_t samples_period_ns = 1'000'000'000;
  std::int64_t status_period_ns = 1'000'000'000;
  std::int64_t heartbeat_ns = 1'000'000'000;
  bool usage_beside_average = false;  // read GetPowerUsage as often as field 185, also where both are the same
  std::size_t capacity_events = 64 * 1024 * 1024 / sizeof(Event);
  std::int64_t (*wall_clock_ns)() = &realtime_ns;  // the clock of the ring's stamps; a test can replace it
};

constexpr std::int64_t kStartLimitNs = 30'000'000'000;  // for the first read: 14 calls of up to 71 ms on an H200
constexpr std::int64_t kStopLimitNs = 5'000'000'000;    // for the current call and the last read

std::runtime_error no_answer(std::int64_t limit_ns);  // the error to throw when NVML did not answer within the limit

enum class SourceState { kUnknown, kOk, kUnsupported, kFailing };

struct SourceHealth {
  Source source;
  SourceState state = SourceState::kUnknown;
  std::int64_t period_ns = 0;
  std::uint64_t calls = 0;
  std::uint64_t errors = 0;
  std::uint64_t missed_deadlines = 0;
  int last_error = 0;
  std::int64_t cpu_ns = 0;
  Histogram call_ns;
  Histogram lateness_ns;
  Histogram news_ns;  // from one new value to the next: as polled, or by the ring's stamps
};

struct GpuHealth {
  std::string uuid;
  bool lost = false;
  bool stuck = false;        // the thread did not return from its call within the limit of `stop`
  std::int64_t cpu_ns = 0;   // of the thread
  std::int64_t wall_ns = 0;  // since start
  std::uint64_t events = 0;
  std::uint64_t dropped_events = 0;
  std::uint64_t missed_deadlines = 0;
  std::uint64_t ring_overflows = 0;  // drains that came too late, so that samples were lost
  std::uint64_t ring_depth = 0;  // the most samples in one drain; 0: not known yet, and overflows neither
  std::int64_t ring_period_us = 0;
  std::vector<SourceHealth> sources;
};

struct LatestValue {
  bool known = false;
  std::int64_t value = 0;
  std::int64_t t1_ns = 0;
};

// The sources of one GPU and the thread that reads them.
class GpuSampler {
 public:
  GpuSampler(const nvml::Functions& functions, nvml::Device device, std::string uuid, std::uint16_t gpu,
             const SamplingPlan& plan);
  ~GpuSampler();  // waits for the thread, for as long as it takes
  GpuSampler(const GpuSampler&) = delete;
  GpuSampler& operator=(const GpuSampler&) = delete;

  // Throws std::runtime_error where it runs already or NVML does not answer within `limit_ns`.
  void start(std::int64_t limit_ns = kStartLimitNs);
  // Whether the thread has ended. If it has not within `limit_ns`, it is given up, and `stop` does not wait again.
  bool stop(std::int64_t limit_ns = kStopLimitNs);

  // The parts of `start` and `stop`, for a caller that does other things while it waits. Deadlines: CLOCK_MONOTONIC.
  void begin();
  bool wait_begun(std::int64_t deadline_ns);  // until everything was read once
  void request_stop();
  bool wait_stopped(std::int64_t deadline_ns);
  void give_up();

  void mark();
  std::vector<Event> drain();
  std::array<LatestValue, kSourceCount> latest();
  GpuHealth health();

 private:
  // One NVML call and the sources that it reads.
  struct Call {
    void (GpuSampler::*read)(Call&);
    std::int64_t period_ns;
    std::int64_t deadline_ns = 0;
    std::int64_t backoff_ns = 0;
    bool disabled = false;
    std::vector<Source> sources;
  };
  struct Track {
    bool seen = false;
    std::int64_t value = 0;
    int nvml_return = 0;
    bool worked = false;                // at least once
    std::int64_t last_same_t0_ns = -1;  // start of the last call that worked; it returned `value`
    std::int64_t emitted_ns = 0;
    std::int64_t changed_ns = -1;
  };

  class CallTimer;

  void run();
  void sample();
  void read_all();
  void place_deadlines();
  void perform(Call& call, std::int64_t now_ns);
  void read_counter(Call& call);
  void read_fields(Call& call);
  void read_ring(Call& call);
  void read_memory_temperature(Call& call);
  void read_utilization(Call& call);
  void read_memory(Call& call);
  void read_processes(Call& call);
  void read_event_reasons(Call& call);
  void read_simple(Call& call);
  void keep(Call& call, const CallTimer& timer, int nvml_return, std::initializer_list<std::int64_t> values);
  void observe(Source source, const CallTimer& timer, int nvml_return, std::int64_t value, std::int64_t source_ts_us);
  bool hopeless(Source source, int nvml_return) const;
  void follow_clock_step(std::int64_t wall_ns, std::int64_t now_ns);
  void push(const Event& event);
  void account(Source source, const CallTimer& timer, std::int64_t cpu_ns, int nvml_return);
  bool in_forked_child() const;

  const nvml::Functions& nvml_;
  const nvml::Device device_;
  const std::string uuid_;
  const std::uint16_t gpu_;
  const SamplingPlan plan_;
  const int owner_pid_;

  std::vector<Call> calls_;
  std::array<Track, kSourceCount> tracks_{};
  int worst_return_ = 0;  // of the current call
  bool keep_unchanged_ = false;
  std::vector<nvml::Sample> ring_buffer_;
  unsigned long long ring_last_us_ = 0;
  std::int64_t ring_last_t0_ns_ = -1;
  std::vector<std::int64_t> ring_gaps_us_;  // collected until they tell the ring's period
  std::int64_t ring_clock_offset_ns_ = 0;  // CLOCK_REALTIME - CLOCK_MONOTONIC at the last drain
  std::int64_t ring_stepped_ns_ = -(std::int64_t{1} << 60);  // when the wall clock was last set back
  unsigned long long ring_ignore_above_us_ = ~0ULL;
  std::uint64_t random_ = 0x9E3779B97F4A7C15ULL;

  std::unique_ptr<std::thread> thread_;
  std::mutex lifecycle_mutex_;  // guards start and stop
  std::mutex mutex_;            // guards everything below
  // Pointers: in a forked child these still have waiters, and their destructors would wait for those for ever.
  std::unique_ptr<std::condition_variable> wake_ = std::make_unique<std::condition_variable>();     // wakes the thread
  std::unique_ptr<std::condition_variable> changed_ = std::make_unique<std::condition_variable>();  // wakes who waits for the thread
  bool stopping_ = false;
  bool given_up_ = false;
  bool mark_requested_ = false;
  bool begun_ = false;
  bool ended_ = true;
  std::int64_t started_ns_ = 0;
  std::int64_t stopped_ns_ = 0;
  std::vector<Event> events_;
  std::array<LatestValue, kSourceCount> latest_{};
  GpuHealth health_;
};

class Sampler {
 public:
  // Throws nvml::Error for a UUID that does not exist. The library must outlive the sampler.
  Sampler(const nvml::Library& library, const std::vector<std::string>& uuids, const SamplingPlan& plan);
  // Leaks the samplers whose thread does not end. Then the library must stay too.
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // As in `GpuSampler`, for all GPUs at once.
  void start(std::int64_t limit_ns = kStartLimitNs);
  bool stop(std::int64_t limit_ns = kStopLimitNs);
  void begin();
  bool wait_begun(std::int64_t deadline_ns);
  void request_stop();
  bool wait_stopped(std::int64_t deadline_ns);
  void give_up();
  void mark();
  std::vector<std::vector<Event>> drain();  // per GPU
  std::vector<std::array<LatestValue, kSourceCount>> latest();
  std::vector<GpuHealth> health();

 private:
  template <typename T>
  std::vector<T> of_each(T (GpuSampler::*get)());

  std::vector<std::unique_ptr<GpuSampler>> gpus_;
};

}  // namespace wattcount
