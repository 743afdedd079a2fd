#include "sampler/sampler.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>

namespace wattcount {
namespace {

using nvml::kSuccess;

constexpr std::int64_t kMaxBackoffNs = 5'000'000'000;
constexpr std::int64_t kLostRetryNs = 1'000'000'000;
constexpr std::int64_t kClockStepNs = 50'000'000;  // slewing moves the wall clock far less between two drains
constexpr std::int64_t kClockStepMemoryNs = 5'000'000'000;  // longer than a ring
constexpr std::size_t kRingGaps = 4;  // between samples of the ring: the fewest to tell its period from
constexpr std::size_t kChunkEvents = 8192;  // reserved ahead, so that the hot path does not allocate

std::int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::chrono::steady_clock::time_point at(std::int64_t t_ns) {
  return std::chrono::steady_clock::time_point{std::chrono::nanoseconds(t_ns)};
}

bool never_will_work(int code) {
  return code == nvml::kErrorNotSupported || code == nvml::kErrorFunctionNotFound ||
         code == nvml::kErrorInvalidArgument || code == nvml::kErrorNoPermission;
}

std::int64_t to_int64(const nvml::Value& value, int type) {
  switch (type) {
    case nvml::kDouble:
      return static_cast<std::int64_t>(value.d);
    case nvml::kUnsignedInt:
      return value.ui;
    case nvml::kUnsignedLong:
      return static_cast<std::int64_t>(value.ul);
    case nvml::kSignedInt:
      return value.si;
    case nvml::kUnsignedShort:
      return value.us;
    default:
      return static_cast<std::int64_t>(value.ull);
  }
}

// Measures one NVML call: CLOCK_MONOTONIC around it and the thread's CPU time inside.
class CallTimer {
 public:
  CallTimer() : cpu0_ns_(clock_ns(CLOCK_THREAD_CPUTIME_ID)), t0_ns(monotonic_ns()) {}
  void end() {
    t1_ns = monotonic_ns();
    cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu0_ns_;
  }

 private:
  std::int64_t cpu0_ns_;

 public:
  std::int64_t t0_ns;
  std::int64_t t1_ns = 0;
  std::int64_t cpu_ns = 0;
};

}  // namespace

std::int64_t monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }
std::int64_t realtime_ns() { return clock_ns(CLOCK_REALTIME); }

GpuSampler::GpuSampler(const nvml::Functions& functions, nvml::Device device, std::string uuid,
                       std::uint16_t gpu, const SamplingPlan& plan)
    : nvml_(functions), device_(device), uuid_(std::move(uuid)), gpu_(gpu), plan_(plan), owner_pid_(getpid()) {
  const auto add = [this](void (GpuSampler::*read)(Call&), std::int64_t period_ns, std::vector<Source> sources) {
    Call call;
    call.read = read;
    call.period_ns = period_ns;
    call.sources = std::move(sources);
    calls_.push_back(std::move(call));
  };
  // In the order of their cost: what is cheap is not kept waiting by what is dear.
  add(&GpuSampler::read_fields, plan.power_period_ns, {Source::kPowerAverage, Source::kPowerInstant});
  add(&GpuSampler::read_simple, plan.power_period_ns, {Source::kPowerUsage});
  add(&GpuSampler::read_ring, plan.samples_period_ns, {Source::kPowerSamples});
  for (const Source source : {Source::kTemperatureGpu, Source::kClockSm, Source::kClockMemory,
                              Source::kClockEventReasons, Source::kPowerLimit}) {
    add(&GpuSampler::read_simple, plan.status_period_ns, {source});
  }
  add(&GpuSampler::read_memory_temperature, plan.status_period_ns, {Source::kTemperatureMemory});
  add(&GpuSampler::read_utilization, plan.status_period_ns, {Source::kUtilizationGpu, Source::kUtilizationMemory});
  add(&GpuSampler::read_memory, plan.status_period_ns, {Source::kMemoryUsed});
  add(&GpuSampler::read_processes, plan.status_period_ns, {Source::kComputeProcesses});
  add(&GpuSampler::read_counter, plan.energy_counter_period_ns, {Source::kEnergyCounter});

  health_.uuid = uuid_;
  health_.sources.resize(kSourceCount);
  for (std::size_t i = 0; i < kSourceCount; ++i) {
    health_.sources[i].source = static_cast<Source>(i);
  }
  for (const Call& call : calls_) {
    for (const Source source : call.sources) {
      health_.sources[static_cast<std::size_t>(source)].period_ns = call.period_ns;
    }
  }
  events_.reserve(std::min(kChunkEvents, plan_.capacity_events));
  random_ += gpu;
}

