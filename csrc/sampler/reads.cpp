// Reads the sources, one call of NVML at a time, and decides what is kept.
#include <algorithm>

#include "sampler/sampler.h"

namespace wattcount {
namespace {

using nvml::ask;
using nvml::kSuccess;

constexpr std::int64_t kClockStepNs = 50'000'000;  // [ns] a step of the wall clock; slewing moves it far less between two drains
constexpr std::int64_t kClockStepMemoryNs = 5'000'000'000;  // [ns] in which a ring may still hold stamps from before a step
constexpr std::size_t kRingGaps = 4;  // the fewest gaps between samples that tell the ring's period

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

}  // namespace

// Measures one NVML call: its start and end on CLOCK_MONOTONIC, and the thread's CPU time in it.
class GpuSampler::CallTimer {
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

// Whether it is pointless to ask again: the source has never worked, and the code says that it never will.
bool GpuSampler::hopeless(Source source, int nvml_return) const {
  return never_will_work(nvml_return) && !tracks_[index_of(source)].worked;
}

// Handles the result of a call: `values` has one value for each of the call's sources.
void GpuSampler::keep(Call& call, const CallTimer& timer, int nvml_return, std::initializer_list<std::int64_t> values) {
  account(call.sources.front(), timer, timer.cpu_ns, nvml_return);
  std::size_t i = 0;
  for (const std::int64_t value : values) {
    observe(call.sources[i++], timer, nvml_return, value, -1);
  }
  call.disabled = hopeless(call.sources.front(), nvml_return);
}

void GpuSampler::read_counter(Call& call) {
  unsigned long long energy_mj = 0;
  CallTimer timer;
  const int code = ask(nvml_.DeviceGetTotalEnergyConsumption, device_, &energy_mj);
  timer.end();
  keep(call, timer, code, {static_cast<std::int64_t>(energy_mj)});
}

void GpuSampler::read_fields(Call& call) {
  std::array<nvml::FieldValue, 2> fields{};
  fields[0].field_id = nvml::kFieldPowerAverage;
  fields[1].field_id = nvml::kFieldPowerInstant;
  CallTimer timer;
  const int code = ask(nvml_.DeviceGetFieldValues, device_, 2, fields.data());
  timer.end();
  bool any_works = false;
  bool any_hope = false;
  for (std::size_t i = 0; i < 2; ++i) {
    const int field_code = code != kSuccess ? code : fields[i].nvml_return;
    account(call.sources[i], timer, timer.cpu_ns / 2, field_code);
    observe(call.sources[i], timer, field_code,
            field_code == kSuccess ? to_int64(fields[i].value, fields[i].value_type) : 0,
            field_code == kSuccess && fields[i].timestamp_us > 0 ? fields[i].timestamp_us : -1);
    any_works = any_works || field_code == kSuccess;
    any_hope = any_hope || !hopeless(call.sources[i], field_code);
  }
  if (any_works) {
    worst_return_ = kSuccess;  // no back-off: one of the fields works
  }
  call.disabled = !any_hope;
}

void GpuSampler::read_memory_temperature(Call& call) {
  nvml::FieldValue field{};
  field.field_id = nvml::kFieldMemoryTemperature;
  CallTimer timer;
  const int code = ask(nvml_.DeviceGetFieldValues, device_, 1, &field);
  timer.end();
  const int own = code != kSuccess ? code : field.nvml_return;
  keep(call, timer, own, {own == kSuccess ? to_int64(field.value, field.value_type) : 0});
}

void GpuSampler::read_utilization(Call& call) {
  nvml::Utilization utilization{};
  CallTimer timer;
  const int code = ask(nvml_.DeviceGetUtilizationRates, device_, &utilization);
  timer.end();
  keep(call, timer, code, {utilization.gpu, utilization.memory});
}

void GpuSampler::read_memory(Call& call) {
  nvml::Memory memory{};
  CallTimer timer;
  const int code = ask(nvml_.DeviceGetMemoryInfo, device_, &memory);
  timer.end();
  keep(call, timer, code, {static_cast<std::int64_t>(memory.used)});
}

void GpuSampler::read_processes(Call& call) {
  std::array<nvml::ProcessInfo, 64> infos{};
  auto count = static_cast<unsigned int>(infos.size());
  CallTimer timer;
  const int code = ask(nvml_.DeviceGetComputeRunningProcesses, device_, &count, infos.data());
  timer.end();
  // If there are more than fit, `count` still says how many.
  keep(call, timer, code == nvml::kErrorInsufficientSize ? kSuccess : code, {count});
}

void GpuSampler::read_event_reasons(Call& call) {
  unsigned long long reasons = 0;
  CallTimer timer;
  const int code = ask(nvml_.DeviceGetCurrentClocksEventReasons, device_, &reasons);
  timer.end();
  keep(call, timer, code, {static_cast<std::int64_t>(reasons)});
}

void GpuSampler::read_simple(Call& call) {
  unsigned int value = 0;
  int code = nvml::kErrorFunctionNotFound;
  CallTimer timer;
  switch (call.sources.front()) {
    case Source::kPowerUsage:
      code = ask(nvml_.DeviceGetPowerUsage, device_, &value);
      break;
    case Source::kTemperatureGpu:
      code = ask(nvml_.DeviceGetTemperature, device_, nvml::kTemperatureGpu, &value);
      break;
    case Source::kClockSm:
      code = ask(nvml_.DeviceGetClockInfo, device_, nvml::kClockSm, &value);
      break;
    case Source::kClockMemory:
      code = ask(nvml_.DeviceGetClockInfo, device_, nvml::kClockMemory, &value);
      break;
    case Source::kPowerLimit:
      code = ask(nvml_.DeviceGetEnforcedPowerLimit, device_, &value);
      break;
    default:
      break;
  }
  timer.end();
  keep(call, timer, code, {value});
}

void GpuSampler::read_ring(Call& call) {
  CallTimer timer;
  const std::int64_t wall_ns = plan_.wall_clock_ns();
  const std::int64_t paired_ns = monotonic_ns();
  follow_clock_step(wall_ns, paired_ns);
  int type = nvml::kUnsignedInt;
  unsigned int count = 0;
  const auto get = [&](unsigned long long after_us, nvml::Sample* samples) {
    return ask(nvml_.DeviceGetSamples, device_, nvml::kTotalPowerSamples, after_us, &type, &count, samples);
  };
  int code = kSuccess;
  if (ring_buffer_.empty()) {
    code = get(0, nullptr);
    if (code == kSuccess || code == nvml::kErrorInsufficientSize) {
      ring_buffer_.resize(std::max<std::size_t>(2 * std::size_t{count}, 256));
      code = kSuccess;
    }
  }
  if (code == kSuccess) {
    count = static_cast<unsigned int>(ring_buffer_.size());
    code = get(ring_last_us_, ring_buffer_.data());
    if (code == nvml::kErrorInsufficientSize) {
      ring_buffer_.resize(2 * ring_buffer_.size());
      count = static_cast<unsigned int>(ring_buffer_.size());
      code = get(ring_last_us_, ring_buffer_.data());
    }
  }
  timer.end();
  // No new sample since the last drain is not an error.
  const bool nothing_new = (code == nvml::kErrorNotFound || code == nvml::kErrorNoData) && ring_last_us_ != 0;
  account(Source::kPowerSamples, timer, timer.cpu_ns, nothing_new ? kSuccess : code);
  Track& track = tracks_[index_of(Source::kPowerSamples)];
  if (nothing_new) {
    worst_return_ = kSuccess;
    return;
  }
  if (code != kSuccess) {
    observe(Source::kPowerSamples, timer, code, 0, -1);
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
  LatestValue& latest = latest_[index_of(Source::kPowerSamples)];
  latest = {true, track.value, timer.t1_ns};
  for (const std::int64_t gap_us : gaps) {
    health_.sources[index_of(Source::kPowerSamples)].news_ns.add(gap_us * 1000);
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
    return;  // too few samples so far
  }
  if (seen_before != 0 && count_seen >= health_.ring_depth && first != last) {
    // The ring is full and does not reach back to the last sample of the drain before. If it was never this full
    // before, a single lost slot looks the same, so the limit is wider.
    const auto missing_us = static_cast<std::int64_t>(first->timestamp_us - seen_before);
    health_.ring_overflows += first->timestamp_us > seen_before && 2 * missing_us > (deeper ? 6 : 3) * health_.ring_period_us ? 1 : 0;
  }
  if (deeper) {
    // The depth is at least this. The next drain is due when the ring is half full.
    health_.ring_depth = count_seen;
    const std::int64_t half_full_ns = static_cast<std::int64_t>(health_.ring_depth) * health_.ring_period_us * 500;
    call.period_ns = std::max<std::int64_t>(1'000'000, std::min(plan_.samples_period_ns, half_full_ns));
    health_.sources[index_of(Source::kPowerSamples)].period_ns = call.period_ns;
  }
}

// The ring's stamps follow the wall clock. When the clock is set back, new samples have earlier stamps than the last one,
// and NVML would return no sample until the clock has caught up. So the reading starts again from now. For a while the ring
// still holds samples from before the step. Their stamps lie in the future, and they are ignored.
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

// Keeps an observation if the value or the return code has changed, if everything is to be kept, or if a heartbeat is due.
void GpuSampler::observe(Source source, const CallTimer& timer, int nvml_return, std::int64_t value,
                         std::int64_t source_ts_us) {
  const std::int64_t t0_ns = timer.t0_ns;
  Track& track = tracks_[index_of(source)];
  if (nvml_return != kSuccess) {
    worst_return_ = nvml_return;
    value = 0;
  }
  const bool changed = !track.seen || track.value != value || track.nvml_return != nvml_return;
  if (changed || keep_unchanged_ || t0_ns - track.emitted_ns >= plan_.heartbeat_ns) {
    push(Event{track.last_same_t0_ns, t0_ns, timer.t1_ns, source_ts_us, value, nvml_return,
               static_cast<std::uint16_t>(source), gpu_});
    track.emitted_ns = t0_ns;
  }
  const bool news = track.worked && track.nvml_return == kSuccess && nvml_return == kSuccess && track.value != value;
  const std::int64_t since_ns = news && track.changed_ns >= 0 ? t0_ns - track.changed_ns : -1;
  // After an error the time from one new value to the next is not known.
  track.changed_ns = news ? t0_ns : (nvml_return == kSuccess ? track.changed_ns : -1);
  track.seen = true;
  track.worked = track.worked || nvml_return == kSuccess;
  track.value = value;
  track.nvml_return = nvml_return;
  // A call that fails does not tell the value, which may have changed before the call.
  track.last_same_t0_ns = nvml_return == kSuccess ? t0_ns : track.last_same_t0_ns;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (since_ns >= 0) {
    health_.sources[index_of(source)].news_ns.add(since_ns);
  }
  LatestValue& latest = latest_[index_of(source)];
  latest = {nvml_return == kSuccess, value, timer.t1_ns};
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

void GpuSampler::account(Source source, const CallTimer& timer, std::int64_t cpu_ns, int nvml_return) {
  const std::lock_guard<std::mutex> lock(mutex_);
  SourceHealth& health = health_.sources[index_of(source)];
  ++health.calls;
  health.cpu_ns += cpu_ns;
  health.call_ns.add(timer.t1_ns - timer.t0_ns);
  if (nvml_return == kSuccess) {
    health.state = SourceState::kOk;
  } else {
    ++health.errors;
    health.last_error = nvml_return;
    health.state = hopeless(source, nvml_return) ? SourceState::kUnsupported : SourceState::kFailing;
  }
}

}  // namespace wattcount
