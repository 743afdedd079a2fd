// The Python module `_native`. No other file includes pybind11. The module's interface is wattcount/gpu/_native.pyi.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulator/live_truth.h"
#include "emulator/profile.h"
#include "emulator/sensor.h"
#include "nvml/library.h"
#include "sampler/sampler.h"

namespace py = pybind11;
using namespace py::literals;

namespace wattcount {
namespace {

// A NumPy array that owns `events`. Nothing is copied.
py::array events_to_numpy(std::vector<Event>&& events) {
  auto* owned = new std::vector<Event>(std::move(events));
  const py::capsule owner(owned, [](void* memory) { delete static_cast<std::vector<Event>*>(memory); });
  return py::array(py::dtype::of<Event>(), {static_cast<py::ssize_t>(owned->size())},
                   {static_cast<py::ssize_t>(sizeof(Event))}, owned->data(), owner);
}

py::object fact_to_python(const nvml::Fact& fact) {
  if (const auto* number = std::get_if<std::int64_t>(&fact)) {
    return py::int_(*number);
  }
  if (const auto* text = std::get_if<std::string>(&fact)) {
    return py::str(*text);
  }
  return py::none();
}

// Calls `work` without the GIL.
template <typename Work>
auto released(Work work) {
  const py::gil_scoped_release release;
  return work();
}

template <typename Items, typename Convert>
py::list to_list(Items&& items, Convert convert) {
  py::list all;
  for (auto& item : items) {
    all.append(convert(item));
  }
  return all;
}

std::int64_t required_ns(const py::dict& plan, const char* key, std::int64_t least) {
  const auto value = plan[key].cast<std::int64_t>();
  if (value < least) {
    throw py::value_error(std::string(key) + " must be at least " + std::to_string(least));
  }
  return value;
}

SamplingPlan plan_from_python(const py::dict& dict) {
  constexpr std::int64_t kLeastPeriodNs = 100'000;
  SamplingPlan plan;
  plan.energy_counter_period_ns = required_ns(dict, "energy_counter_period_ns", kLeastPeriodNs);
  plan.power_period_ns = required_ns(dict, "power_period_ns", kLeastPeriodNs);
  plan.samples_period_ns = required_ns(dict, "samples_period_ns", kLeastPeriodNs);
  plan.status_period_ns = required_ns(dict, "status_period_ns", kLeastPeriodNs);
  plan.heartbeat_ns = required_ns(dict, "heartbeat_ns", 1);
  plan.capacity_events = static_cast<std::size_t>(required_ns(dict, "capacity_events", 1));
  plan.usage_beside_average = dict["usage_beside_average"].cast<bool>();
  return plan;
}

const char* state_name(SourceState state) {
  switch (state) {
    case SourceState::kOk:
      return "ok";
    case SourceState::kUnsupported:
      return "unsupported";
    case SourceState::kFailing:
      return "failing";
    default:
      return "unknown";
  }
}

py::dict health_to_python(const GpuHealth& health) {
  py::dict sources;
  for (const SourceHealth& source : health.sources) {
    if (source.calls == 0) {
      continue;
    }
    const double seconds = static_cast<double>(health.wall_ns) / 1e9;
    sources[kSourceNames[index_of(source.source)]] =
        py::dict("state"_a = state_name(source.state), "period_ns"_a = source.period_ns, "calls"_a = source.calls,
                 "errors"_a = source.errors, "last_error"_a = source.last_error,
                 "missed_deadlines"_a = source.missed_deadlines, "cpu_ns"_a = source.cpu_ns,
                 "rate_hz"_a = seconds > 0 ? static_cast<double>(source.calls) / seconds : 0.0,
                 "call_p50_ns"_a = source.call_ns.quantile_ns(0.5), "call_p99_ns"_a = source.call_ns.quantile_ns(0.99),
                 "call_max_ns"_a = source.call_ns.max_ns(), "call_sum_ns"_a = source.call_ns.sum_ns(),
                 "news_p50_ns"_a = source.news_ns.count() > 0 ? py::object(py::float_(source.news_ns.quantile_ns(0.5)))
                                                              : py::object(py::none()),
                 "lateness_p50_ns"_a = source.lateness_ns.quantile_ns(0.5),
                 "lateness_p99_ns"_a = source.lateness_ns.quantile_ns(0.99),
                 "lateness_max_ns"_a = source.lateness_ns.max_ns());
  }
  return py::dict("uuid"_a = health.uuid, "lost"_a = health.lost, "stuck"_a = health.stuck, "cpu_ns"_a = health.cpu_ns,
                  "wall_ns"_a = health.wall_ns, "events"_a = health.events, "dropped_events"_a = health.dropped_events,
                  "missed_deadlines"_a = health.missed_deadlines, "ring_overflows"_a = health.ring_overflows,
                  "ring_depth"_a = health.ring_depth, "ring_period_us"_a = health.ring_period_us,
                  "sources"_a = sources);
}

// A sampler that keeps its library alive, in whatever order Python drops them. It never calls NVML with the GIL held,
// because a call may take any time.
class PySampler {
 public:
  PySampler(std::shared_ptr<nvml::Library> library, const std::vector<std::string>& uuids, const py::dict& plan)
      : library_(std::move(library)) {
    const SamplingPlan native = plan_from_python(plan);
    const py::gil_scoped_release release;
    sampler_ = std::make_unique<Sampler>(*library_, uuids, native);
  }