GpuSampler::~GpuSampler() {
  if (in_forked_child()) {
    static_cast<void>(thread_.release());
    static_cast<void>(wake_.release());
    static_cast<void>(changed_.release());
    return;
  }
  request_stop();
  if (thread_ != nullptr) {
    thread_->join();
  }
}

bool GpuSampler::in_forked_child() const { return getpid() != owner_pid_; }

void GpuSampler::start(std::int64_t limit_ns) {
  begin();
  if (!wait_begun(monotonic_ns() + limit_ns)) {
    stop(0);
    throw std::runtime_error("NVML did not answer within " + std::to_string(limit_ns / 1'000'000'000) + " s");
  }
}

bool GpuSampler::stop(std::int64_t limit_ns) {
  request_stop();
  if (wait_stopped(monotonic_ns() + limit_ns)) {
    return true;
  }
  give_up();
  return false;
}

void GpuSampler::begin() {
  if (in_forked_child()) {
    throw std::runtime_error("a sampler cannot be started in a forked child; make a new one there");
  }
  const std::lock_guard<std::mutex> lifecycle(lifecycle_mutex_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_) {
      throw std::runtime_error(given_up_ ? "NVML has not returned from a call since the sampler was stopped"
                                         : "the sampler is already running");
    }
  }
  if (thread_ != nullptr) {  // it has ended, but nobody has waited for it
    thread_->join();
    thread_.reset();
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = false;
    given_up_ = false;
    mark_requested_ = false;
    begun_ = false;
    ended_ = false;
    health_.stuck = false;
    started_ns_ = monotonic_ns();
    stopped_ns_ = 0;
  }
  // The process's signals are for its own threads: Ctrl-C is to interrupt what they wait for. Those that a thread
  // raises by a fault of its own stay: blocked, they would kill the process without a word.
  sigset_t others;
  sigset_t before;
  sigfillset(&others);
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) {
    sigdelset(&others, own);
  }
  pthread_sigmask(SIG_SETMASK, &others, &before);
  try {
    thread_ = std::make_unique<std::thread>(&GpuSampler::run, this);
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool GpuSampler::wait_begun(std::int64_t deadline_ns) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_->wait_until(lock, at(deadline_ns), [this] { return begun_ || ended_; });
}

void GpuSampler::request_stop() {
  if (in_forked_child()) {
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_->notify_all();
}

bool GpuSampler::wait_stopped(std::int64_t deadline_ns) {
  if (in_forked_child()) {
    // The thread exists in the parent only; its handle can be neither joined nor destroyed here.
    static_cast<void>(thread_.release());
    return true;
  }
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto enough = [this] { return ended_ || given_up_; };
    changed_->wait_until(lock, at(deadline_ns), enough);
    if (!ended_) {
      return false;
    }
  }
  const std::lock_guard<std::mutex> lifecycle(lifecycle_mutex_);
  const bool ended = [this] {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ended_;
  }();
  if (thread_ != nullptr && ended) {
    thread_->join();
    thread_.reset();
  }
  return ended;
}

void GpuSampler::give_up() {
  const std::lock_guard<std::mutex> lock(mutex_);
  given_up_ = !ended_;
  health_.stuck = health_.stuck || !ended_;
  if (!ended_) {
    stopped_ns_ = monotonic_ns();
  }
}

void GpuSampler::mark() {
  if (in_forked_child()) {
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    mark_requested_ = true;
  }
  wake_->notify_all();
}

void GpuSampler::run() {
  pthread_setname_np(pthread_self(), "wattcount-nvml");
  read_all();
  place_deadlines();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    begun_ = true;
  }
  changed_->notify_all();
  sample();
  read_all();
  // Under the lock: once it is let go of, whoever waits may destroy this, after joining the thread.
  const std::lock_guard<std::mutex> lock(mutex_);
  stopped_ns_ = given_up_ ? stopped_ns_ : monotonic_ns();
  ended_ = true;
  changed_->notify_all();
}

