#include "emulator/sensor.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/check.h"

using namespace wattcount::emulator;

namespace {
constexpr std::int64_t kMs = 1'000'000;

Profile quiet() {
  Profile profile = *find_profile("h200");
  for (PowerSource* source : {&profile.average, &profile.instant, &profile.usage}) {
    source->noise_w = 0.0;
    source->late_share = 0.0;
    source->stray_share = 0.0;
  }
  profile.ring_noise_w = 0.0;
  profile.ring_late.clear();
  profile.ring_late_active.clear();
  profile.ring_late_over.clear();
  profile.ring_late_active_tick.clear();
  profile.ring_late_tick = {0.0, 0.0, 0.0};
  profile.counter_jitter_ms = 0.0;
  profile.drift_ppm = 0.0;
  return profile;
}
}  // namespace

TEST(truth_integrates_and_filters_in_closed_form) {
  Truth truth(10e6);
  truth.append(0, 100.0);
  truth.append(100 * kMs, 200.0);
  CHECK_NEAR(truth.energy_j(150 * kMs), 10 + 10, 1e-9);
  CHECK_NEAR(truth.mean_w(50 * kMs, 150 * kMs), 150, 1e-9);
  CHECK_NEAR(truth.lowpass_w(100 * kMs), 100, 1e-9);
  CHECK_NEAR(truth.lowpass_w(110 * kMs), 200 - 100 * std::exp(-1.0), 1e-9);
  CHECK_NEAR(truth.energy_j(-100 * kMs), -10, 1e-9);
  // Backwards after forwards: the cursor must not lead astray.
  CHECK_NEAR(truth.power_w(50 * kMs), 100, 0);
  CHECK_NEAR(truth.power_w(150 * kMs), 200, 0);
}