  ~PySampler() {
    const py::gil_scoped_release release;
    if (!sampler_->stop()) {
      keep_library();
    }
    sampler_.reset();
  }
  PySampler(const PySampler&) = delete;
  PySampler& operator=(const PySampler&) = delete;

  Sampler& native() { return *sampler_; }

  void start(std::int64_t limit_ns) {
    {
      const py::gil_scoped_release release;
      sampler_->begin();
    }
    bool begun = false;
    try {
      begun = wait(limit_ns, [this](std::int64_t until_ns) { return sampler_->wait_begun(until_ns); });
    } catch (...) {
      sampler_->request_stop();
      throw;
    }
    if (!begun) {
      stop(0);
      throw no_answer(limit_ns);
    }
  }

  // Whether the threads have ended within the limit.
  bool stop(std::int64_t limit_ns) {
    sampler_->request_stop();
    if (wait(limit_ns, [this](std::int64_t until_ns) { return sampler_->wait_stopped(until_ns); })) {
      return true;
    }
    sampler_->give_up();
    keep_library();
    return false;
  }

 private:
  // Waits for `done`. Python's signal handlers run meanwhile, and an exception of theirs ends the wait.
  template <typename Done>
  static bool wait(std::int64_t limit_ns, Done done) {
    constexpr std::int64_t kTurnNs = 50'000'000;
    const std::int64_t deadline_ns = monotonic_ns() + limit_ns;
    while (true) {
      bool is_done = false;
      {
        const py::gil_scoped_release release;
        is_done = done(std::min(deadline_ns, monotonic_ns() + kTurnNs));
      }
      if (is_done) {
        return true;
      }
      if (PyErr_CheckSignals() != 0) {
        throw py::error_already_set();
      }
      if (monotonic_ns() >= deadline_ns) {
        return false;
      }
    }
  }

  // For a thread that is still in a call of the library.
  void keep_library() {
    if (!kept_) {
      kept_ = true;
      library_->keep_open();
      static_cast<void>(new std::shared_ptr<nvml::Library>(library_));
    }
  }

  std::shared_ptr<nvml::Library> library_;
  std::unique_ptr<Sampler> sampler_;
  bool kept_ = false;
};

const py::call_guard<py::gil_scoped_release> kReleased;  // a method that calls NVML, which may take any time, without the GIL

void bind_nvml(py::module_& m) {
  static py::handle nvml_error = PyErr_NewException("wattcount.gpu._native.NvmlError", PyExc_RuntimeError, nullptr);
  m.attr("NvmlError") = nvml_error;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) {
        std::rethrow_exception(p);
      }
    } catch (const nvml::Error& error) {
      py::object instance = nvml_error(error.what());
      instance.attr("code") = error.code();
      instance.attr("function") = error.function();
      PyErr_SetObject(nvml_error.ptr(), instance.ptr());
    }
  });
  py::register_exception<nvml::LibraryNotFound>(m, "NvmlLibraryNotFound", PyExc_RuntimeError);

  py::class_<nvml::Library, std::shared_ptr<nvml::Library>>(m, "Nvml")
      .def(py::init<const std::optional<std::string>&>(), "path"_a = py::none(),
           kReleased)
      .def_property_readonly("path", &nvml::Library::path)
      .def_property_readonly("emulated", &nvml::Library::emulated)
      .def_property_readonly("driver_version", py::cpp_function(&nvml::Library::driver_version, kReleased))
      .def_property_readonly("nvml_version", py::cpp_function(&nvml::Library::nvml_version, kReleased))
      .def_property_readonly("cuda_driver_version", py::cpp_function(&nvml::Library::cuda_driver_version, kReleased))
      .def("missing_symbols", &nvml::Library::missing_symbols)
      .def("device_count", &nvml::Library::device_count, kReleased)
      .def("device_uuids", &nvml::Library::device_uuids, kReleased)
      .def("device_info",
           [](const nvml::Library& library, const std::string& uuid) {
             const auto facts = released([&] { return library.device_info(uuid); });
             py::dict info;
             for (const auto& [name, fact] : facts) {
               info[py::str(name)] = fact_to_python(fact);
             }
             return info;
           },
           "uuid"_a)
      .def("compute_processes",
           [](const nvml::Library& library, const std::string& uuid) {
             return to_list(released([&] { return library.compute_processes(uuid); }),
                            [](const auto& process) { return py::make_tuple(process.pid, process.used_bytes); });
           },
           "uuid"_a)
      .def("supported_sm_clocks_mhz", &nvml::Library::supported_sm_clocks_mhz, "uuid"_a, kReleased)
      .def("set_power_limit_mw", &nvml::Library::set_power_limit_mw, "uuid"_a, "limit_mw"_a, kReleased)
      .def("lock_sm_clock_mhz", &nvml::Library::lock_sm_clock_mhz, "uuid"_a, "clock_mhz"_a, kReleased)
      .def("unlock_sm_clock", &nvml::Library::unlock_sm_clock, "uuid"_a, kReleased)
      .def("close", &nvml::Library::close, kReleased);
}

