// The emulated library loaded as any client loads NVML, and what the loader says of libraries that are none.
#include "nvml/library.h"

#include <stdlib.h>
#include <unistd.h>

#include <fstream>

#include "sampler/sampler.h"
#include "tests/check.h"
#include "tests/scratch.h"

using namespace wattcount;

namespace {
void configure() {
  const std::string base = check::scratch("machine");
  std::ofstream(base + ".csv") << "t_s,power_w\n-10,120\n";
  std::ofstream(base + ".json") << R"({"gpus": [
      {"uuid": "GPU-a", "profile": "h200", "truth": ")" << base << R"(.csv", "processes": [41, 42]},
      {"uuid": "GPU-b", "profile": "v100", "truth": ")" << base << R"(.csv"}]})";
  setenv("WATTCOUNT_NVML_EMULATOR", (base + ".json").c_str(), 1);
}
}  // namespace

TEST(what_is_no_nvml_is_refused) {
  CHECK_THROWS(nvml::Library("/nonexistent/libnvidia-ml.so.1"), nvml::LibraryNotFound);
  CHECK_THROWS(nvml::Library("libm.so.6"), nvml::LibraryNotFound);
}

TEST(an_emulator_without_configuration_does_not_initialise) {
  unsetenv("WATTCOUNT_NVML_EMULATOR");
  CHECK_THROWS(nvml::Library(EMULATOR_LIBRARY), nvml::Error);
}

TEST(the_emulated_library_is_known_as_such) {
  configure();
  const nvml::Library library(EMULATOR_LIBRARY);
  CHECK(library.emulated());
  CHECK(library.path().find("libnvidia-ml.so.1") != std::string::npos);
  CHECK(library.missing_symbols().empty());
  CHECK(library.device_count() == 2);
  CHECK(library.device_uuids().at(1) == "GPU-b");
  CHECK(library.compute_processes("GPU-a").size() == 2);
  CHECK(library.compute_processes("GPU-b").empty());
  CHECK_THROWS(library.device("GPU-none"), nvml::Error);
  for (const auto& [name, fact] : library.device_info("GPU-a")) {
    if (name == "name") {
      CHECK(std::get<std::string>(fact) == "NVIDIA H200");
    }
  }
}

TEST(settings_are_made_and_taken_back) {
  configure();
  const nvml::Library library(EMULATOR_LIBRARY);
  const auto limit_mw = [&] {
    for (const auto& [name, fact] : library.device_info("GPU-a")) {
      if (name == "power_limit_mw") {
        return std::get<std::int64_t>(fact);
      }
    }
    return std::int64_t{-1};
  };
  const auto clocks = library.supported_sm_clocks_mhz("GPU-a");
  CHECK(clocks.front() == 345 && clocks.back() == 1980);
  library.set_power_limit_mw("GPU-a", 400'000);
  CHECK(limit_mw() == 400'000);
  CHECK_THROWS(library.set_power_limit_mw("GPU-a", 1), nvml::Error);
  library.set_power_limit_mw("GPU-a", 700'000);
  CHECK(limit_mw() == 700'000);
  library.lock_sm_clock_mhz("GPU-a", 1410);
  library.unlock_sm_clock("GPU-a");
  CHECK_THROWS(library.unlock_sm_clock("GPU-none"), nvml::Error);
}

TEST(a_library_without_the_setters_says_so) {
  nvml::Functions functions;
  functions.DeviceGetHandleByUUID = [](const char*, nvml::Device*) { return nvml::Return{nvml::kSuccess}; };
  const nvml::Library library(functions);
  CHECK(library.supported_sm_clocks_mhz("GPU-a").empty());
  CHECK_THROWS(library.set_power_limit_mw("GPU-a", 1), nvml::Error);
  CHECK_THROWS(library.lock_sm_clock_mhz("GPU-a", 1), nvml::Error);
  CHECK_THROWS(library.unlock_sm_clock("GPU-a"), nvml::Error);
}

TEST(samplers_run_side_by_side_over_the_emulated_library) {
  configure();
  const nvml::Library library(EMULATOR_LIBRARY);
  SamplingPlan plan;
  plan.energy_counter_period_ns = 30'000'000;
  Sampler one(library, {"GPU-a", "GPU-b"}, plan);
  Sampler two(library, {"GPU-a"}, plan);
  one.start();
  two.start();
  usleep(300'000);
  one.stop();
  two.stop();
  const auto events = one.drain();
  CHECK(events.size() == 2);
  CHECK(events[0].size() > 130 && events[1].size() > 130);  // the rings hold 2.4 s from the start
  CHECK(!two.drain().at(0).empty());
  const auto health = one.health();
  CHECK(health[0].ring_depth >= 119);
  const auto& v100 = health[1].sources;
  CHECK(v100[static_cast<std::size_t>(Source::kPowerInstant)].state == SourceState::kUnsupported);
  CHECK(v100[static_cast<std::size_t>(Source::kPowerUsage)].state == SourceState::kOk);
}
