// The sampling threads over a function table of the test's own: what is kept, how often NVML is asked, and what
// happens when it fails.
#include "sampler/sampler.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/check.h"

using namespace wattcount;
namespace nvml = wattcount::nvml;

namespace {

// What the fake GPU answers; every test starts from `reset`.
std::atomic<int> counter_code{0};
std::atomic<unsigned long long> counter_mj{0};
std::atomic<int> counter_calls{0};
std::atomic<int> counter_sleep_ms{0};
std::atomic<unsigned int> instant_mw{100000};
std::atomic<int> field_code{0};
std::atomic<int> average_code{0};
std::atomic<unsigned long long> ring_now{0};
std::atomic<int> all_code{0};
std::atomic<bool> signals_blocked{false};  // in a call of the fields by a thread of the sampler
std::atomic<bool> faults_blocked{false};
std::atomic<bool> counter_hangs{false};
std::atomic<bool> counter_is_hanging{false};  // a thread is in such a call now
std::atomic<unsigned int> ring_holds{10};

void reset() {
  counter_code = 0;
  counter_mj = 5'000'000'000'000ULL;  // beyond 32 bit
  counter_calls = 0;
  counter_sleep_ms = 0;
  instant_mw = 100000;
  field_code = 0;
  average_code = nvml::kErrorNotSupported;
  ring_now = 0;
  all_code = 0;
  signals_blocked = false;
  faults_blocked = false;
  counter_hangs = false;
  counter_is_hanging = false;
  ring_holds = 10;
}

const nvml::Device kDevice = nullptr;

void wait_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

// However busy the machine is.
template <typename Condition>
bool comes(Condition condition) {
  for (int i = 0; i < 60'000 && !condition(); ++i) {
    wait_ms(1);
  }
  return condition();
}

int fake_counter(nvml::Device, unsigned long long* out) {
  ++counter_calls;
  if (counter_sleep_ms > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(counter_sleep_ms.load()));
  }
  while (counter_hangs) {
    counter_is_hanging = true;
    wait_ms(1);
  }
  counter_is_hanging = false;
  *out = counter_mj;
  return all_code != 0 ? all_code.load() : counter_code.load();
}

int fake_fields(nvml::Device, int count, nvml::FieldValue* values) {
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  signals_blocked = signals_blocked || sigismember(&mask, SIGINT) == 1;
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    faults_blocked = faults_blocked || sigismember(&mask, own) == 1;
  }
  for (int i = 0; i < count; ++i) {
    values[i].nvml_return = values[i].field_id == nvml::kFieldPowerInstant ? field_code.load() : average_code.load();
    values[i].value_type = nvml::kUnsignedInt;
    values[i].value.ull = 0;
    values[i].value.ui = instant_mw;
  }
  return all_code;
}

// A ring of `ring_holds` samples, 1 ms apart, up to `ring_now` milliseconds.
int fake_ring(nvml::Device, int, unsigned long long last_us, int* type, unsigned int* count, nvml::Sample* samples) {
  *type = nvml::kUnsignedInt;
  if (samples == nullptr) {
    *count = ring_holds;
    return nvml::kSuccess;
  }
  unsigned int given = 0;
  const unsigned long long newest = ring_now;
  for (unsigned long long ms = newest > ring_holds ? newest - ring_holds + 1 : 1; ms <= newest && newest > 0; ++ms) {
    if (ms * 1000 > last_us) {
      samples[given].timestamp_us = ms * 1000;
      samples[given].value.ull = 0;
      samples[given].value.ui = static_cast<unsigned int>(ms);
      ++given;
    }
  }
  *count = given;
  if (all_code != 0) {
    return all_code;
  }
  return given > 0 ? nvml::kSuccess : nvml::kErrorNotFound;
}

nvml::Functions table() {
  nvml::Functions functions;
  functions.DeviceGetTotalEnergyConsumption = fake_counter;
  functions.DeviceGetFieldValues = fake_fields;
  functions.DeviceGetSamples = fake_ring;
  return functions;
}

SamplingPlan quick() {
  SamplingPlan plan;
  plan.energy_counter_period_ns = 5'000'000;
  plan.power_period_ns = 2'000'000;
  plan.samples_period_ns = 5'000'000;
  plan.status_period_ns = 5'000'000;
  plan.heartbeat_ns = 20'000'000;
  return plan;
}

std::vector<Event> of(const std::vector<Event>& events, Source source) {
  std::vector<Event> chosen;
  std::copy_if(events.begin(), events.end(), std::back_inserter(chosen),
               [&](const Event& event) { return event.source == static_cast<std::uint16_t>(source); });
  return chosen;
}