void bind_sampler(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(Event, prev_t0_ns, t0_ns, t1_ns, source_ts_us, value, nvml_return, source, gpu);
  py::class_<PySampler>(m, "Sampler")
      .def(py::init<std::shared_ptr<nvml::Library>, const std::vector<std::string>&, const py::dict&>(), "nvml"_a,
           "uuids"_a, "plan"_a)
      .def("start", &PySampler::start, "limit_ns"_a = kStartLimitNs)
      .def("stop", &PySampler::stop, "limit_ns"_a = kStopLimitNs)
      .def("mark", [](PySampler& self) { self.native().mark(); })
      .def("drain",
           [](PySampler& self) {
             return to_list(self.native().drain(), [](auto& events) { return events_to_numpy(std::move(events)); });
           })
      .def("latest",
           [](PySampler& self) {
             return to_list(self.native().latest(), [](const auto& values) {
               py::dict latest;
               for (std::size_t i = 0; i < kSourceCount; ++i) {
                 if (values[i].known) {
                   latest[kSourceNames[i]] = values[i].value;
                 }
               }
               return latest;
             });
           })
      .def("health", [](PySampler& self) { return to_list(self.native().health(), health_to_python); });
}

// ---- the emulator's core, in virtual time --------------------------------------------------------

using Ints = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

emulator::Sensors make_sensors(const std::string& profile, const Ints& t_ns, const Doubles& power_w,
                               const emulator::Board& board) {
  const emulator::Profile* found = emulator::find_profile(profile);
  if (found == nullptr) {
    throw py::value_error("no sensor profile '" + profile + "'");
  }
  if (t_ns.ndim() != 1 || power_w.ndim() != 1 || t_ns.size() != power_w.size() || t_ns.size() == 0) {
    throw py::value_error("t_ns and power_w must be one-dimensional, of one length, and not empty");
  }
  emulator::Sensors sensors(*found, board);
  for (py::ssize_t i = 0; i < t_ns.size(); ++i) {
    if (i > 0 && t_ns.at(i) <= t_ns.at(i - 1)) {
      throw py::value_error("t_ns must increase");
    }
    sensors.truth().append(t_ns.at(i), power_w.at(i));
  }
  return sensors;
}

template <typename Read>
py::array_t<double> read_at(const Ints& t_ns, Read read) {
  py::array_t<double> out(t_ns.size());
  auto* const to = out.mutable_data();
  const auto* const from = t_ns.data();
  for (py::ssize_t i = 0; i < t_ns.size(); ++i) {
    to[i] = read(from[i]);
  }
  return out;
}

// A method that reads one sensor at each of `t_ns`.
auto reads(double (emulator::Sensors::*read)(std::int64_t) const) {
  return [read](const emulator::Sensors& self, const Ints& t_ns) {
    return read_at(t_ns, [&](std::int64_t t) { return (self.*read)(t); });
  };
}

template <typename T>
py::array_t<T> column(const std::vector<emulator::RingSample>& samples, T emulator::RingSample::*member) {
  py::array_t<T> out(static_cast<py::ssize_t>(samples.size()));
  std::transform(samples.begin(), samples.end(), out.mutable_data(), [=](const auto& sample) { return sample.*member; });
  return out;
}

double lost_share(const emulator::Profile& profile, const std::vector<emulator::LateClass>& classes) {
  double share = 0.0;
  for (const emulator::LateClass& each : classes) {
    share += each.from_ms >= profile.ring_period_ms ? each.share : 0.0;
  }
  return share;
}