void GpuSampler::place_deadlines() {
  // Field 185 is what GetPowerUsage returns where there is one: no need to ask twice as often as news comes.
  const Track& average = tracks_[static_cast<std::size_t>(Source::kPowerAverage)];
  const std::int64_t now = monotonic_ns();
  std::int64_t stagger = 0;
  for (Call& call : calls_) {
    if (call.sources.front() == Source::kPowerUsage && !plan_.usage_beside_average && average.seen &&
        average.nvml_return == kSuccess) {
      call.period_ns = plan_.status_period_ns;
      const std::lock_guard<std::mutex> lock(mutex_);
      health_.sources[static_cast<std::size_t>(Source::kPowerUsage)].period_ns = call.period_ns;
    }
    // Spread over the period, so that the slow sources do not all come at once.
    stagger += 61'000'000;
    call.deadline_ns = now + std::max<std::int64_t>(1, std::min(call.period_ns, stagger % call.period_ns));
  }
}

// Until it is told to stop.
void GpuSampler::sample() {
  while (true) {
    Call* next = nullptr;
    for (Call& call : calls_) {
      if (!call.disabled && (next == nullptr || call.deadline_ns < next->deadline_ns)) {
        next = &call;
      }
    }
    bool marked = false;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const auto woken = [this] { return stopping_ || mark_requested_; };
      if (next == nullptr) {
        wake_->wait(lock, woken);
      } else {
        wake_->wait_until(lock, at(next->deadline_ns), woken);
      }
      if (stopping_) {
        return;
      }
      marked = std::exchange(mark_requested_, false);
    }
    if (marked) {
      read_all();
      continue;
    }
    if (next != nullptr && next->deadline_ns <= monotonic_ns()) {
      perform(*next, monotonic_ns());
      const std::int64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
      const std::lock_guard<std::mutex> lock(mutex_);
      health_.cpu_ns = cpu;
    }
  }
}

// Everything read here is kept, changed or not: that a value still stood is what a bound needs to know.
void GpuSampler::read_all() {
  keep_unchanged_ = true;
  for (Call& call : calls_) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (given_up_) {
        break;
      }
    }
    if (!call.disabled) {
      worst_return_ = kSuccess;
      (this->*call.read)(call);
    }
  }
  keep_unchanged_ = false;
}

// Reads one call at its deadline and sets the next one.
void GpuSampler::perform(Call& call, std::int64_t now_ns) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Source source : call.sources) {
      health_.sources[static_cast<std::size_t>(source)].lateness_ns.add(now_ns - call.deadline_ns);
    }
  }
  worst_return_ = kSuccess;
  (this->*call.read)(call);
  if (call.disabled) {
    return;
  }
  if (worst_return_ != kSuccess) {
    call.backoff_ns = worst_return_ == nvml::kErrorGpuIsLost
                          ? kLostRetryNs
                          : std::min(kMaxBackoffNs, std::max(call.period_ns, 2 * call.backoff_ns));
    call.deadline_ns = monotonic_ns() + call.backoff_ns;
    return;
  }
  call.backoff_ns = 0;
  // Up to a tenth of a period of jitter keeps the reads from locking to the sensor's own grid.
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  const auto jitter = static_cast<std::int64_t>(random_ % static_cast<std::uint64_t>(call.period_ns / 10 + 1));
  call.deadline_ns += call.period_ns * 95 / 100 + jitter;
  const std::int64_t behind = monotonic_ns() - call.deadline_ns;
  if (behind > 0) {
    const std::int64_t skipped = behind / call.period_ns + 1;
    call.deadline_ns += skipped * call.period_ns;
    const std::lock_guard<std::mutex> lock(mutex_);
    health_.missed_deadlines += static_cast<std::uint64_t>(skipped);
    for (const Source source : call.sources) {
      health_.sources[static_cast<std::size_t>(source)].missed_deadlines += static_cast<std::uint64_t>(skipped);
    }
  }
}