const SourceHealth& health_of(const GpuHealth& health, Source source) {
  return health.sources[index_of(source)];
}

// Waits until a source was read so many times more.
bool reads_more(GpuSampler& sampler, Source source, std::uint64_t reads) {
  const auto before = health_of(sampler.health(), source).calls;
  return comes([&] { return health_of(sampler.health(), source).calls >= before + reads; });
}

bool turns(GpuSampler& sampler, Source source, SourceState state) {
  return comes([&] { return health_of(sampler.health(), source).state == state; });
}

}  // namespace

TEST(first_sample_is_there_before_the_thread_and_last_after_it) {
  reset();
  SamplingPlan plan = quick();
  plan.energy_counter_period_ns = 1'000'000'000'000;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 3, plan);
  sampler.start();
  auto events = of(sampler.drain(), Source::kEnergyCounter);
  CHECK(events.size() == 1);
  CHECK(events.at(0).value == 5'000'000'000'000LL);
  CHECK(events.at(0).prev_t0_ns == -1);
  CHECK(events.at(0).gpu == 3);
  CHECK(events.at(0).t1_ns >= events.at(0).t0_ns);
  counter_mj = 5'000'000'000'007ULL;
  sampler.stop();
  events = of(sampler.drain(), Source::kEnergyCounter);
  CHECK(events.size() == 1);
  CHECK(events.at(0).value == 5'000'000'000'007LL);
}

TEST(only_changes_and_heartbeats_are_kept_with_their_brackets) {
  reset();
  const nvml::Functions functions = table();
  SamplingPlan plan = quick();
  plan.heartbeat_ns = 1'000'000'000'000;
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  sampler.start();
  CHECK(reads_more(sampler, Source::kPowerInstant, 20));
  const std::int64_t changed_ns = monotonic_ns();
  instant_mw = 200000;
  CHECK(reads_more(sampler, Source::kPowerInstant, 20));
  sampler.stop();
  const auto events = of(sampler.drain(), Source::kPowerInstant);
  CHECK(events.size() == 3);  // the first, the change, and the last
  const auto change = std::find_if(events.begin(), events.end(), [](const Event& e) { return e.value == 200000; });
  CHECK(change != events.end());
  CHECK(change->prev_t0_ns > 0);
  CHECK(change->prev_t0_ns <= changed_ns);
  CHECK(change->t1_ns >= changed_ns);
}

TEST(a_value_that_stands_still_is_kept_at_each_heartbeat) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  std::size_t kept = 0;
  CHECK(comes([&] { return (kept += of(sampler.drain(), Source::kPowerInstant).size()) >= 3; }));
  sampler.stop();
}

TEST(unsupported_sources_are_asked_once_and_the_others_go_on) {
  reset();
  counter_code = nvml::kErrorNotSupported;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(reads_more(sampler, Source::kPowerInstant, 6));
  sampler.stop();
  const GpuHealth health = sampler.health();
  CHECK(counter_calls == 1);
  CHECK(health_of(health, Source::kEnergyCounter).state == SourceState::kUnsupported);
  CHECK(health_of(health, Source::kPowerAverage).state == SourceState::kUnsupported);
  CHECK(health_of(health, Source::kPowerInstant).state == SourceState::kOk);
  CHECK(health_of(health, Source::kPowerInstant).calls > 5);
  CHECK(health_of(health, Source::kTemperatureGpu).state == SourceState::kUnsupported);  // no such symbol
}

TEST(an_error_that_comes_and_goes_is_two_events) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(reads_more(sampler, Source::kEnergyCounter, 3));
  counter_code = nvml::kErrorTimeout;
  CHECK(turns(sampler, Source::kEnergyCounter, SourceState::kFailing));
  counter_code = 0;
  CHECK(turns(sampler, Source::kEnergyCounter, SourceState::kOk));
  sampler.stop();
  const auto events = of(sampler.drain(), Source::kEnergyCounter);
  const auto error = std::find_if(events.begin(), events.end(), [](const Event& e) { return e.nvml_return != 0; });
  CHECK(error != events.end());
  CHECK(error->nvml_return == nvml::kErrorTimeout);
  CHECK(std::any_of(error, events.end(), [](const Event& e) { return e.nvml_return == 0; }));
  CHECK(events.back().nvml_return == 0);
  CHECK(health_of(sampler.health(), Source::kEnergyCounter).state == SourceState::kOk);
}

