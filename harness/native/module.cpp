// Binds what harness itself needs to be fast: the checker of a trace's rows.
#include <nanobind/stl/optional.h>

#include "harness/bind.hpp"
#include "harness/check.hpp"

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
  harness::CheckedEvents out;
  {
    nb::gil_scoped_release unlocked;
    out = checker.check(raw);
  }
  return nb::make_tuple(
      to_numpy(std::move(out.op)), to_numpy(std::move(out.thread)), to_numpy(std::move(out.slot)),
      to_numpy(std::move(out.size)), to_numpy(std::move(out.alignment)), to_numpy(std::move(out.noscan)),
      to_numpy(std::move(out.owner)), to_numpy(std::move(out.time_ns)), to_numpy(std::move(out.requested)));
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

}  // namespace

NB_MODULE(_native, m) {
  nb::exception<harness::TraceFault>(m, "TraceFault");
  nb::class_<harness::Checker>(m, "Checker")
      .def(nb::init<double, bool>(), nb::kw_only(), "noscan_fraction"_a, "override_noscan"_a)
      .def("check", &check, "op"_a, "thread"_a, "object"_a, "size"_a, "alignment"_a.none(), "noscan"_a.none(),
           "time_ns"_a.none())
      .def("totals", &totals);
}
