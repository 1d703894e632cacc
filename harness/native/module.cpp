// Binds what harness itself needs to be fast: the checker of a trace's rows, what counts them, cuts a part
// out of them, and makes them up.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "generator.hpp"
#include "harness/bind.hpp"
#include "harness/check.hpp"
#include "inspector.hpp"
#include "live_set.hpp"

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
      .def(nb::init<double, bool>(), nb::kw_only(), "noscan_fraction"_a, "override_noscan"_a)
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

  nb::exception<harness::SizeOverflow>(m, "SizeOverflow");
  nb::class_<harness::Generator>(m, "Generator")
      .def(
          "__init__",
          [](harness::Generator* self, std::uint64_t live, std::uint64_t seed, std::uint32_t threads,
             double remote_free, double noscan, double size_mu, double size_sigma) {
            new (self) harness::Generator({.live = live,
                                           .seed = seed,
                                           .threads = threads,
                                           .remote_free = remote_free,
                                           .noscan = noscan,
                                           .size_mu = size_mu,
                                           .size_sigma = size_sigma});
          },
          nb::kw_only(), "live"_a, "seed"_a, "threads"_a, "remote_free"_a, "noscan"_a, "size_mu"_a,
          "size_sigma"_a)
      .def("next", &generate, "count"_a);
}