void GpuSampler::read_counter(Call& call) {
  unsigned long long energy_mj = 0;
  CallTimer timer;
  const auto get = nvml_.DeviceGetTotalEnergyConsumption;
  const int code = get != nullptr ? get(device_, &energy_mj) : nvml::kErrorFunctionNotFound;
  timer.end();
  account(Source::kEnergyCounter, timer.t0_ns, timer.t1_ns, timer.cpu_ns, code);
  observe(Source::kEnergyCounter, timer.t0_ns, timer.t1_ns, code, static_cast<std::int64_t>(energy_mj), -1);
  call.disabled = hopeless(call.sources.front(), code);
}

void GpuSampler::read_fields(Call& call) {
  std::array<nvml::FieldValue, 2> fields{};
  fields[0].field_id = nvml::kFieldPowerAverage;
  fields[1].field_id = nvml::kFieldPowerInstant;
  CallTimer timer;
  const auto get = nvml_.DeviceGetFieldValues;
  const int code = get != nullptr ? get(device_, 2, fields.data()) : nvml::kErrorFunctionNotFound;
  timer.end();
  bool any_works = false;
  bool any_hope = false;
  for (std::size_t i = 0; i < 2; ++i) {
    const int field_code = code != kSuccess ? code : fields[i].nvml_return;
    account(call.sources[i], timer.t0_ns, timer.t1_ns, timer.cpu_ns / 2, field_code);
    observe(call.sources[i], timer.t0_ns, timer.t1_ns, field_code,
            field_code == kSuccess ? to_int64(fields[i].value, fields[i].value_type) : 0,
            field_code == kSuccess && fields[i].timestamp_us > 0 ? fields[i].timestamp_us : -1);
    any_works = any_works || field_code == kSuccess;
    any_hope = any_hope || !hopeless(call.sources[i], field_code);
  }
  if (any_works) {
    worst_return_ = kSuccess;  // keep the pace of the field that works
  }
  call.disabled = !any_hope;
}

// Whether asking again is pointless: a GPU that never had this source will not grow it.
bool GpuSampler::hopeless(Source source, int nvml_return) const {
  return never_will_work(nvml_return) && !tracks_[static_cast<std::size_t>(source)].worked;
}

void GpuSampler::read_memory_temperature(Call& call) {
  nvml::FieldValue field{};
  field.field_id = nvml::kFieldMemoryTemperature;
  CallTimer timer;
  const auto get = nvml_.DeviceGetFieldValues;
  int code = get != nullptr ? get(device_, 1, &field) : nvml::kErrorFunctionNotFound;
  timer.end();
  code = code != kSuccess ? code : field.nvml_return;
  account(Source::kTemperatureMemory, timer.t0_ns, timer.t1_ns, timer.cpu_ns, code);
  observe(Source::kTemperatureMemory, timer.t0_ns, timer.t1_ns, code,
          code == kSuccess ? to_int64(field.value, field.value_type) : 0, -1);
  call.disabled = hopeless(call.sources.front(), code);
}