TEST(a_field_that_fails_for_a_while_is_asked_less_often_and_comes_back) {
  reset();
  average_code = 0;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(reads_more(sampler, Source::kPowerAverage, 3));
  field_code = nvml::kErrorUnknown;
  // The other field of the same call works: it is asked on.
  CHECK(reads_more(sampler, Source::kPowerAverage, 12));
  CHECK(turns(sampler, Source::kPowerInstant, SourceState::kFailing));
  average_code = nvml::kErrorUnknown;
  CHECK(turns(sampler, Source::kPowerAverage, SourceState::kFailing));
  const auto before = health_of(sampler.health(), Source::kPowerInstant).calls;
  wait_ms(60);
  CHECK(health_of(sampler.health(), Source::kPowerInstant).calls - before < 10);
  average_code = 0;
  field_code = 0;
  CHECK(turns(sampler, Source::kPowerInstant, SourceState::kOk));
  sampler.stop();
  CHECK(of(sampler.drain(), Source::kPowerInstant).back().nvml_return == 0);
}

TEST(a_source_that_worked_is_not_given_up) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(reads_more(sampler, Source::kEnergyCounter, 3));
  counter_code = nvml::kErrorNotSupported;
  CHECK(turns(sampler, Source::kEnergyCounter, SourceState::kFailing));
  counter_code = 0;
  CHECK(turns(sampler, Source::kEnergyCounter, SourceState::kOk));
  sampler.stop();
}

TEST(a_wall_clock_set_back_does_not_silence_the_ring) {
  reset();
  // The ring's stamps are milliseconds of the fake wall clock.
  static std::atomic<std::int64_t> wall_offset_ms{100'000};
  static const std::int64_t zero_ns = monotonic_ns();
  SamplingPlan plan = quick();
  plan.wall_clock_ns = [] { return monotonic_ns() - zero_ns + wall_offset_ms * 1'000'000; };
  ring_now = 100'000;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  // Runs until so many samples before, or after, this moment of the ring's time were seen.
  const auto run_until = [&](std::int64_t wanted, auto chosen) {
    std::int64_t seen = 0;
    return comes([&] {
      ring_now = static_cast<unsigned long long>(plan.wall_clock_ns() / 1'000'000);
      const auto events = of(sampler.drain(), Source::kPowerSamples);
      seen += std::count_if(events.begin(), events.end(), chosen);
      return seen > wanted;
    });
  };
  sampler.start();
  CHECK(run_until(10, [](const Event& e) { return e.source_ts_us >= 50'000'000; }));
  wall_offset_ms = 40'000;
  CHECK(run_until(20, [](const Event& e) { return e.source_ts_us < 50'000'000; }));
  sampler.stop();
}

TEST(the_threads_take_no_signals) {
  reset();
  const nvml::Functions functions = table();
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(reads_more(sampler, Source::kPowerInstant, 3));
  sampler.stop();
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  CHECK(sigismember(&after, SIGINT) == sigismember(&before, SIGINT));
  CHECK(signals_blocked.load());
  CHECK(!faults_blocked.load());  // blocked, a fault in the driver would kill the process without a word
}

TEST(a_call_that_hangs_is_not_waited_for_and_what_was_collected_stays) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(comes([] { return counter_calls > 3; }));
  counter_hangs = true;
  CHECK(comes([] { return counter_is_hanging.load(); }));
  CHECK(!sampler.stop(20'000'000));
  CHECK(sampler.health().stuck);
  CHECK(of(sampler.drain(), Source::kEnergyCounter).size() >= 1);
  const int calls = counter_calls;
  CHECK(!sampler.stop());  // given up: it does not wait again
  CHECK_THROWS(sampler.start(), std::runtime_error);
  counter_hangs = false;
  CHECK(comes([&] { return sampler.stop(); }));
  CHECK(counter_calls == calls);  // a thread that was given up reads nothing more
  sampler.start();
  CHECK(!sampler.health().stuck);
  CHECK(sampler.stop());
}

TEST(a_first_read_that_hangs_is_not_waited_for) {
  reset();
  counter_hangs = true;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  CHECK_THROWS(sampler.start(20'000'000), std::runtime_error);
  CHECK(sampler.health().stuck);
  counter_hangs = false;
  CHECK(comes([&] { return sampler.stop(); }));
  sampler.start();
  CHECK(sampler.stop());
}

