#include "sampler/sampler.h"

#include <pthread.h>
#include <signal.h>
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
constexpr std::size_t kChunkEvents = 8192;  // space reserved ahead, so that reading rarely allocates

std::chrono::steady_clock::time_point at(std::int64_t t_ns) {
  return std::chrono::steady_clock::time_point{std::chrono::nanoseconds(t_ns)};
}

// `start` and `stop` of both GpuSampler and Sampler.
template <typename Any>
void start_within(Any& sampler, std::int64_t limit_ns) {
  sampler.begin();
  if (!sampler.wait_begun(monotonic_ns() + limit_ns)) {
    sampler.stop(0);
    throw no_answer(limit_ns);
  }
}

template <typename Any>
bool stop_within(Any& sampler, std::int64_t limit_ns) {
  sampler.request_stop();
  if (sampler.wait_stopped(monotonic_ns() + limit_ns)) {
    return true;
  }
  sampler.give_up();
  return false;
}

}  // namespace

std::runtime_error no_answer(std::int64_t limit_ns) {
  return std::runtime_error("NVML did not answer within " + std::to_string(limit_ns / 1'000'000'000) + " s");
}

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
  // The cheap calls come first, so that they do not wait for the expensive ones.
  add(&GpuSampler::read_fields, plan.power_period_ns, {Source::kPowerAverage, Source::kPowerInstant});
  add(&GpuSampler::read_simple, plan.power_period_ns, {Source::kPowerUsage});
  add(&GpuSampler::read_ring, plan.samples_period_ns, {Source::kPowerSamples});
  for (const Source source : {Source::kTemperatureGpu, Source::kClockSm, Source::kClockMemory}) {
    add(&GpuSampler::read_simple, plan.status_period_ns, {source});
  }
  add(&GpuSampler::read_event_reasons, plan.status_period_ns, {Source::kClockEventReasons});
  add(&GpuSampler::read_simple, plan.status_period_ns, {Source::kPowerLimit});
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
      health_.sources[index_of(source)].period_ns = call.period_ns;
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

void GpuSampler::start(std::int64_t limit_ns) { start_within(*this, limit_ns); }

bool GpuSampler::stop(std::int64_t limit_ns) { return stop_within(*this, limit_ns); }

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
  if (thread_ != nullptr) {  // it has ended, and is not joined yet
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
  // The process's other threads handle its signals: Ctrl-C must interrupt what they wait for. Signals of a thread's own
  // faults are not blocked: a blocked one would kill the process without a message.
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
    // The thread exists only in the parent. Here its handle can be neither joined nor destroyed.
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
  // All of this under the lock: when it is released, a waiting thread may join this one and destroy the object.
  const std::lock_guard<std::mutex> lock(mutex_);
  stopped_ns_ = given_up_ ? stopped_ns_ : monotonic_ns();
  ended_ = true;
  changed_->notify_all();
}

void GpuSampler::place_deadlines() {
  // If there is a field 185, GetPowerUsage returns the same value and need not be read as often.
  const Track& average = tracks_[index_of(Source::kPowerAverage)];
  const std::int64_t now = monotonic_ns();
  std::int64_t stagger = 0;
  for (Call& call : calls_) {
    if (call.sources.front() == Source::kPowerUsage && !plan_.usage_beside_average && average.seen &&
        average.nvml_return == kSuccess) {
      call.period_ns = plan_.status_period_ns;
      const std::lock_guard<std::mutex> lock(mutex_);
      health_.sources[index_of(Source::kPowerUsage)].period_ns = call.period_ns;
    }
    // Spread over the period, so that the slow calls do not all come at once.
    stagger += 61'000'000;
    call.deadline_ns = now + std::max<std::int64_t>(1, std::min(call.period_ns, stagger % call.period_ns));
  }
}

// Reads each call at its deadline, until it is told to stop.
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

// Keeps everything that it reads, changed or not: the bounds of an interval need to know that a value had not changed yet.
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

// Performs one call and sets its next deadline.
void GpuSampler::perform(Call& call, std::int64_t now_ns) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Source source : call.sources) {
      health_.sources[index_of(source)].lateness_ns.add(now_ns - call.deadline_ns);
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
  // A jitter of up to a tenth of a period, so that the reads do not lock to the sensor's own grid.
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
      health_.sources[index_of(source)].missed_deadlines += static_cast<std::uint64_t>(skipped);
    }
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
      static_cast<void>(gpu.release());  // leaked: its thread still uses it
    }
  }
}

void Sampler::start(std::int64_t limit_ns) { start_within(*this, limit_ns); }

bool Sampler::stop(std::int64_t limit_ns) { return stop_within(*this, limit_ns); }

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

template <typename T>
std::vector<T> Sampler::of_each(T (GpuSampler::*get)()) {
  std::vector<T> all;
  for (auto& gpu : gpus_) {
    all.push_back((*gpu.*get)());
  }
  return all;
}

std::vector<std::vector<Event>> Sampler::drain() { return of_each(&GpuSampler::drain); }

std::vector<std::array<LatestValue, kSourceCount>> Sampler::latest() { return of_each(&GpuSampler::latest); }

std::vector<GpuHealth> Sampler::health() { return of_each(&GpuSampler::health); }

}  // namespace wattcount