void GpuSampler::read_ring(Call& call) {
  const auto get = nvml_.DeviceGetSamples;
  CallTimer timer;
  const std::int64_t wall_ns = plan_.wall_clock_ns();
  const std::int64_t paired_ns = monotonic_ns();
  follow_clock_step(wall_ns, paired_ns);
  int type = nvml::kUnsignedInt;
  unsigned int count = 0;
  int code = get != nullptr ? kSuccess : nvml::kErrorFunctionNotFound;
  if (code == kSuccess && ring_buffer_.empty()) {
    code = get(device_, nvml::kTotalPowerSamples, 0, &type, &count, nullptr);
    if (code == kSuccess || code == nvml::kErrorInsufficientSize) {
      ring_buffer_.resize(std::max<std::size_t>(2 * std::size_t{count}, 256));
      code = kSuccess;
    }
  }
  if (code == kSuccess) {
    count = static_cast<unsigned int>(ring_buffer_.size());
    code = get(device_, nvml::kTotalPowerSamples, ring_last_us_, &type, &count, ring_buffer_.data());
    if (code == nvml::kErrorInsufficientSize) {
      ring_buffer_.resize(2 * ring_buffer_.size());
      count = static_cast<unsigned int>(ring_buffer_.size());
      code = get(device_, nvml::kTotalPowerSamples, ring_last_us_, &type, &count, ring_buffer_.data());
    }
  }
  timer.end();
  // Nothing new since the last drain is not an error.
  const bool nothing_new = (code == nvml::kErrorNotFound || code == nvml::kErrorNoData) && ring_last_us_ != 0;
  account(Source::kPowerSamples, timer.t0_ns, timer.t1_ns, timer.cpu_ns, nothing_new ? kSuccess : code);
  Track& track = tracks_[static_cast<std::size_t>(Source::kPowerSamples)];
  if (nothing_new) {
    worst_return_ = kSuccess;
    return;
  }
  if (code != kSuccess) {
    observe(Source::kPowerSamples, timer.t0_ns, timer.t1_ns, code, 0, -1);
    call.disabled = hopeless(call.sources.front(), code);
    return;
  }
  {
    Event pair{-1, timer.t0_ns, paired_ns, -1, wall_ns, kSuccess,
               static_cast<std::uint16_t>(Source::kRealtime), gpu_};
    push(pair);
  }
  auto* const first = ring_buffer_.data();
  auto* const last = first + std::min<std::size_t>(count, ring_buffer_.size());
  std::sort(first, last, [](const nvml::Sample& a, const nvml::Sample& b) { return a.timestamp_us < b.timestamp_us; });
  const unsigned long long seen_before = ring_last_us_;
  std::vector<std::int64_t> gaps;
  for (auto* sample = first; sample != last; ++sample) {
    if (sample->timestamp_us <= ring_last_us_ || sample->timestamp_us > ring_ignore_above_us_) {
      continue;
    }
    if (sample != first) {
      gaps.push_back(static_cast<std::int64_t>(sample->timestamp_us - (sample - 1)->timestamp_us));
    }
    ring_last_us_ = sample->timestamp_us;
    const Event event{ring_last_t0_ns_, timer.t0_ns, timer.t1_ns, static_cast<std::int64_t>(sample->timestamp_us),
                      to_int64(sample->value, type), kSuccess, static_cast<std::uint16_t>(Source::kPowerSamples), gpu_};
    push(event);
    track.value = event.value;
  }
  ring_last_t0_ns_ = timer.t0_ns;
  track.seen = true;
  track.worked = true;
  track.nvml_return = kSuccess;
  const std::lock_guard<std::mutex> lock(mutex_);
  LatestValue& latest = latest_[static_cast<std::size_t>(Source::kPowerSamples)];
  latest = {true, track.value, timer.t1_ns};
  for (const std::int64_t gap_us : gaps) {
    health_.sources[static_cast<std::size_t>(Source::kPowerSamples)].news_ns.add(gap_us * 1000);
  }
  const auto count_seen = static_cast<std::uint64_t>(last - first);
  const bool deeper = count_seen > health_.ring_depth;
  if (health_.ring_period_us == 0) {
    ring_gaps_us_.insert(ring_gaps_us_.end(), gaps.begin(), gaps.end());
    if (ring_gaps_us_.size() >= kRingGaps) {
      const auto middle = ring_gaps_us_.begin() + static_cast<std::ptrdiff_t>(ring_gaps_us_.size() / 2);
      std::nth_element(ring_gaps_us_.begin(), middle, ring_gaps_us_.end());
      health_.ring_period_us = *middle;
    }
  }
  if (health_.ring_period_us == 0) {
    return;  // too few samples yet to tell anything of the ring
  }
  if (seen_before != 0 && count_seen >= health_.ring_depth && first != last) {
    // A full ring that does not reach back to what was seen before. Of one that was never known to be full, a single
    // lost slot looks the same.
    const auto missing_us = static_cast<std::int64_t>(first->timestamp_us - seen_before);
    health_.ring_overflows += first->timestamp_us > seen_before && 2 * missing_us > (deeper ? 6 : 3) * health_.ring_period_us ? 1 : 0;
  }
  if (deeper) {
    // The fuller a ring was found, the better its depth is known, and how soon the next drain is due.
    health_.ring_depth = count_seen;
    const std::int64_t half_full_ns = static_cast<std::int64_t>(health_.ring_depth) * health_.ring_period_us * 500;
    call.period_ns = std::max<std::int64_t>(1'000'000, std::min(plan_.samples_period_ns, half_full_ns));
    health_.sources[static_cast<std::size_t>(Source::kPowerSamples)].period_ns = call.period_ns;
  }
}