TEST(whoever_waits_does_so_in_parts) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  CHECK(sampler.wait_stopped(0));  // it was never started
  sampler.begin();
  CHECK(comes([&] { return sampler.wait_begun(monotonic_ns() + 1'000'000); }));
  CHECK(!sampler.wait_stopped(monotonic_ns() + 1'000'000));
  counter_hangs = true;
  sampler.mark();
  CHECK(comes([] { return counter_is_hanging.load(); }));
  sampler.request_stop();
  CHECK(!sampler.wait_stopped(monotonic_ns() + 1'000'000));
  counter_mj = 5'000'000'000'042ULL;  // before the call goes on: it may be the last one
  counter_hangs = false;
  CHECK(comes([&] { return sampler.wait_stopped(monotonic_ns() + 1'000'000); }));
  CHECK(!sampler.health().stuck);
  CHECK(of(sampler.drain(), Source::kEnergyCounter).back().value == 5'000'000'000'042LL);
}

TEST(a_change_after_errors_is_bracketed_by_the_last_call_that_worked) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  const auto errors = [&] { return health_of(sampler.health(), Source::kEnergyCounter).errors; };
  sampler.start();
  CHECK(comes([] { return counter_calls > 3; }));
  counter_code = nvml::kErrorTimeout;
  CHECK(comes([&] { return errors() >= 3; }));
  const std::int64_t failing_ns = monotonic_ns();
  counter_mj = 5'000'000'000'099ULL;
  counter_code = 0;
  CHECK(comes([&] { return health_of(sampler.health(), Source::kEnergyCounter).state == SourceState::kOk; }));
  sampler.stop();
  const auto events = of(sampler.drain(), Source::kEnergyCounter);
  const auto error = std::find_if(events.begin(), events.end(), [](const Event& e) { return e.nvml_return != 0; });
  const auto change = std::find_if(events.begin(), events.end(), [](const Event& e) { return e.value == 5'000'000'000'099LL; });
  CHECK(error != events.end() && change != events.end());
  CHECK(change->t0_ns >= failing_ns);
  // It may have changed at any time since the last value was seen, which was before the first error.
  CHECK(change->prev_t0_ns == error->prev_t0_ns);
  CHECK(change->prev_t0_ns < error->t0_ns);
}

TEST(a_ring_that_is_empty_at_first_is_learned_later_and_its_overflow_is_seen) {
  reset();
  ring_holds = 40;
  ring_now = 2;
  SamplingPlan plan = quick();
  plan.samples_period_ns = plan.energy_counter_period_ns = 1'000'000'000'000;  // both are read when marked
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  const auto drain_at = [&](unsigned long long ms) {
    ring_now = ms;
    const int before = counter_calls;
    sampler.mark();
    CHECK(comes([&] { return counter_calls > before; }));  // the counter is read last, after the ring is dealt with
  };
  sampler.start();
  CHECK(sampler.health().ring_depth == 0);  // two samples tell nothing
  drain_at(4);
  drain_at(30);
  GpuHealth health = sampler.health();
  CHECK(health.ring_period_us == 1000);
  CHECK(health.ring_depth == 26);  // not full yet
  CHECK(health.ring_overflows == 0);
  drain_at(70);
  health = sampler.health();
  CHECK(health.ring_depth == 40);
  CHECK(health.ring_overflows == 0);
  CHECK(health_of(health, Source::kPowerSamples).period_ns == 20'000'000);
  drain_at(110);
  CHECK(sampler.health().ring_overflows == 0);
  drain_at(160);
  CHECK(sampler.health().ring_overflows == 1);
  sampler.stop();
}

TEST(an_overflow_shows_in_the_drain_that_first_finds_the_ring_full) {
  reset();
  ring_holds = 40;
  ring_now = 6;
  SamplingPlan plan = quick();
  plan.samples_period_ns = 1'000'000'000'000;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  sampler.start();
  CHECK(sampler.health().ring_depth == 6);
  ring_now = 100;
  sampler.mark();
  CHECK(comes([&] { return sampler.health().ring_depth == 40; }));
  CHECK(sampler.health().ring_overflows == 1);
  sampler.stop();
}

TEST(a_lost_gpu_is_marked_and_asked_slowly) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(reads_more(sampler, Source::kEnergyCounter, 3));
  all_code = nvml::kErrorGpuIsLost;
  CHECK(comes([&] { return sampler.health().lost; }));
  wait_ms(20);
  const int before = counter_calls;
  wait_ms(100);
  CHECK(counter_calls - before <= 1);
  sampler.stop();
}

TEST(memory_is_bounded_and_drops_are_counted) {
  reset();
  SamplingPlan plan = quick();
  plan.capacity_events = 30;
  plan.heartbeat_ns = 1;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  sampler.start();
  CHECK(comes([&] { return sampler.health().dropped_events > 0; }));
  sampler.stop();
  CHECK(sampler.drain().size() == 30);
  CHECK(sampler.drain().empty());
}