py::dict profile_to_python(const emulator::Profile& p) {
  const auto source = [](const emulator::PowerSource& s) -> py::object {
    if (!s.present) {
      return py::none();
    }
    return py::dict("period_ms"_a = s.period_ms, "window_ms"_a = s.window_ms, "samples"_a = s.samples,
                    "delay_ms"_a = s.delay_ms, "noise_w"_a = s.noise_w);
  };
  return py::dict("name"_a = p.name, "evidence"_a = p.evidence, "source"_a = p.source, "device_name"_a = p.device_name,
                  "memory_gib"_a = p.memory_gib, "tdp_w"_a = p.tdp_w, "idle_w"_a = p.idle_w,
                  "average"_a = source(p.average), "instant"_a = source(p.instant), "usage"_a = source(p.usage),
                  "lowpass_ms"_a = p.lowpass_ms, "counter"_a = p.counter, "counter_period_ms"_a = p.counter_period_ms,
                  "counter_publish_ms"_a = p.counter_publish_ms, "counter_late_share"_a = p.counter_late_share, "ring"_a = p.ring,
                  "ring_period_ms"_a = p.ring_period_ms, "ring_depth"_a = p.ring_depth,
                  "ring_delay_ms"_a = p.ring_delay_ms, "ring_lead_ms"_a = p.ring_lead_ms, "ring_lost_tick"_a = lost_share(p, p.ring_late_active_tick),
                  "ring_lost_over"_a = lost_share(p, p.ring_late_over), "ring_step_w"_a = p.ring_step_w,
                  "ring_over_w"_a = p.ring_over_w);
}

void bind_emulator(py::module_& m) {
  m.def("emulator_profiles", [] { return to_list(emulator::profiles(), profile_to_python); });
  py::class_<emulator::Sensors>(m, "VirtualSensors")
      .def(py::init([](const std::string& profile, const Ints& t_ns, const Doubles& power_w, std::uint64_t seed,
                       double gain, double offset_w, std::optional<double> counter_phase,
                       std::optional<double> power_phase, std::optional<double> ring_phase) {
             return make_sensors(profile, t_ns, power_w,
                                 emulator::Board{seed, gain, offset_w, counter_phase, power_phase, ring_phase});
           }),
           "profile"_a, "t_ns"_a, "power_w"_a, "seed"_a, "gain"_a, "offset_w"_a, "counter_phase"_a, "power_phase"_a,
           "ring_phase"_a)
      .def("counter_j", reads(&emulator::Sensors::counter_j), "t_ns"_a)
      .def("average_w", reads(&emulator::Sensors::average_w), "t_ns"_a)
      .def("instant_w", reads(&emulator::Sensors::instant_w), "t_ns"_a)
      .def("usage_w", reads(&emulator::Sensors::usage_w), "t_ns"_a)
      .def("true_energy_j",
           [](const emulator::Sensors& self, const Ints& t_ns) {
             return read_at(t_ns, [&](std::int64_t t) { return self.truth().energy_j(t); });
           },
           "t_ns"_a)
      .def("ring",
           [](const emulator::Sensors& self, std::int64_t t_ns, std::int64_t after_ns) {
             const auto samples = self.ring(t_ns, after_ns);
             return py::make_tuple(column(samples, &emulator::RingSample::stamp_ns),
                                   column(samples, &emulator::RingSample::power_w));
           },
           "t_ns"_a, "after_ns"_a)
      .def("samples",
           [](const emulator::Sensors& self, std::int64_t start_ns, std::int64_t end_ns) {
             const auto samples = self.samples(start_ns, end_ns);
             return py::make_tuple(column(samples, &emulator::RingSample::slot),
                                   column(samples, &emulator::RingSample::stamp_ns),
                                   column(samples, &emulator::RingSample::power_w));
           },
           "start_ns"_a, "end_ns"_a);
  py::class_<emulator::LiveWriter>(m, "LiveTruthWriter")
      .def(py::init<const std::string&, std::uint64_t>(), "path"_a, "capacity"_a)
      .def_static("attach", [](const std::string& path) { return emulator::LiveWriter(path); }, "path"_a)
      .def("append", &emulator::LiveWriter::append, "t_ns"_a, "power_mw"_a)
      .def_property_readonly("clamped", &emulator::LiveWriter::clamped)
      .def("history", &emulator::LiveWriter::history);
}

py::dict build_config() {
  return py::dict("version"_a = WATTCOUNT_VERSION, "build_type"_a = WATTCOUNT_BUILD_TYPE,
                  "compiler"_a = std::string(__VERSION__), "cxx_standard"_a = std::to_string(__cplusplus),
                  "pybind11"_a = std::to_string(PYBIND11_VERSION_MAJOR) + "." + std::to_string(PYBIND11_VERSION_MINOR));
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "NVML, the sampling threads and the emulator's core; see _native.pyi";
  m.def("build_config", &build_config);
  bind_nvml(m);
  bind_sampler(m);
  bind_emulator(m);
}

}  // namespace wattcount
