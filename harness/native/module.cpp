// Binds what harness itself needs to be fast: the checker of a trace's rows, what counts them, cuts a part
// out of them, makes them up, and drives allocators in plain Python.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "generator.hpp"
#include "harness/bind.hpp"
#include "harness/check.hpp"
#include "inspector.hpp"
#include "live_set.hpp"
#include "python_allocator.hpp"

namespace {

namespace nb = nanobind;
using namespace nb::literals;
using harness::Column;
using harness::to_numpy;
using harness::view;

nb::tuple check(harness::Checker& checker, const Column<std::uint8_t>& op,
                const Column<std::uint32_t>& thread, const Column<std::uint64_t>& object,
                const Column<std::uint64_t>& size, const std::optional<Column<std::uint32_t>>& alignment,
                const std::optional<Column<std::uint8_t>>& noscan,
                const std::optional<Column<std::int64_t>>& time_ns) {
  harness::RawEvents raw{.op = view(op), .thread = view(thread), .object = view(object), .size = view(size)};
  if (alignment) raw.alignment = view(*alignment);
  if (noscan) raw.noscan = view(*noscan);
  if (time_ns) raw.time_ns = view(*time_ns);
  for (const std::size_t rows : {raw.thread.size(), raw.object.size(), raw.size.size()}) {
    if (rows != raw.op.size()) throw std::invalid_argument("columns of one batch differ in length");
  }
  std::shared_ptr<harness::CheckedEvents> out;
  {
    nb::gil_scoped_release unlocked;
    out = checker.check(raw);
  }
  return nb::make_tuple(to_numpy(out->op, out), to_numpy(out->thread, out), to_numpy(out->slot, out),
                        to_numpy(out->size, out), to_numpy(out->alignment, out), to_numpy(out->noscan, out),
                        to_numpy(out->owner, out), to_numpy(out->time_ns, out),
                        to_numpy(out->requested, out));
}

nb::dict totals(const harness::Checker& checker) {
  const harness::TraceTotals& t = checker.totals();
  nb::dict result;
  result["events"] = t.events;
  result["allocations"] = t.allocations;
  result["reallocations"] = t.reallocations;
  result["frees"] = t.frees;
  result["collections"] = t.collections;
  result["threads"] = t.threads;
  result["thread_ends"] = t.thread_ends;
  result["remote_frees"] = t.remote_frees;
  result["allocated_bytes"] = t.allocated_bytes;
  result["peak_requested_bytes"] = t.peak_requested;
  result["peak_requested_event"] = t.peak_requested_event;
  result["peak_live_objects"] = t.peak_live_objects;
  result["end_requested_bytes"] = t.requested;
  result["end_live_objects"] = t.live_objects;
  result["requested_sum"] = harness::to_python(t.requested_sum);
  return result;
}

template <typename T>
std::span<const T> column(const nb::object& batch, const char* name) {
  // No conversion: the column must outlive this call, as the batch's own memory does.
  return view(nb::cast<Column<T>>(batch.attr(name), false));
}

void inspect(harness::Inspector& inspector, const nb::object& batch) {
  harness::Events events;
  events.op = column<std::uint8_t>(batch, "op");
  events.slot = column<std::uint32_t>(batch, "slot");
  events.size = column<std::uint64_t>(batch, "size");
  events.noscan = column<std::uint8_t>(batch, "noscan");
  events.time_ns = column<std::int64_t>(batch, "time_ns");
  nb::gil_scoped_release unlocked;
  inspector.feed(events);
}

nb::tuple histogram(const harness::Histogram& histogram) {
  return nb::make_tuple(to_numpy(std::vector(histogram.count.begin(), histogram.count.end())),
                        to_numpy(std::vector(histogram.bytes.begin(), histogram.bytes.end())));
}

nb::dict inspected(const harness::Inspector& inspector) {
  nb::dict result;
  result["sizes"] = histogram(inspector.sizes());
  result["lifetimes_bytes"] = histogram(inspector.lifetimes_bytes());
  result["lifetimes_events"] = histogram(inspector.lifetimes_events());
  result["lifetimes_ns"] = histogram(inspector.lifetimes_ns());
  result["callocs"] = inspector.callocs();
  result["largest_size_bytes"] = inspector.largest_size_bytes();
  result["noscan_objects"] = inspector.noscan_objects();
  result["duration_ns"] = inspector.duration_ns();
  return result;
}

// Rows for a LiveSet, borrowed from the checked batch and from the file's own columns beside it.
harness::CutRows cut_rows(const nb::object& batch, const Column<std::uint32_t>& thread,
                          const std::optional<Column<std::uint32_t>>& site) {
  return {.op = column<std::uint8_t>(batch, "op"),
          .thread = view(thread),
          .slot = column<std::uint32_t>(batch, "slot"),
          .size = column<std::uint64_t>(batch, "size"),
          .alignment = column<std::uint32_t>(batch, "alignment"),
          .noscan = column<std::uint8_t>(batch, "noscan"),
          .site = site ? view(*site) : std::span<const std::uint32_t>{}};
}

void skip(harness::LiveSet& live, const nb::object& batch, const Column<std::uint32_t>& thread,
          const std::optional<Column<std::uint32_t>>& site) {
  const harness::CutRows rows = cut_rows(batch, thread, site);
  nb::gil_scoped_release unlocked;
  live.skip(rows);
}

nb::tuple take(harness::LiveSet& live, const nb::object& batch, const Column<std::uint32_t>& thread,
               const std::optional<Column<std::uint32_t>>& site) {
  const harness::CutRows rows = cut_rows(batch, thread, site);
  harness::TakenRows taken;
  {
    nb::gil_scoped_release unlocked;
    taken = live.take(rows);
  }
  return nb::make_tuple(to_numpy(std::move(taken.is_taken)), to_numpy(std::move(taken.object)));
}

nb::dict alive(harness::LiveSet& live) {
  harness::AliveRows rows = live.alive();
  nb::dict result;
  result["op"] = to_numpy(std::move(rows.op));
  result["thread"] = to_numpy(std::move(rows.thread));
  result["object"] = to_numpy(std::move(rows.object));
  result["size"] = to_numpy(std::move(rows.size));
  result["alignment"] = to_numpy(std::move(rows.alignment));
  result["noscan"] = to_numpy(std::move(rows.noscan));
  result["site"] = to_numpy(std::move(rows.site));
  return result;
}

auto feed_python(harness::PythonReplay& replay, const nb::object& batch, const Column<std::int64_t>& stops) {
  harness::Events events;
  events.op = column<std::uint8_t>(batch, "op");
  events.thread = column<std::uint16_t>(batch, "thread");
  events.slot = column<std::uint32_t>(batch, "slot");
  events.size = column<std::uint64_t>(batch, "size");
  events.alignment = column<std::uint32_t>(batch, "alignment");
  events.noscan = column<std::uint8_t>(batch, "noscan");
  events.requested = column<std::uint64_t>(batch, "requested");
  replay.allocator().take_methods();
  const std::vector<harness::Sample> samples = replay.feed(events, view(stops));
  return harness::samples_to_numpy(samples, replay.take_gauges());
}

int traverse_python(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  return nb::inst_ptr<harness::PythonReplay>(self)->traverse(visit, arg);
}

PyType_Slot python_replay_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse_python)},
                                     {0, nullptr}};

