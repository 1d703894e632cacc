// Gives any harness::Allocator a Python class: its options as keywords, feed(), result() and placements.
//
// What crosses the boundary are NumPy columns, so a backend built elsewhere with another nanobind works as
// well as ours. harness/allocator.py (NativeAllocator) is the other side.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "harness/replay.hpp"

namespace harness {

namespace nb = nanobind;

// A NumPy column, borrowed: zero-copy, read-only, contiguous. A wrong dtype is a TypeError.
template <typename T>
using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
std::span<const T> view(const Column<T>& column) {
  return {column.data(), column.shape(0)};
}

// Hands a vector's memory to NumPy without copying it.
template <typename T>
auto to_numpy(std::vector<T> values) {
  auto kept = std::make_unique<std::vector<T>>(std::move(values));
  T* data = kept->data();
  const std::size_t count = kept->size();
  nb::capsule owner(kept.get(), [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  kept.release();
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {count}, owner);
}

// Lends NumPy a vector that belongs to something, which lives for as long as the array does.
template <typename T>
auto to_numpy(std::vector<T>& values, const std::shared_ptr<void>& whole) {
  using Owner = std::shared_ptr<void>;
  auto kept = std::make_unique<Owner>(whole);
  nb::capsule owner(kept.get(), [](void* p) noexcept { delete static_cast<Owner*>(p); });
  kept.release();
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(values.data(), {values.size()}, owner);
}

// A row a stop: the sample, then the gauges.
template <typename Gauges>
auto samples_to_numpy(const std::vector<Sample>& samples, const std::vector<Gauges>& gauges) {
  static_assert(sizeof(Sample) % sizeof(std::int64_t) == 0);
  constexpr std::size_t kParts = sizeof(Sample) / sizeof(std::int64_t);
  constexpr std::size_t kColumns = kParts + std::tuple_size_v<Gauges>;
  auto kept = std::make_unique<std::int64_t[]>(samples.size() * kColumns + 1);
  for (std::size_t row = 0; row < samples.size(); ++row) {
    std::int64_t* const to = kept.get() + row * kColumns;
    std::copy_n(reinterpret_cast<const std::int64_t*>(&samples[row]), kParts, to);
    if constexpr (kColumns > kParts) std::copy(gauges[row].begin(), gauges[row].end(), to + kParts);
  }
  std::int64_t* data = kept.get();
  nb::capsule owner(kept.get(), [](void* p) noexcept { delete[] static_cast<std::int64_t*>(p); });
  kept.release();
  return nb::ndarray<nb::numpy, std::int64_t, nb::ndim<2>>(data, {samples.size(), kColumns}, owner);
}

inline nb::object to_python(Uint128 value) {
  const nb::int_ high(static_cast<std::uint64_t>(value >> 64));
  const nb::int_ low(static_cast<std::uint64_t>(value));
  return (high << nb::int_(64)) | low;
}

inline nb::object to_python(std::int64_t value) {
  if (value == kUnknown) return nb::none();
  return nb::int_(value);
}

inline nb::dict to_python(const Footprint& now) {
  nb::dict result;
  const std::pair<const char*, std::int64_t> parts[] = {
      {"live", now.live},           {"dead", now.dead},         {"front_end", now.front_end},
      {"transfer", now.transfer},   {"central", now.central},   {"tail", now.tail},
      {"page_heap", now.page_heap}, {"released", now.released}, {"runtime", now.runtime},
      {"mapped", now.mapped},       {"metadata", now.metadata}};
  for (const auto& [name, bytes] : parts) result[name] = to_python(bytes);
  return result;
}

inline nb::dict to_python(const ClassUse& use, std::uint64_t requested, std::uint64_t allocations) {
  nb::dict result;
  result["class"] = nb::int_(use.class_index);
  result["noscan"] = use.noscan == kUnknown ? nb::object(nb::none()) : nb::object(nb::bool_(use.noscan != 0));
  const std::pair<const char*, std::int64_t> columns[] = {
      {"slot_bytes", use.slot_bytes},
      {"span_bytes", use.span_bytes},
      {"spans", use.spans},
      {"spans_requested", use.spans_requested},
      {"spans_returned", use.spans_returned},
      {"allocations", static_cast<std::int64_t>(allocations)},
      {"live_objects", use.live_objects},
      {"requested_bytes", static_cast<std::int64_t>(requested)},
      {"live_bytes", use.live_bytes},
      {"header_bytes", use.header_bytes},
      {"dead_bytes", use.dead_bytes},
      {"front_end_bytes", use.front_end_bytes},
      {"transfer_bytes", use.transfer_bytes},
      {"central_bytes", use.central_bytes},
      {"tail_bytes", use.tail_bytes}};
  for (const auto& [name, value] : columns) result[name] = nb::int_(value);
  result["lock_acquisitions"] = to_python(use.lock_acquisitions);
  return result;
}

// What NativeAllocator.result() hands to the engine: exact totals, counters, classes.
template <Allocator A>
nb::dict result_of(const Replay<A>& replay) {
  const Totals totals = replay.totals();
  nb::dict result;
  result["committed_sum"] = to_python(totals.committed_sum);
  result["peak_mapped"] = totals.peak_mapped;
  result["peak_committed"] = totals.peak_committed;
  result["requested_at_peak_committed"] = totals.requested_at_peak_committed;
  result["peak_committed_event"] = totals.peak_committed_event;
  result["committed_at_peak_requested"] = totals.committed_at_peak_requested;
  result["failed_allocations"] = totals.failed_allocations;
  result["peak_footprint"] = to_python(totals.peak_footprint);
  result["end_footprint"] = to_python(replay.allocator().footprint());
  result["has_realloc"] = Reallocates<A>;
  nb::dict counters;
  if constexpr (Counts<A>) {
    for (const auto& [name, count] : replay.allocator().counters()) counters[name.c_str()] = count;
  }
  result["counters"] = counters;
  nb::list classes;
  if constexpr (HasClasses<A>) {
    std::vector<ClassUse> uses = replay.class_uses();
    const std::vector<ClassUse> now = replay.allocator().classes();
    const std::vector<std::uint64_t> requested = replay.class_requested();
    const std::vector<std::uint64_t> allocations = replay.class_allocations();
    for (std::size_t row = 0; row < uses.size(); ++row) {
      // What is counted, other than what is held, is counted over all events.
      uses[row].spans_requested = now[row].spans_requested;
      uses[row].spans_returned = now[row].spans_returned;
      uses[row].lock_acquisitions = now[row].lock_acquisitions;
      classes.append(to_python(uses[row], requested[row], allocations[row]));
    }
  }
  result["classes"] = classes;
  nb::dict gauges;
  for (std::size_t i = 0; i < gauge_names<A>().size(); ++i) {
    gauges[gauge_names<A>()[i]] = to_python(replay.peak_gauges()[i]);
  }
  result["peak_gauges"] = gauges;
  return result;
}

// What harness/census.py reads: class rows as in result_of(), and columns of spans and of objects.
template <HasSpans A>
nb::dict census_of(Replay<A>& replay) {
  Census found = replay.census();
  const std::vector<std::uint64_t> allocations = replay.class_allocations();
  nb::dict result;
  nb::list classes;
  for (std::size_t row = 0; row < found.classes.size(); ++row) {
    classes.append(to_python(found.classes[row], found.class_requested[row], allocations[row]));
  }
  result["classes"] = classes;
  const auto column = [&found](auto SpanUse::* member) {
    std::vector<std::int64_t> values;
    values.reserve(found.spans.size());
    for (const SpanUse& span : found.spans) values.push_back(static_cast<std::int64_t>(span.*member));
    return to_numpy(std::move(values));
  };
  nb::dict spans;
  spans["class_row"] = column(&SpanUse::class_row);
  spans["slots"] = column(&SpanUse::slots);
  spans["live_slots"] = column(&SpanUse::live_slots);
  spans["bytes"] = column(&SpanUse::bytes);
  spans["slot_bytes"] = column(&SpanUse::slot_bytes);
  spans["dead_bytes"] = column(&SpanUse::dead_bytes);
  spans["runtime_slots"] = column(&SpanUse::runtime_slots);
  spans["runtime_bytes"] = column(&SpanUse::runtime_bytes);
  result["spans"] = spans;
  nb::dict objects;
  objects["slot"] = to_numpy(std::move(found.object_slot));
  objects["span"] = to_numpy(std::move(found.object_span));
  result["objects"] = objects;
  return result;
}

// Options are constructor parameters: bind_allocator<Slab, std::uint64_t>(m, "Slab", nb::arg("slab_bytes") =
// 4096).
template <Allocator A, typename... Options>
nb::class_<Replay<A>> bind_allocator(nb::module_& m, const char* name, const auto&... options) {
  nb::class_<Replay<A>> bound(m, name);
  if constexpr (sizeof...(Options) == 0) {
    bound.def(nb::init<>());
  } else {
    bound.def(nb::init<Options...>(), nb::kw_only(), options...);
  }
  bound.def("feed", [](Replay<A>& self, const nb::object& batch, const Column<std::int64_t>& stops) {
    const auto op = nb::cast<Column<std::uint8_t>>(batch.attr("op"));
    const auto thread = nb::cast<Column<std::uint16_t>>(batch.attr("thread"));
    const auto slot = nb::cast<Column<std::uint32_t>>(batch.attr("slot"));
    const auto size = nb::cast<Column<std::uint64_t>>(batch.attr("size"));
    const auto alignment = nb::cast<Column<std::uint32_t>>(batch.attr("alignment"));
    const auto noscan = nb::cast<Column<std::uint8_t>>(batch.attr("noscan"));
    const auto owner = nb::cast<Column<std::uint16_t>>(batch.attr("owner"));
    const auto time_ns = nb::cast<Column<std::int64_t>>(batch.attr("time_ns"));
    const auto requested = nb::cast<Column<std::uint64_t>>(batch.attr("requested"));
    std::vector<Sample> samples;
    {
      nb::gil_scoped_release unlocked;
      samples = self.feed({.op = view(op),
                           .thread = view(thread),
                           .slot = view(slot),
                           .size = view(size),
                           .alignment = view(alignment),
                           .noscan = view(noscan),
                           .owner = view(owner),
                           .time_ns = view(time_ns),
                           .requested = view(requested)},
                          view(stops));
    }
    return samples_to_numpy(samples, self.take_gauges());
  });
  bound.def("result", [](const Replay<A>& self) { return result_of(self); });
  bound.attr("gauge_names") = [] {
    nb::list names;
    for (const char* name : gauge_names<A>()) names.append(name);
    return nb::tuple(names);
  }();
  if constexpr (HasSpans<A>) bound.def("census", [](Replay<A>& self) { return census_of(self); });
  if constexpr (Places<A>) {
    bound.def("record_placements", &Replay<A>::record_placements);
    bound.def("take_placements", [](Replay<A>& self) {
      Placements taken = self.take_placements();
      return nb::make_tuple(to_numpy(std::move(taken.event)), to_numpy(std::move(taken.address)),
                            to_numpy(std::move(taken.has_address)));
    });
  }
  return bound;
}

}  // namespace harness