TEST(the_ring_is_drained_without_duplicates_and_before_it_overflows) {
  reset();
  ring_now = 10;
  SamplingPlan plan = quick();
  plan.samples_period_ns = 1'000'000'000;  // far too slow for a ring of 10 ms
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  sampler.start();
  const std::int64_t start_ns = monotonic_ns();
  while (monotonic_ns() - start_ns < 100'000'000) {
    ring_now = 10 + static_cast<unsigned long long>((monotonic_ns() - start_ns) / 1'000'000);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  sampler.stop();
  const GpuHealth health = sampler.health();
  CHECK(health.ring_depth == 10);
  CHECK(health.ring_period_us == 1000);
  CHECK(health_of(health, Source::kPowerSamples).period_ns <= 5'000'000);
  const auto all = sampler.drain();
  const auto samples = of(all, Source::kPowerSamples);
  CHECK(samples.size() > 50);
  for (std::size_t i = 1; i < samples.size(); ++i) {
    CHECK(samples[i].source_ts_us > samples[i - 1].source_ts_us);
    CHECK(samples[i].value * 1000 == samples[i].source_ts_us);
  }
  CHECK(of(all, Source::kRealtime).size() >= 2);
}

TEST(missed_deadlines_are_skipped_and_counted) {
  reset();
  counter_sleep_ms = 23;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  CHECK(reads_more(sampler, Source::kEnergyCounter, 8));
  sampler.stop();
  const GpuHealth health = sampler.health();
  // Four periods of 5 ms pass in each call, and are never caught up with.
  CHECK(health_of(health, Source::kEnergyCounter).missed_deadlines >= 3 * 8);
  CHECK(health_of(health, Source::kEnergyCounter).call_ns.quantile_ns(0.5) > 20e6);
}

TEST(mark_reads_everything_at_once) {
  reset();
  SamplingPlan plan = quick();
  plan.energy_counter_period_ns = 1'000'000'000'000;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  sampler.start();
  const int before = counter_calls;
  sampler.mark();
  CHECK(comes([&] { return counter_calls > before; }));
  wait_ms(20);
  CHECK(counter_calls == before + 1);
  sampler.stop();
  // First, marked and last: kept although the value stood still.
  CHECK(of(sampler.drain(), Source::kEnergyCounter).size() == 3);
}

TEST(stop_is_idempotent_and_a_sampler_can_start_again) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.stop();
  sampler.start();
  CHECK_THROWS(sampler.start(), std::runtime_error);
  sampler.stop();
  sampler.stop();
  sampler.start();
  sampler.stop();
}

TEST(stop_does_not_wait_for_a_deadline) {
  reset();
  SamplingPlan plan;
  plan.energy_counter_period_ns = plan.power_period_ns = plan.samples_period_ns = 3'600'000'000'000;
  plan.status_period_ns = plan.heartbeat_ns = 3'600'000'000'000;
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, plan);
  sampler.start();
  CHECK(sampler.stop());  // an hour before the next deadline
}

TEST(many_threads_may_ask_while_it_runs) {
  reset();
  const nvml::Functions functions = table();
  GpuSampler sampler(functions, kDevice, "GPU-a", 0, quick());
  sampler.start();
  std::vector<std::thread> askers;
  std::atomic<std::size_t> seen{0};
  for (int i = 0; i < 3; ++i) {
    askers.emplace_back([&] {
      for (int k = 0; k < 200; ++k) {
        seen += sampler.drain().size();
        sampler.latest();
        sampler.health();
        sampler.mark();
      }
    });
  }
  for (auto& asker : askers) {
    asker.join();
  }
  sampler.stop();
  seen += sampler.drain().size();
  CHECK(seen == sampler.health().events);
}

#if !defined(__SANITIZE_THREAD__)  // TSan does not follow a fork of a threaded process
TEST(a_forked_child_is_left_alone) {
  reset();
  const nvml::Functions functions = table();
  auto sampler = std::make_unique<GpuSampler>(functions, kDevice, "GPU-a", 0, quick());
  sampler->start();
  CHECK(reads_more(*sampler, Source::kPowerInstant, 1));
  const pid_t child = fork();
  if (child == 0) {
    const bool inert = sampler->drain().empty();
    sampler->mark();
    sampler->stop();
    sampler.reset();
    _exit(inert ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  wait_ms(10);
  sampler->stop();
  CHECK(!sampler->drain().empty());
}
#endif