// The ring's stamps follow the wall clock. When that is set back, what comes next is stamped earlier than what was
// seen last, and asking for later samples would get none until the clock is there again: start over from now. For a
// while the ring still holds samples from before, which then lie in the future.
void GpuSampler::follow_clock_step(std::int64_t wall_ns, std::int64_t now_ns) {
  const std::int64_t offset_ns = wall_ns - now_ns;
  const auto now_us = static_cast<unsigned long long>(wall_ns / 1000);
  if (ring_last_us_ > now_us && offset_ns - ring_clock_offset_ns_ < -kClockStepNs) {
    ring_last_us_ = now_us;
    ring_stepped_ns_ = now_ns;
  }
  ring_ignore_above_us_ = now_ns - ring_stepped_ns_ < kClockStepMemoryNs ? now_us : ~0ULL;
  ring_clock_offset_ns_ = offset_ns;
}

void GpuSampler::read_utilization(Call& call) {
  nvml::Utilization utilization{};
  CallTimer timer;
  const auto get = nvml_.DeviceGetUtilizationRates;
  const int code = get != nullptr ? get(device_, &utilization) : nvml::kErrorFunctionNotFound;
  timer.end();
  account(Source::kUtilizationGpu, timer.t0_ns, timer.t1_ns, timer.cpu_ns, code);
  observe(Source::kUtilizationGpu, timer.t0_ns, timer.t1_ns, code, utilization.gpu, -1);
  observe(Source::kUtilizationMemory, timer.t0_ns, timer.t1_ns, code, utilization.memory, -1);
  call.disabled = hopeless(call.sources.front(), code);
}

void GpuSampler::read_memory(Call& call) {
  nvml::Memory memory{};
  CallTimer timer;
  const auto get = nvml_.DeviceGetMemoryInfo;
  const int code = get != nullptr ? get(device_, &memory) : nvml::kErrorFunctionNotFound;
  timer.end();
  account(Source::kMemoryUsed, timer.t0_ns, timer.t1_ns, timer.cpu_ns, code);
  observe(Source::kMemoryUsed, timer.t0_ns, timer.t1_ns, code, static_cast<std::int64_t>(memory.used), -1);
  call.disabled = hopeless(call.sources.front(), code);
}

void GpuSampler::read_processes(Call& call) {
  std::array<nvml::ProcessInfo, 64> infos{};
  auto count = static_cast<unsigned int>(infos.size());
  CallTimer timer;
  const auto get = nvml_.DeviceGetComputeRunningProcesses;
  int code = get != nullptr ? get(device_, &count, infos.data()) : nvml::kErrorFunctionNotFound;
  timer.end();
  if (code == nvml::kErrorInsufficientSize) {
    code = kSuccess;  // `count` says how many there are
  }
  account(Source::kComputeProcesses, timer.t0_ns, timer.t1_ns, timer.cpu_ns, code);
  observe(Source::kComputeProcesses, timer.t0_ns, timer.t1_ns, code, count, -1);
  call.disabled = hopeless(call.sources.front(), code);
}