harness::Lifetimes lifetimes_named(const std::string& name) {
  using harness::Lifetimes;
  const std::pair<const char*, Lifetimes> named[] = {{"exponential", Lifetimes::kExponential},
                                                     {"fifo", Lifetimes::kFifo},
                                                     {"lifo", Lifetimes::kLifo},
                                                     {"mixture", Lifetimes::kMixture},
                                                     {"by-size", Lifetimes::kBySize}};
  for (const auto& [known, lifetimes] : named) {
    if (name == known) return lifetimes;
  }
  throw std::invalid_argument("no such lifetimes: " + name);
}

void begin_phase(harness::Generator& generator, std::uint64_t live, std::uint32_t threads, double remote_free,
                 double noscan, double size_mu, double size_sigma, std::vector<std::uint64_t> sizes,
                 std::vector<double> weights, std::vector<double> live_weights, const std::string& lifetimes,
                 double short_lived, double short_life_events) {
  generator.begin_phase({.live = live,
                         .threads = threads,
                         .remote_free = remote_free,
                         .noscan = noscan,
                         .size_mu = size_mu,
                         .size_sigma = size_sigma,
                         .sizes = std::move(sizes),
                         .weights = std::move(weights),
                         .live_weights = std::move(live_weights),
                         .lifetimes = lifetimes_named(lifetimes),
                         .short_lived = short_lived,
                         .short_life_events = short_life_events});
}

