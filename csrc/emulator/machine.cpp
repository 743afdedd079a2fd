#include "emulator/machine.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "nvml/abi.h"

namespace wattcount::emulator {
namespace {

// Limits of times and powers. What is beyond them is a mistake, and does not fit integers of ns, mW or mJ.
constexpr double kFarS = 4e9;
constexpr std::int64_t kFarNs = 4'000'000'000'000'000'000;
constexpr double kMostW = 1e9;

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::string resolve(const std::string& folder, const std::string& path) {
  return !path.empty() && path.front() == '/' ? path : folder + "/" + path;
}

std::optional<double> share(const Section& section, const std::string& key) {
  if (!section.has(key)) {
    return std::nullopt;
  }
  const double value = section.number(key, 0.0, 1.0);
  if (value == 1.0) {
    section.fail(key, "a number below 1 expected");
  }
  return value;
}

FaultKind kind_of(const Section& fault) {
  static const std::map<std::string, FaultKind> kinds = {
      {"error", FaultKind::kError},
      {"missing", FaultKind::kMissing},
      {"slow", FaultKind::kSlow},
      {"zero_power", FaultKind::kZeroPower},
      {"counter_reset", FaultKind::kCounterReset},
      {"counter_freeze", FaultKind::kCounterFreeze},
      {"gpu_lost", FaultKind::kGpuLost}};
  const std::string name = fault.text("kind");
  const auto found = kinds.find(name);
  if (found == kinds.end()) {
    fault.fail("kind", "'" + name + "' is no kind of fault");
  }
  return found->second;
}

}  // namespace

std::vector<std::pair<double, double>> read_curve(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    throw std::runtime_error(path + ": the truth curve cannot be read");
  }
  std::vector<std::pair<double, double>> points;
  std::string line;
  std::getline(file, line);
  if (!line.empty() && line.back() == '\r') {
    line.pop_back();
  }
  if (line != "t_s,power_w") {
    throw std::runtime_error(path + ", line 1: the header t_s,power_w expected");
  }
  for (std::size_t number = 2; std::getline(file, line); ++number) {
    if (!line.empty() && line.back() == '\r') {
      line.pop_back();
    }
    if (line.empty()) {
      continue;
    }
    double t_s = 0.0;
    double power_w = 0.0;
    const char* const last = line.data() + line.size();
    const auto first = std::from_chars(line.data(), last, t_s);
    const bool comma = first.ec == std::errc() && first.ptr != last && *first.ptr == ',';
    const auto second = comma ? std::from_chars(first.ptr + 1, last, power_w) : first;
    const std::string where = path + ", line " + std::to_string(number);
    if (!comma || second.ec != std::errc() || second.ptr != last) {
      throw std::runtime_error(where + ": two numbers t_s,power_w expected");
    }
    if (!(std::abs(t_s) <= kFarS) || !(power_w >= 0.0 && power_w <= kMostW)) {
      throw std::runtime_error(where + ": the power must be finite and not negative, and neither it nor the time absurd");
    }
    if (!points.empty() && t_s <= points.back().first) {
      throw std::runtime_error(where + ": the times must increase");
    }
    points.emplace_back(t_s, power_w);
  }
  if (points.empty()) {
    throw std::runtime_error(path + ": the truth curve is empty");
  }
  return points;
}

Machine::Machine(const std::string& config_path, std::int64_t now_ns) {
  std::ifstream file(config_path);
  if (!file) {
    throw std::runtime_error(config_path + ": cannot be read");
  }
  std::stringstream text;
  text << file.rdbuf();
  const std::string folder = folder_of(config_path);
  try {
    const Section root = Section::parse(text.str(), {"gpus", "epoch_ns", "driver_version", "init_error", "faults"});
    epoch_ns_ = root.whole_or("epoch_ns", now_ns, -kFarNs, kFarNs);
    driver_version_ = root.text_or("driver_version", driver_version_);
    init_error_ = root.whole_or("init_error", 0);
    for (const Section& gpu : root.sections("gpus", {"name", "uuid", "profile", "truth", "seed", "gain", "offset_w",
                                                     "counter_phase", "power_phase", "ring_phase", "memory_gib",
                                                     "power_limit_w", "processes"})) {
      read_gpu(gpu, folder);
    }
    settings_ = std::make_unique<SettingsFile>(config_path + ".settings", gpus_.size());
    for (auto& gpu : gpus_) {
      gpu->settings = &settings_->of(gpu->index);
    }
    if (root.has("faults")) {
      for (const Section& fault : root.sections("faults", {"kind", "gpu", "function", "code", "ms", "from_s", "until_s",
                                                           "from_call", "until_call"})) {
        read_fault(fault);
      }
    }
  } catch (const ConfigError& error) {
    throw std::runtime_error(config_path + ": " + error.what());
  }
}

