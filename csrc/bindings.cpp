// The only file that knows Python. The module's interface is wattcount/power/_native.pyi.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nvml/library.h"
#include "sampler/sampler.h"

namespace py = pybind11;
using namespace py::literals;

namespace wattcount {
namespace {

// A NumPy array that owns `events`: nothing is copied.
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
    sources[kSourceNames[static_cast<std::size_t>(source.source)]] =
        py::dict("state"_a = state_name(source.state), "period_ns"_a = source.period_ns, "calls"_a = source.calls,
                 "errors"_a = source.errors, "last_error"_a = source.last_error,
                 "missed_deadlines"_a = source.missed_deadlines, "cpu_ns"_a = source.cpu_ns,
                 "rate_hz"_a = seconds > 0 ? static_cast<double>(source.calls) / seconds : 0.0,
                 "call_p50_ns"_a = source.call_ns.quantile_ns(0.5), "call_p99_ns"_a = source.call_ns.quantile_ns(0.99),
                 "call_max_ns"_a = source.call_ns.max_ns(), "call_sum_ns"_a = source.call_ns.sum_ns(),
                 "lateness_p50_ns"_a = source.lateness_ns.quantile_ns(0.5),
                 "lateness_p99_ns"_a = source.lateness_ns.quantile_ns(0.99),
                 "lateness_max_ns"_a = source.lateness_ns.max_ns());
  }
  return py::dict("uuid"_a = health.uuid, "lost"_a = health.lost, "cpu_ns"_a = health.cpu_ns,
                  "wall_ns"_a = health.wall_ns, "events"_a = health.events, "dropped_events"_a = health.dropped_events,
                  "missed_deadlines"_a = health.missed_deadlines, "ring_overflows"_a = health.ring_overflows,
                  "ring_depth"_a = health.ring_depth, "ring_period_us"_a = health.ring_period_us,
                  "sources"_a = sources);
}

// Keeps the library alive as long as the sampler, whatever the order in which Python drops them.
struct PySampler {
  PySampler(std::shared_ptr<nvml::Library> library, const std::vector<std::string>& uuids, const py::dict& plan)
      : library_(std::move(library)), sampler(*library_, uuids, plan_from_python(plan)) {}
  std::shared_ptr<nvml::Library> library_;
  Sampler sampler;
};

void bind_nvml(py::module_& m) {
  static py::handle nvml_error = PyErr_NewException("wattcount.power._native.NvmlError", PyExc_RuntimeError, nullptr);
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
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("path", &nvml::Library::path)
      .def_property_readonly("emulated", &nvml::Library::emulated)
      .def_property_readonly("driver_version", &nvml::Library::driver_version)
      .def_property_readonly("nvml_version", &nvml::Library::nvml_version)
      .def_property_readonly("cuda_driver_version", &nvml::Library::cuda_driver_version)
      .def("missing_symbols", &nvml::Library::missing_symbols)
      .def("device_count", &nvml::Library::device_count)
      .def("device_uuids", &nvml::Library::device_uuids)
      .def("device_info",
           [](const nvml::Library& library, const std::string& uuid) {
             py::dict info;
             for (const auto& [name, fact] : library.device_info(uuid)) {
               info[py::str(name)] = fact_to_python(fact);
             }
             return info;
           },
           "uuid"_a)
      .def("compute_processes",
           [](const nvml::Library& library, const std::string& uuid) {
             py::list processes;
             for (const auto& process : library.compute_processes(uuid)) {
               processes.append(py::make_tuple(process.pid, process.used_bytes));
             }
             return processes;
           },
           "uuid"_a)
      .def("close", &nvml::Library::close);
}

void bind_sampler(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(Event, prev_t0_ns, t0_ns, t1_ns, source_ts_us, value, nvml_return, source, gpu);
  py::class_<PySampler>(m, "Sampler")
      .def(py::init<std::shared_ptr<nvml::Library>, const std::vector<std::string>&, const py::dict&>(), "nvml"_a,
           "uuids"_a, "plan"_a)
      .def("start", [](PySampler& self) { self.sampler.start(); }, py::call_guard<py::gil_scoped_release>())
      .def("stop", [](PySampler& self) { self.sampler.stop(); }, py::call_guard<py::gil_scoped_release>())
      .def("mark", [](PySampler& self) { self.sampler.mark(); })
      .def("drain",
           [](PySampler& self) {
             py::list arrays;
             for (auto& events : self.sampler.drain()) {
               arrays.append(events_to_numpy(std::move(events)));
             }
             return arrays;
           })
      .def("latest",
           [](PySampler& self) {
             py::list gpus;
             for (const auto& values : self.sampler.latest()) {
               py::dict latest;
               for (std::size_t i = 0; i < kSourceCount; ++i) {
                 if (values[i].known) {
                   latest[kSourceNames[i]] = values[i].value;
                 }
               }
               gpus.append(latest);
             }
             return gpus;
           })
      .def("health", [](PySampler& self) {
        py::list gpus;
        for (const auto& health : self.sampler.health()) {
          gpus.append(health_to_python(health));
        }
        return gpus;
      });
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
}

}  // namespace wattcount