void GpuSampler::read_simple(Call& call) {
  const Source source = call.sources.front();
  unsigned int value = 0;
  unsigned long long wide = 0;
  int code = nvml::kErrorFunctionNotFound;
  const nvml::Functions& f = nvml_;
  CallTimer timer;
  switch (source) {
    case Source::kPowerUsage:
      code = f.DeviceGetPowerUsage != nullptr ? f.DeviceGetPowerUsage(device_, &value) : code;
      break;
    case Source::kTemperatureGpu:
      code = f.DeviceGetTemperature != nullptr ? f.DeviceGetTemperature(device_, nvml::kTemperatureGpu, &value) : code;
      break;
    case Source::kClockSm:
      code = f.DeviceGetClockInfo != nullptr ? f.DeviceGetClockInfo(device_, nvml::kClockSm, &value) : code;
      break;
    case Source::kClockMemory:
      code = f.DeviceGetClockInfo != nullptr ? f.DeviceGetClockInfo(device_, nvml::kClockMemory, &value) : code;
      break;
    case Source::kPowerLimit:
      code = f.DeviceGetEnforcedPowerLimit != nullptr ? f.DeviceGetEnforcedPowerLimit(device_, &value) : code;
      break;
    case Source::kClockEventReasons:
      code = f.DeviceGetCurrentClocksEventReasons != nullptr ? f.DeviceGetCurrentClocksEventReasons(device_, &wide) : code;
      break;
    default:
      break;
  }
  timer.end();
  const auto number = source == Source::kClockEventReasons ? static_cast<std::int64_t>(wide) : std::int64_t{value};
  account(source, timer.t0_ns, timer.t1_ns, timer.cpu_ns, code);
  observe(source, timer.t0_ns, timer.t1_ns, code, number, -1);
  call.disabled = hopeless(call.sources.front(), code);
}

// Keeps an observation if it is a change of value or return code, was asked for, or a heartbeat is due.
void GpuSampler::observe(Source source, std::int64_t t0_ns, std::int64_t t1_ns, int nvml_return, std::int64_t value,
                         std::int64_t source_ts_us) {
  Track& track = tracks_[static_cast<std::size_t>(source)];
  if (nvml_return != kSuccess) {
    worst_return_ = nvml_return;
    value = 0;
  }
  const bool changed = !track.seen || track.value != value || track.nvml_return != nvml_return;
  if (changed || keep_unchanged_ || t0_ns - track.emitted_ns >= plan_.heartbeat_ns) {
    push(Event{track.last_same_t0_ns, t0_ns, t1_ns, source_ts_us, value, nvml_return,
               static_cast<std::uint16_t>(source), gpu_});
    track.emitted_ns = t0_ns;
  }
  const bool news = track.worked && track.nvml_return == kSuccess && nvml_return == kSuccess && track.value != value;
  const std::int64_t since_ns = news && track.changed_ns >= 0 ? t0_ns - track.changed_ns : -1;
  // What interrupts the source interrupts the count, too.
  track.changed_ns = news ? t0_ns : (nvml_return == kSuccess ? track.changed_ns : -1);
  track.seen = true;
  track.worked = track.worked || nvml_return == kSuccess;
  track.value = value;
  track.nvml_return = nvml_return;
  // A call that fails tells nothing of the value: it may have changed before it.
  track.last_same_t0_ns = nvml_return == kSuccess ? t0_ns : track.last_same_t0_ns;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (since_ns >= 0) {
    health_.sources[static_cast<std::size_t>(source)].news_ns.add(since_ns);
  }
  LatestValue& latest = latest_[static_cast<std::size_t>(source)];
  latest = {nvml_return == kSuccess, value, t1_ns};
  if (nvml_return == nvml::kErrorGpuIsLost) {
    health_.lost = true;
  }
}

void GpuSampler::push(const Event& event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (events_.size() >= plan_.capacity_events) {
    ++health_.dropped_events;
    return;
  }
  events_.push_back(event);
  ++health_.events;
}

