#include "emulator/machine.h"

#include <fstream>
#include <stdexcept>

#include "nvml/abi.h"
#include "tests/check.h"
#include "tests/scratch.h"

using namespace wattcount::emulator;
namespace nvml = wattcount::nvml;

namespace {

std::string write(const std::string& name, const std::string& text) {
  const std::string path = check::scratch(name);
  std::ofstream(path) << text;
  return path;
}

std::string gpu(const std::string& extra = "") {
  const std::string curve = write("curve.csv", "t_s,power_w\n0,100\n5,300\n");
  return R"({"uuid": "GPU-x", "profile": "h200", "truth": ")" + curve + "\"" + extra + "}";
}

std::string error_of(const std::string& json) {
  try {
    Machine(write("bad.json", json), 0);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST(machine_counts_the_energy_of_its_curve) {
  Machine machine(write("m.json", R"({"epoch_ns": 1000000000, "gpus": [)" + gpu() + "]}"), 7);
  Gpu& one = *machine.gpus().at(0);
  CHECK(machine.epoch_ns() == 1'000'000'000);
  CHECK(one.name == "NVIDIA H200");
  const double from_j = machine.counter_j(one, 2'000'000'000);
  const double to_j = machine.counter_j(one, 12'000'000'000);
  CHECK_NEAR(to_j - from_j, 4 * 100 + 6 * 300, 60);
}

TEST(faults_hold_in_their_time_and_calls) {
  Machine machine(write("f.json", R"({"epoch_ns": 0, "gpus": [)" + gpu() + R"(], "faults": [
      {"kind": "error", "function": "f", "code": 999, "from_s": 1, "until_s": 2},
      {"kind": "slow", "function": "g", "ms": 5, "from_call": 2, "until_call": 2},
      {"kind": "gpu_lost", "from_s": 50}, {"kind": "missing", "function": "h"},
      {"kind": "zero_power", "from_s": 3, "until_s": 4}, {"kind": "counter_reset", "from_s": 20},
      {"kind": "counter_freeze", "from_s": 10, "until_s": 15}]})"),
                  0);
  Gpu& one = *machine.gpus().at(0);
  CHECK(machine.call(one, "f", 500'000'000).code == 0);
  CHECK(machine.call(one, "f", 1'500'000'000).code == 999);
  CHECK(machine.call(one, "g", 0).slow_ms == 0.0);
  CHECK(machine.call(one, "g", 0).slow_ms == 5.0);
  CHECK(machine.call(one, "g", 0).slow_ms == 0.0);
  CHECK(machine.call(one, "h", 0).code == nvml::kErrorFunctionNotFound);
  CHECK(machine.call(one, "f", 51'000'000'000).code == nvml::kErrorGpuIsLost);
  CHECK(machine.shown_power_w(one, 55.0, 3'500'000'000) == 0.0);
  CHECK(machine.shown_power_w(one, 55.0, 4'500'000'000) == 55.0);
  CHECK(machine.counter_j(one, 11'000'000'000) == machine.counter_j(one, 14'000'000'000));
  CHECK(machine.counter_j(one, 16'000'000'000) > machine.counter_j(one, 14'000'000'000));
  CHECK(machine.counter_j(one, 21'000'000'000) < 1000.0);
}

TEST(bad_machines_are_refused_with_a_line_that_says_why) {
  CHECK(error_of("{").find("bad.json") != std::string::npos);
  CHECK(error_of("{}").find("'gpus' is missing") != std::string::npos);
  CHECK(error_of(R"({"gpus": [{"uuid": "a", "profile": "h300", "truth": "x"}]})").find("h200") != std::string::npos);
  CHECK(error_of(R"({"gpus": [{"uuid": "a", "profile": "h200", "truth": "none.csv"}]})").find("none.csv") != std::string::npos);
  CHECK(error_of(R"({"gpus": [)" + gpu(R"(, "colour": 1)") + "]}").find("colour") != std::string::npos);
  CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "faults": [{"kind": "fire"}]})").find("fire") != std::string::npos);
  CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "faults": [{"kind": "slow"}]})").find("ms") != std::string::npos);
  CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "faults": [{"kind": "gpu_lost", "gpu": 1}]})").find("no such GPU") != std::string::npos);
}

TEST(numbers_that_no_integer_holds_are_refused) {
  for (const char* extra : {R"(, "seed": -1)", R"(, "seed": 1e30)", R"(, "seed": 1.5)", R"(, "processes": [-1])",
                            R"(, "processes": [4294967296])", R"(, "gain": -1)", R"(, "power_limit_w": 1e300)",
                            R"(, "memory_gib": -1)", R"(, "offset_w": 1e300)"}) {
    CHECK(error_of(R"({"gpus": [)" + gpu(extra) + "]}").find("expected") != std::string::npos);
  }
  for (const char* fault : {R"("gpu": -1)", R"("gpu": 0.5)", R"("from_call": -1)", R"("until_call": 1e300)",
                            R"("from_s": 1e300)", R"("until_s": -1e300)"}) {
    CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "faults": [{"kind": "gpu_lost", )" + fault + "}]}").find("expected") !=
          std::string::npos);
  }
  CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "faults": [{"kind": "error", "code": 1e10}]})").find("expected") !=
        std::string::npos);
  CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "faults": [{"kind": "slow", "ms": -5}]})").find("expected") !=
        std::string::npos);
  CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "init_error": 1e10})").find("expected") != std::string::npos);
  CHECK(error_of(R"({"gpus": [)" + gpu() + R"(], "epoch_ns": 1e30})").find("expected") != std::string::npos);
}

TEST(curves_that_no_integer_holds_are_refused) {
  for (const char* line : {"1e300,100", "0,1e300", "nan,1", "0,nan", "inf,1", "0,-1"}) {
    CHECK_THROWS(read_curve(write("absurd.csv", std::string("t_s,power_w\n") + line + "\n")), std::runtime_error);
  }
}

TEST(bad_curves_name_their_line) {
  const auto error = [](const std::string& text) -> std::string {
    try {
      read_curve(write("c.csv", text));
    } catch (const std::exception& failure) {
      return failure.what();
    }
    return "";
  };
  CHECK(error("time,power\n0,1\n").find("line 1") != std::string::npos);
  CHECK(error("t_s,power_w\n0,1\n0,2\n").find("line 3") != std::string::npos);
  CHECK(error("t_s,power_w\n0,-1\n").find("line 2") != std::string::npos);
  CHECK(error("t_s,power_w\n0;1\n").find("line 2") != std::string::npos);
  CHECK(error("t_s,power_w\n").find("empty") != std::string::npos);
  CHECK(error("t_s,power_w\n0,1\n1,2").empty());
}