TEST(every_source_shows_a_steady_power) {
  Sensors sensors(quiet(), Board{});
  sensors.truth().append(0, 250.0);
  const std::int64_t t_ns = 5'000 * kMs;
  CHECK_NEAR(sensors.average_w(t_ns), 250, 1e-6);
  CHECK_NEAR(sensors.instant_w(t_ns), 250, 1e-6);
  CHECK_NEAR((sensors.counter_j(t_ns + 60'000 * kMs) - sensors.counter_j(t_ns)) / 60.0, 250, 250 * 0.003);
  for (const RingSample& sample : sensors.ring(t_ns, 0)) {
    CHECK_NEAR(sample.power_w, 250, 1e-6);
  }
}

TEST(averaged_power_is_the_mean_of_the_last_second) {
  Profile profile = quiet();
  profile.average = PowerSource{};
  profile.average.window_ms = 1000.0;
  profile.average.noise_w = 0.0;
  Board board;
  board.power_phase = 0.0;
  Sensors sensors(profile, board);
  sensors.truth().append(0, 100.0);
  sensors.truth().append(5'000 * kMs, 300.0);
  CHECK_NEAR(sensors.average_w(5'550 * kMs), 200, 1e-6);  // the tick at 5.5 s: half a second of each
  CHECK_NEAR(sensors.average_w(5'599 * kMs), 200, 1e-6);
  CHECK_NEAR(sensors.average_w(6'000 * kMs), 300, 1e-6);
}

TEST(an_average_of_samples_counts_samples) {
  Profile profile = quiet();
  profile.lowpass_ms = 0.0;
  Board board;
  board.power_phase = 0.0;
  board.ring_phase = 0.0;
  Sensors sensors(profile, board);
  sensors.truth().append(0, 100.0);
  sensors.truth().append(5'000 * kMs, 300.0);
  // Slots at 4.52 ... 5.00 look 5.7 ms back, before the step; those at 5.02 ... 5.50 after it: 25 of each.
  CHECK_NEAR(sensors.average_w(5'500 * kMs), 200, 1e-6);
  profile.average.stray_share = 1.0;  // one more, from before the step
  Sensors stray(profile, board);
  stray.truth().append(0, 100.0);
  stray.truth().append(5'000 * kMs, 300.0);
  CHECK_NEAR(stray.average_w(5'500 * kMs), 10100.0 / 51.0, 1e-6);
}

TEST(averaged_power_aliases_loads_on_the_sampling_grid) {
  Board board;
  board.ring_phase = 0.0;
  Sensors sensors(quiet(), board);
  for (int i = 0; i < 500; ++i) {  // 10 of every 20 ms, just before the sensor looks
    sensors.truth().append((20 * i + 4) * kMs, 700.0);
    sensors.truth().append((20 * i + 14) * kMs, 100.0);
  }
  CHECK_NEAR((sensors.counter_j(9'000 * kMs) - sensors.counter_j(4'000 * kMs)) / 5.0, 400, 15);
  CHECK(sensors.average_w(9'000 * kMs) > 450);
}

TEST(instant_power_misses_what_lies_between_its_samples) {
  Board board;
  board.power_phase = 0.5;
  board.ring_phase = 0.5;
  Sensors sensors(quiet(), board);
  for (int i = 0; i < 100; ++i) {  // 25 ms bursts, over and faded long before each tick
    sensors.truth().append((100 * i + 55) * kMs, 700.0);
    sensors.truth().append((100 * i + 80) * kMs, 100.0);
  }
  CHECK_NEAR(sensors.instant_w(5'060 * kMs), 100, 2.0);
}

TEST(the_counter_ticks_on_its_grid_and_is_late_by_at_most_its_delay) {
  Board board;
  board.counter_phase = 0.25;
  Sensors sensors(quiet(), board);
  sensors.truth().append(0, 1000.0);
  std::set<double> values;
  double last = -1.0;
  for (std::int64_t t_ms = 1000; t_ms < 3000; ++t_ms) {
    const double value = sensors.counter_j(t_ms * kMs);
    CHECK(value >= last);
    last = value;
    values.insert(value);
    const double age_ms = static_cast<double>(t_ms) - value;  // 1 kW: a joule a millisecond
    CHECK(age_ms >= 0.0 && age_ms <= 121.0);
    CHECK_NEAR(std::fmod(value, 100.0), 25.0, 1e-3);
  }
  CHECK(values.size() == 21 || values.size() == 20);
}

TEST(the_ring_holds_the_last_samples_in_order) {
  Sensors sensors(quiet(), Board{});
  sensors.truth().append(0, 100.0);
  const auto ring = sensors.ring(10'000 * kMs, 0);
  CHECK(ring.size() == 120);
  for (std::size_t i = 1; i < ring.size(); ++i) {
    CHECK(std::llabs(ring[i].stamp_ns - ring[i - 1].stamp_ns - 20 * kMs) <= 1);
  }
  CHECK(ring.back().stamp_ns <= 10'000 * kMs && ring.back().stamp_ns > 9'979 * kMs);
  const auto later = sensors.ring(10'100 * kMs, ring.back().stamp_ns);
  CHECK(later.size() == 5);
}

TEST(ring_slots_are_lost_where_power_steps_and_only_there) {
  Profile profile = quiet();
  profile.ring_late_active = {{0.5, 20.0, 26.0}};
  profile.ring_late_active_tick = profile.ring_late_active;
  profile.ring_late_over = profile.ring_late_active;
  Sensors sensors(profile, Board{});
  for (int i = 0; i < 2000; ++i) {
    sensors.truth().append(i * 30 * kMs, i % 2 == 0 ? 600.0 : 100.0);
  }
  const std::size_t seen = sensors.samples(20'000 * kMs, 30'000 * kMs).size();
  CHECK(seen > 200 && seen < 300);
  Sensors steady(profile, Board{});
  steady.truth().append(0, 100.0);
  CHECK(steady.samples(20'000 * kMs, 30'000 * kMs).size() == 500);
}

TEST(late_samples_are_stamped_when_they_were_taken) {
  Profile profile = quiet();
  profile.counter = false;
  profile.ring_late = {{0.3, 5.0, 15.0}};
  profile.ring_late_active = profile.ring_late;
  profile.ring_late_over = profile.ring_late;
  Board board;
  board.ring_phase = 0.0;
  Sensors sensors(profile, board);
  sensors.truth().append(0, 100.0);
  sensors.truth().append(2'500 * kMs, 600.0);
  int late = 0;
  std::int64_t last_ns = 0;
  for (const RingSample& sample : sensors.samples(2'000 * kMs, 7'000 * kMs)) {
    const std::int64_t by_ns = sample.stamp_ns - sample.slot * 20 * kMs;
    CHECK(by_ns >= 0 && by_ns < 15 * kMs + 1);
    CHECK(sample.stamp_ns > last_ns);
    last_ns = sample.stamp_ns;
    late += by_ns >= 5 * kMs ? 1 : 0;
    CHECK_NEAR(sample.power_w, sensors.truth().lowpass_w(sample.stamp_ns - 4'200'000), 1e-6);
  }
  CHECK(late > 40 && late < 110);
}

TEST(a_client_sees_a_sample_once_it_is_stamped) {
  Profile profile = *find_profile("h200");
  Sensors sensors(profile, Board{});
  for (int i = 0; i < 300; ++i) {
    sensors.truth().append(i * 50 * kMs, i % 2 == 0 ? 900.0 : 100.0);
  }
  std::int64_t last_ns = 5'000 * kMs;
  std::size_t polled = 0;
  for (std::int64_t t_ms = 5'000; t_ms < 8'000; ++t_ms) {
    for (const RingSample& sample : sensors.ring(t_ms * kMs, last_ns)) {
      CHECK(sample.stamp_ns <= t_ms * kMs && sample.stamp_ns > last_ns);
      last_ns = sample.stamp_ns;
      ++polled;
    }
  }
  // Polling finds every sample, and none twice.
  CHECK(polled == sensors.samples(5'000 * kMs + 1, 7'999 * kMs + 1).size());
}

TEST(gain_and_offset_belong_to_the_board) {
  Board board;
  board.gain = 1.05;
  board.offset_w = -2.0;
  Sensors sensors(quiet(), board);
  sensors.truth().append(0, 200.0);
  CHECK_NEAR(sensors.instant_w(5'000 * kMs), 208, 1e-6);
  CHECK_NEAR((sensors.counter_j(105'000 * kMs) - sensors.counter_j(5'000 * kMs)) / 100.0, 208, 0.5);
}

TEST(a_sampled_counter_aliases) {
  Profile profile = quiet();
  profile.counter_sample_ms = 20.0;
  profile.lowpass_ms = 0.0;
  Sensors sensors(profile, Board{});
  for (int i = 0; i < 1000; ++i) {  // 5 ms bursts where the sampling looks
    sensors.truth().append(20 * i * kMs, 500.0);
    sensors.truth().append((20 * i + 5) * kMs, 100.0);
  }
  CHECK_NEAR((sensors.counter_j(15'000 * kMs) - sensors.counter_j(5'000 * kMs)) / 10.0, 500, 10);
}

TEST(the_same_seed_shows_the_same_and_another_another) {
  Board first;
  first.seed = 1;
  Board second;
  second.seed = 2;
  const Profile& profile = *find_profile("h200");
  Sensors a(profile, first);
  Sensors b(profile, first);
  Sensors c(profile, second);
  for (Sensors* sensors : {&a, &b, &c}) {
    sensors->truth().append(0, 100.0);
  }
  CHECK(a.instant_w(5'000 * kMs) == b.instant_w(5'000 * kMs));
  CHECK(a.instant_w(5'000 * kMs) != c.instant_w(5'000 * kMs));
}

TEST(every_profile_says_where_it_comes_from) {
  CHECK(profiles().size() >= 12);
  std::set<std::string> names;
  for (const Profile& profile : profiles()) {
    CHECK(names.insert(profile.name).second);
    CHECK(profile.evidence == "measured" || profile.evidence == "published" || profile.evidence == "guessed");
    CHECK(!profile.source.empty());
    CHECK(profile.idle_w > 0 && profile.tdp_w > profile.idle_w);
    for (const auto& classes : {profile.ring_late, profile.ring_late_active, profile.ring_late_over, profile.ring_late_active_tick}) {
      double share = 0.0;
      for (const LateClass& each : classes) {
        share += each.share;
        CHECK(each.from_ms >= 0.0 && each.to_ms >= each.from_ms && each.to_ms < 2 * profile.ring_period_ms);
      }
      CHECK(share <= 1.0);
    }
  }
  CHECK(find_profile("none") == nullptr);
}