void Machine::read_gpu(const Section& section, const std::string& folder) {
  const std::string profile_name = section.text("profile");
  const Profile* profile = find_profile(profile_name);
  if (profile == nullptr) {
    std::string known;
    for (const Profile& each : profiles()) {
      known += (known.empty() ? "" : ", ") + each.name;
    }
    section.fail("profile", "'" + profile_name + "' is none of " + known);
  }
  Board board;
  board.seed = section.whole_or("seed", std::uint64_t{gpus_.size() + 1});
  board.gain = section.number_or("gain", 1.0, 0.0, 1e3);
  board.offset_w = section.number_or("offset_w", 0.0, -kMostW, kMostW);
  board.counter_phase = share(section, "counter_phase");
  board.power_phase = share(section, "power_phase");
  board.ring_phase = share(section, "ring_phase");
  auto gpu = std::make_unique<Gpu>(*profile, board);
  gpu->index = gpus_.size();
  gpu->name = section.text_or("name", profile->device_name);
  gpu->uuid = section.text("uuid");
  gpu->memory_gib = section.number_or("memory_gib", profile->memory_gib, 0.0, 1e6);
  gpu->configured_limit_w = section.number_or("power_limit_w", profile->tdp_w, 0.0, kMostW);
  if (section.has("processes")) {
    gpu->processes = section.wholes("processes");
  }
  const std::string truth = section.text("truth");
  if (truth.starts_with("live:")) {
    gpu->live.emplace(resolve(folder, truth.substr(5)));
    refresh(*gpu, INT64_MIN);
    if (gpu->sensors.truth().empty()) {
      gpu->sensors.truth().append(epoch_ns_ - 20'000'000'000, profile->idle_w);
    }
  } else {
    for (const auto& [t_s, power_w] : read_curve(resolve(folder, truth))) {
      gpu->sensors.truth().append(epoch_ns_ + std::llround(t_s * 1e9), power_w);
    }
  }
  gpus_.push_back(std::move(gpu));
}

void Machine::read_fault(const Section& section) {
  Fault fault;
  fault.kind = kind_of(section);
  if (section.has("gpu")) {
    fault.gpu = section.whole<std::size_t>("gpu");
    if (*fault.gpu >= gpus_.size()) {
      section.fail("gpu", "there is no such GPU");
    }
  }
  fault.function = section.text_or("function", "");
  fault.code = fault.kind == FaultKind::kError ? section.whole<int>("code") : 0;
  fault.ms = fault.kind == FaultKind::kSlow ? section.number("ms", 0.0, 1e9) : 0.0;
  fault.from_s = section.number_or("from_s", fault.from_s, -kFarS, kFarS);
  fault.until_s = section.number_or("until_s", fault.until_s, -kFarS, kFarS);
  fault.from_call = section.whole_or("from_call", fault.from_call);
  fault.until_call = section.whole_or("until_call", fault.until_call);
  faults_.push_back(fault);
}

bool Machine::active(const Fault& fault, const Gpu& gpu, std::int64_t now_ns) const {
  const double t_s = static_cast<double>(now_ns - epoch_ns_) * 1e-9;
  return (!fault.gpu || *fault.gpu == gpu.index) && t_s >= fault.from_s && t_s < fault.until_s;
}

Machine::Verdict Machine::call(Gpu& gpu, const std::string& function, std::int64_t now_ns) {
  const std::uint64_t number = ++gpu.calls[function];
  Verdict verdict;
  for (const Fault& fault : faults_) {
    if (!active(fault, gpu, now_ns) || number < fault.from_call || number > fault.until_call ||
        (!fault.function.empty() && fault.function != function)) {
      continue;
    }
    if (fault.kind == FaultKind::kError) {
      verdict.code = fault.code;
    } else if (fault.kind == FaultKind::kMissing) {
      verdict.code = nvml::kErrorFunctionNotFound;
    } else if (fault.kind == FaultKind::kGpuLost) {
      verdict.code = nvml::kErrorGpuIsLost;
    } else if (fault.kind == FaultKind::kSlow) {
      verdict.slow_ms += fault.ms;
    }
  }
  return verdict;
}

void Machine::refresh(Gpu& gpu, std::int64_t now_ns) {
  if (!gpu.live) {
    return;
  }
  Truth& truth = gpu.sensors.truth();
  const std::uint64_t missed = gpu.live->missed();
  const std::vector<LivePoint> points = gpu.live->fresh(now_ns);
  // All processes must count the same energy, also a process that comes late or has missed points.
  const bool resume = truth.empty() || gpu.live->missed() != missed;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::int64_t t_ns = truth.empty() ? points[i].t_ns : std::max(points[i].t_ns, truth.last_ns());
    truth.append(t_ns, static_cast<double>(points[i].power_mw) * 1e-3);
    if (i == 0 && resume) {
      truth.set_energy(t_ns, static_cast<double>(points[i].energy_uj) * 1e-6);
    }
  }
}

double Machine::shown_power_w(const Gpu& gpu, double power_w, std::int64_t now_ns) const {
  const bool zero = std::any_of(faults_.begin(), faults_.end(), [&](const Fault& fault) {
    return fault.kind == FaultKind::kZeroPower && active(fault, gpu, now_ns);
  });
  return zero ? 0.0 : power_w;
}

double Machine::counter_j(const Gpu& gpu, std::int64_t now_ns) const {
  // [J] that the board has counted before: a real counter does not begin at 0.
  constexpr double kBeforeJ = 1.0e6;
  double energy_j = kBeforeJ + gpu.sensors.counter_j(now_ns);
  for (const Fault& fault : faults_) {
    if ((fault.gpu && *fault.gpu != gpu.index) || fault.from_s < -1e200) {
      continue;
    }
    const std::int64_t from_ns = epoch_ns_ + std::llround(fault.from_s * 1e9);
    if (now_ns < from_ns) {
      continue;
    }
    if (fault.kind == FaultKind::kCounterReset) {
      energy_j = gpu.sensors.counter_j(now_ns) - gpu.sensors.counter_j(from_ns);
    } else if (fault.kind == FaultKind::kCounterFreeze && active(fault, gpu, now_ns)) {
      energy_j = kBeforeJ + gpu.sensors.counter_j(from_ns);
    }
  }
  return energy_j;
}

}  // namespace wattcount::emulator