nb::dict generate(harness::Generator& generator, std::size_t count) {
  harness::GeneratedEvents events;
  {
    nb::gil_scoped_release unlocked;
    events = generator.next(count);
  }
  nb::dict result;
  result["op"] = to_numpy(std::move(events.op));
  result["thread"] = to_numpy(std::move(events.thread));
  result["object"] = to_numpy(std::move(events.object));
  result["size"] = to_numpy(std::move(events.size));
  result["noscan"] = to_numpy(std::move(events.noscan));
  result["time_ns"] = to_numpy(std::move(events.time_ns));
  return result;
}

}  // namespace

NB_MODULE(_native, m) {
  nb::exception<harness::TraceFault>(m, "TraceFault");
  nb::class_<harness::Checker>(m, "Checker")
      .def(
          "__init__",
          [](harness::Checker* self, double noscan_fraction, bool override_noscan, bool slots_rest) {
            new (self)
                harness::Checker(noscan_fraction, override_noscan, slots_rest ? harness::kSlotRest : 0);
          },
          nb::kw_only(), "noscan_fraction"_a, "override_noscan"_a, "slots_rest"_a = true)
      .def("check", &check, "op"_a, "thread"_a, "object"_a, "size"_a, "alignment"_a.none(), "noscan"_a.none(),
           "time_ns"_a.none())
      .def("totals", &totals);

  nb::class_<harness::Inspector>(m, "Inspector")
      .def(nb::init<>())
      .def("feed", &inspect, "batch"_a)
      .def("quantile", [](const harness::Inspector& inspector,
                          std::uint64_t per_mille) { return inspector.size_counts().quantile(per_mille); })
      .def("result", &inspected);

  nb::class_<harness::LiveSet>(m, "LiveSet")
      .def(nb::init<const std::vector<std::uint32_t>&>(), "threads"_a)
      .def("skip", &skip, "batch"_a, "thread"_a, "site"_a.none())
      .def("alive", &alive)
      .def("take", &take, "batch"_a, "thread"_a, "site"_a.none());

  nb::exception<harness::InvariantError>(m, "InvariantError");
  nb::class_<harness::PythonReplay>(m, "PythonReplay", nb::type_slots(python_replay_slots))
      .def(nb::init<nb::object, nb::type_object>(), "allocator"_a, "request"_a)
      .def("feed", &feed_python, "batch"_a, "stops"_a)
      .def("result", [](const harness::PythonReplay& replay) { return harness::result_of(replay); });

  nb::exception<harness::SizeOverflow>(m, "SizeOverflow");
  nb::class_<harness::Generator>(m, "Generator")
      .def(nb::init<std::uint64_t>(), nb::kw_only(), "seed"_a)
      .def("begin_phase", &begin_phase, nb::kw_only(), "live"_a, "threads"_a, "remote_free"_a, "noscan"_a,
           "size_mu"_a, "size_sigma"_a, "sizes"_a, "weights"_a, "live_weights"_a, "lifetimes"_a,
           "short_lived"_a, "short_life"_a)
      .def("next", &generate, "count"_a);
}
