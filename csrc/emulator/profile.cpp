#include "emulator/profile.h"

#include <map>

namespace wattcount::emulator {
namespace {

constexpr const char* kYang = "Yang et al., 'Part-time Power Measurements: nvidia-smi's Lack of Attention', arXiv 2312.02741";
constexpr const char* kLikeH200 = "taken over from the H200; not verified on this GPU";
constexpr const char* kLikeA100 = "taken over from the A100; not verified on this GPU";

PowerSource source(double period_ms, double window_ms, bool present = true) {
  PowerSource made;
  made.present = present;
  made.period_ms = period_ms;
  made.window_ms = window_ms;
  return made;
}

Profile base(const char* name, const char* evidence, const char* from, const char* device, double memory_gib,
             double tdp_w, double idle_w, int major, int minor, int architecture) {
  Profile p;
  p.name = name;
  p.evidence = evidence;
  p.source = from;
  p.device_name = device;
  p.memory_gib = memory_gib;
  p.tdp_w = tdp_w;
  p.idle_w = idle_w;
  p.compute_major = major;
  p.compute_minor = minor;
  p.architecture = architecture;
  return p;
}

// Hopper, as measured on an H200. The driver samples the low-passed power every 20 ms, and late where power steps. Every
// 100 ms field 186 shows the newest sample, and field 185 the mean of the last 50.
Profile hopper(const char* name, const char* evidence, const char* from, const char* device, double memory_gib,
               double tdp_w, double idle_w) {
  Profile p = base(name, evidence, from, device, memory_gib, tdp_w, idle_w, 9, 0, 9);
  p.average.period_ms = 100.0;
  p.average.samples = 50;
  p.average.delay_ms = 5.7;
  p.average.noise_w = 0.1;
  p.average.late_share = 0.03;
  p.average.stray_share = 0.5;
  p.usage = p.average;
  p.instant = p.average;
  p.instant.samples = 1;
  p.instant.noise_w = 0.3;
  p.lowpass_ms = 9.0;
  p.ring_delay_ms = 4.2;
  p.ring_lead_ms = 2.0;
  p.counter_jitter_ms = 0.5;
  p.counter_late_share = 0.3;
  p.ring_late = {{0.20, 0.1, 0.5}, {0.06, 0.5, 3.0}, {0.04, 4.0, 7.0}};
  p.ring_late_active = {{0.25, 0.1, 1.0}, {0.12, 1.0, 4.0}, {0.12, 4.0, 7.0}, {0.10, 12.0, 16.0}, {0.018, 20.0, 26.0}};
  p.ring_late_over = {{0.25, 0.1, 1.0}, {0.15, 1.0, 4.0}, {0.15, 4.0, 7.0}, {0.10, 12.0, 16.0}, {0.08, 20.0, 26.0}};
  p.ring_late_active_tick = {{0.25, 3.5, 6.0}, {0.15, 10.0, 16.0}, {0.09, 20.0, 26.0}};
  p.ring_late_tick = {1.0, 2.8, 3.5};
  p.ring_step_w = 0.35 * tdp_w;
  p.ring_over_w = 1.1 * tdp_w;
  p.costs = {2.8, 6.5, 0.6, 0.002, 0.5, 12.5, 71.0};
  return p;
}

// GA100: the sensor sees 25 ms of every 100 ms.
Profile ga100(const char* name, const char* evidence, const char* from, const char* device, double memory_gib,
              double tdp_w, double idle_w) {
  Profile p = base(name, evidence, from, device, memory_gib, tdp_w, idle_w, 8, 0, 7);
  p.average = source(100.0, 1000.0);
  p.instant = source(100.0, 25.0);
  p.usage = source(100.0, 25.0);
  p.costs = {2.8, 5.0, 0.6, 0.002};
  return p;
}

// GA10x and Ada: a mean over one second, new every 100 ms.
Profile ga10x(const char* name, const char* evidence, const char* from, const char* device, double memory_gib,
              double tdp_w, double idle_w, int minor, int architecture) {
  Profile p = base(name, evidence, from, device, memory_gib, tdp_w, idle_w, 8, minor, architecture);
  p.average = source(100.0, 1000.0);
  p.instant = source(100.0, 100.0);
  p.usage = source(100.0, 1000.0);
  p.costs = {2.8, 5.0, 0.6, 0.002};
  return p;
}

// Volta and Turing have no fields 185 and 186. Power is new every 20 ms or 100 ms.
Profile older(const char* name, const char* evidence, const char* from, const char* device, double memory_gib,
              double tdp_w, double idle_w, int minor, int architecture, double period_ms, double window_ms) {
  Profile p = base(name, evidence, from, device, memory_gib, tdp_w, idle_w, 7, minor, architecture);
  p.average.present = false;
  p.instant.present = false;
  p.usage = source(period_ms, window_ms);
  p.counter_period_ms = period_ms;
  p.costs = {1.0, 2.0, 0.6, 0.002};
  return p;
}

// From data sheets: SM and memory clock (MHz, as NVML gives them), cores, memory bus; brand, ECC, MIG, fan, memory sensor.
Facts facts_of(const std::string& name) {
  static const std::map<std::string, Facts> facts = {
      {"h200", {1980, 3201, 16896, 6144, 14, true, true, false, true}},
      {"h100", {1980, 2619, 16896, 5120, 14, true, true, false, true}},
      {"h100_nvl", {1785, 2619, 16896, 6016, 14, true, true, false, true}},
      {"b200", {1965, 3996, 18944, 8192, 14, true, true, false, true}},
      {"a100", {1410, 1593, 6912, 5120, 14, true, true, false, true}},
      {"a100_80gb", {1410, 1593, 6912, 5120, 14, true, true, false, true}},
      {"a100_40gb", {1410, 1215, 6912, 5120, 14, true, true, false, true}},
      {"a30", {1440, 1215, 3584, 3072, 14, true, true, false, true}},
      {"rtx3090", {2100, 9751, 10496, 384, 5, false, false, true, false}},
      {"rtx4090", {3105, 10501, 16384, 384, 5, false, false, true, false}},
      {"l4", {2040, 6251, 7424, 192, 14, true, false, false, false}},
      {"l40s", {2520, 9001, 18176, 384, 14, true, false, false, false}},
      {"v100", {1530, 877, 5120, 4096, 2, true, false, false, true}},
      {"t4", {1590, 5001, 2560, 256, 2, true, false, false, false}},
  };
  return facts.at(name);
}

std::vector<Profile> make_profiles() {
  std::vector<Profile> all;
  all.push_back(hopper("h200", "measured", "recorded on an H200 SXM, driver 580.159; see docs/emulator.md",
                       "NVIDIA H200", 140.4, 700.0, 77.0));
  all.push_back(hopper("h100", "guessed", kLikeH200, "NVIDIA H100 80GB HBM3", 79.6, 700.0, 70.0));
  all.push_back(hopper("h100_nvl", "guessed", kLikeH200, "NVIDIA H100 NVL", 93.6, 400.0, 60.0));
  Profile b200 = hopper("b200", "guessed", kLikeH200, "NVIDIA B200", 179.1, 1000.0, 140.0);
  b200.compute_major = 10;
  b200.architecture = 10;
  all.push_back(b200);
  all.push_back(ga100("a100", "published", kYang, "NVIDIA A100-SXM4-80GB", 80.0, 400.0, 55.0));
  all.push_back(ga100("a100_80gb", "published", kYang, "NVIDIA A100-SXM4-80GB", 80.0, 400.0, 55.0));
  all.push_back(ga100("a100_40gb", "published", kYang, "NVIDIA A100-SXM4-40GB", 40.0, 400.0, 50.0));
  all.push_back(ga100("a30", "guessed", kLikeA100, "NVIDIA A30", 24.0, 165.0, 30.0));
  all.push_back(ga10x("rtx3090", "published", kYang, "NVIDIA GeForce RTX 3090", 24.0, 350.0, 25.0, 6, 7));
  all.push_back(ga10x("rtx4090", "published", kYang, "NVIDIA GeForce RTX 4090", 24.0, 450.0, 20.0, 9, 8));
  all.push_back(ga10x("l4", "guessed", "taken over from GA10x; not verified on this GPU", "NVIDIA L4", 22.5, 72.0, 16.0, 9, 8));
  all.push_back(ga10x("l40s", "guessed", "taken over from GA10x; not verified on this GPU", "NVIDIA L40S", 45.0, 350.0, 35.0, 9, 8));
  all.push_back(older("v100", "published", kYang, "Tesla V100-SXM2-32GB", 32.0, 300.0, 40.0, 0, 5, 20.0, 10.0));
  all.push_back(older("t4", "guessed", "power taken over from Turing in arXiv 2312.02741 (100 ms); not verified on this GPU",
                      "Tesla T4", 15.0, 70.0, 10.0, 5, 6, 100.0, 100.0));
  for (Profile& profile : all) {
    profile.facts = facts_of(profile.name);
  }
  return all;
}

}  // namespace

const std::vector<Profile>& profiles() {
  static const std::vector<Profile> all = make_profiles();
  return all;
}

const Profile* find_profile(const std::string& name) {
  for (const Profile& profile : profiles()) {
    if (profile.name == name) {
      return &profile;
    }
  }
  return nullptr;
}

}  // namespace wattcount::emulator