void GpuSampler::account(Source source, std::int64_t t0_ns, std::int64_t t1_ns, std::int64_t cpu_ns, int nvml_return) {
  const std::lock_guard<std::mutex> lock(mutex_);
  SourceHealth& health = health_.sources[static_cast<std::size_t>(source)];
  ++health.calls;
  health.cpu_ns += cpu_ns;
  health.call_ns.add(t1_ns - t0_ns);
  if (nvml_return == kSuccess) {
    health.state = SourceState::kOk;
  } else {
    ++health.errors;
    health.last_error = nvml_return;
    health.state = hopeless(source, nvml_return) ? SourceState::kUnsupported : SourceState::kFailing;
  }
}

std::vector<Event> GpuSampler::drain() {
  if (in_forked_child()) {
    return {};
  }
  std::vector<Event> fresh;
  fresh.reserve(std::min(kChunkEvents, plan_.capacity_events));
  const std::lock_guard<std::mutex> lock(mutex_);
  std::swap(fresh, events_);
  return fresh;
}

std::array<LatestValue, kSourceCount> GpuSampler::latest() {
  if (in_forked_child()) {
    return {};
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  return latest_;
}

GpuHealth GpuSampler::health() {
  if (in_forked_child()) {
    return {};
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  GpuHealth copy = health_;
  if (started_ns_ != 0) {
    copy.wall_ns = (stopped_ns_ != 0 ? stopped_ns_ : monotonic_ns()) - started_ns_;
  }
  return copy;
}

Sampler::Sampler(const nvml::Library& library, const std::vector<std::string>& uuids, const SamplingPlan& plan) {
  for (const std::string& uuid : uuids) {
    gpus_.push_back(std::make_unique<GpuSampler>(library.functions(), library.device(uuid), uuid,
                                                 static_cast<std::uint16_t>(gpus_.size()), plan));
  }
}

Sampler::~Sampler() {
  stop();
  for (auto& gpu : gpus_) {
    if (!gpu->wait_stopped(0)) {
      static_cast<void>(gpu.release());  // its thread is still in it
    }
  }
}

void Sampler::start(std::int64_t limit_ns) {
  begin();
  if (!wait_begun(monotonic_ns() + limit_ns)) {
    stop(0);
    throw std::runtime_error("NVML did not answer within " + std::to_string(limit_ns / 1'000'000'000) + " s");
  }
}

bool Sampler::stop(std::int64_t limit_ns) {
  request_stop();
  if (wait_stopped(monotonic_ns() + limit_ns)) {
    return true;
  }
  give_up();
  return false;
}

void Sampler::begin() {
  for (std::size_t i = 0; i < gpus_.size(); ++i) {
    try {
      gpus_[i]->begin();
    } catch (...) {
      for (std::size_t started = 0; started < i; ++started) {
        gpus_[started]->request_stop();
      }
      throw;
    }
  }
}

bool Sampler::wait_begun(std::int64_t deadline_ns) {
  return std::all_of(gpus_.begin(), gpus_.end(), [=](auto& gpu) { return gpu->wait_begun(deadline_ns); });
}

void Sampler::request_stop() {
  for (auto& gpu : gpus_) {
    gpu->request_stop();
  }
}

bool Sampler::wait_stopped(std::int64_t deadline_ns) {
  bool all = true;
  for (auto& gpu : gpus_) {
    all = gpu->wait_stopped(deadline_ns) && all;
  }
  return all;
}

void Sampler::give_up() {
  for (auto& gpu : gpus_) {
    gpu->give_up();
  }
}

void Sampler::mark() {
  for (auto& gpu : gpus_) {
    gpu->mark();
  }
}

std::vector<std::vector<Event>> Sampler::drain() {
  std::vector<std::vector<Event>> fresh;
  for (auto& gpu : gpus_) {
    fresh.push_back(gpu->drain());
  }
  return fresh;
}

std::vector<std::array<LatestValue, kSourceCount>> Sampler::latest() {
  std::vector<std::array<LatestValue, kSourceCount>> all;
  for (auto& gpu : gpus_) {
    all.push_back(gpu->latest());
  }
  return all;
}

std::vector<GpuHealth> Sampler::health() {
  std::vector<GpuHealth> all;
  for (auto& gpu : gpus_) {
    all.push_back(gpu->health());
  }
  return all;
}

}  // namespace wattcount
