// Binds the model of the Go heap to Python: its options, a start snapshot, and what a comparison with a real
// process reads. The replay itself is harness/bind.hpp's.
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include "go.hpp"
#include "harness/bind.hpp"

namespace {

namespace nb = nanobind;
using Replay = harness::Replay<go::Go>;

void bind_options(nb::module_& m) {
  nb::enum_<go::CollectorMode>(m, "CollectorMode")
      .value("CONCURRENT", go::CollectorMode::kConcurrent)
      .value("LAZY", go::CollectorMode::kLazy)
      .value("STOPPED", go::CollectorMode::kStopped);
  nb::class_<go::Options>(m, "Options")
      .def(nb::init<>())
      .def_rw("gogc", &go::Options::gogc)
      .def_rw("memory_limit", &go::Options::memory_limit)
      .def_rw("procs", &go::Options::procs)
      .def_rw("greentea", &go::Options::greentea)
      .def_rw("collector", &go::Options::collector)
      .def_rw("clock_of_trace", &go::Options::clock_of_trace)
      .def_rw("scavenge_growth", &go::Options::scavenge_growth)
      .def_rw("scavenge_in_background", &go::Options::scavenge_in_background)
      .def_rw("globals_scan_bytes", &go::Options::globals_scan_bytes)
      .def_rw("stack_scan_bytes", &go::Options::stack_scan_bytes)
      .def_rw("metadata_bytes", &go::Options::metadata_bytes);
}

void bind_snapshot(nb::module_& m) {
  using go::Snapshot;
  nb::class_<Snapshot>(m, "Snapshot")
      .def(nb::init<>())
      .def_rw("arena_end", &Snapshot::arena_end)
      .def_rw("free_bytes", &Snapshot::free_bytes)
      .def_rw("released_bytes", &Snapshot::released_bytes)
      .def_rw("heap_live", &Snapshot::heap_live)
      .def_rw("heap_marked", &Snapshot::heap_marked)
      .def_rw("total_alloc", &Snapshot::total_alloc)
      .def_rw("total_free", &Snapshot::total_free)
      .def_rw("last_heap_goal", &Snapshot::last_heap_goal)
      .def_rw("sweep_dist_min_trigger", &Snapshot::sweep_dist_min_trigger)
      .def_rw("finalizer_bytes", &Snapshot::finalizer_bytes)
      .def_rw("pages_swept", &Snapshot::pages_swept)
      .def_rw("root_work", &Snapshot::root_work)
      .def_rw("scavenge_goal", &Snapshot::scavenge_goal)
      .def_rw("scavenge_generation", &Snapshot::scavenge_generation)
      .def_rw("free_high_water", &Snapshot::free_high_water)
      .def_rw("scavenge_search", &Snapshot::scavenge_search)
      .def("add_span",
           [](Snapshot& self, std::uint64_t base, std::uint64_t pages, std::uint8_t kind,
              go::SpanClass span_class, std::uint32_t nelems, std::uint32_t freeindex,
              std::uint32_t alloc_count, std::uint32_t alloc_count_before_cache, std::uint8_t page_marked,
              std::vector<std::uint64_t> alloc_bits) {
             self.spans.push_back({base, pages, static_cast<Snapshot::SpanKind>(kind), span_class, nelems,
                                   freeindex, alloc_count, alloc_count_before_cache, page_marked != 0,
                                   std::move(alloc_bits)});
           })
      .def("add_processor",
           [](Snapshot& self, std::uint64_t base, std::uint64_t cache, std::uint64_t scavenged,
              std::uint64_t tiny, std::uint64_t tiny_offset, std::vector<std::uint64_t> cached) {
             self.processors.push_back({base, cache, scavenged, tiny, tiny_offset, std::move(cached)});
           })
      .def("add_central",
           [](Snapshot& self, std::vector<std::uint64_t> partial, std::vector<std::uint64_t> full) {
             self.central.push_back({std::move(partial), std::move(full)});
           })
      .def("add_chunk", [](Snapshot& self, std::uint64_t base, std::array<std::uint64_t, 8> taken,
                           std::array<std::uint64_t, 8> scavenged, std::uint32_t in_use,
                           std::uint32_t last_in_use, std::uint32_t generation, bool empty) {
        self.chunks.push_back({base, taken, scavenged, in_use, last_in_use, generation, empty});
      });
}

// Columns, one row a span that exists.
nb::dict spans_of(Replay& replay) {
  replay.allocator().settle();
  const go::SpanTable& spans = replay.allocator().heap().spans();
  std::vector<std::uint64_t> base, pages;
  std::vector<std::uint8_t> span_class, manual;
  std::vector<std::uint16_t> alloc_count, freeindex, live_count, nelems;
  for (std::uint32_t i = 0; i < spans.size(); ++i) {
    const go::Span& span = spans.at(i);
    if (span.state == go::SpanState::kDead) continue;
    base.push_back(span.base());
    pages.push_back(span.pages);
    span_class.push_back(span.span_class);
    manual.push_back(span.state == go::SpanState::kManual);
    nelems.push_back(span.nelems);
    alloc_count.push_back(span.alloc_count);
    freeindex.push_back(span.freeindex);
    live_count.push_back(static_cast<std::uint16_t>(spans.bits().live_count(span)));
  }
  nb::dict columns;
  columns["base"] = harness::to_numpy(std::move(base));
  columns["pages"] = harness::to_numpy(std::move(pages));
  columns["span_class"] = harness::to_numpy(std::move(span_class));
  columns["manual"] = harness::to_numpy(std::move(manual));
  columns["nelems"] = harness::to_numpy(std::move(nelems));
  columns["alloc_count"] = harness::to_numpy(std::move(alloc_count));
  columns["freeindex"] = harness::to_numpy(std::move(freeindex));
  columns["live_count"] = harness::to_numpy(std::move(live_count));
  return columns;
}

// Columns: a chunk's base, then eight words a chunk of taken and of scavenged pages.
nb::dict chunks_of(const Replay& replay) {
  const go::Mheap& heap = replay.allocator().heap();
  std::vector<std::uint64_t> base, taken, scavenged;
  for (std::uint64_t i = 0; i < heap.pages().chunk_count(); ++i) {
    const go::PageAlloc::Chunk& chunk = heap.pages().chunk(i);
    base.push_back(heap.address_of(i * go::kChunkPages));
    taken.insert(taken.end(), chunk.taken.begin(), chunk.taken.end());
    scavenged.insert(scavenged.end(), chunk.scavenged.begin(), chunk.scavenged.end());
  }
  nb::dict columns;
  columns["base"] = harness::to_numpy(std::move(base));
  columns["taken"] = harness::to_numpy(std::move(taken));
  columns["scavenged"] = harness::to_numpy(std::move(scavenged));
  return columns;
}

// Tuples: number, page cache at, free, scavenged pages, tiny block, its offset, cached span of each span
// class.
nb::list processors_of(const Replay& replay) {
  nb::list rows;
  for (go::Snapshot::Processor& p : replay.allocator().processors()) {
    rows.append(nb::make_tuple(rows.size(), p.page_cache_base, p.page_cache, p.page_cache_scavenged, p.tiny,
                               p.tiny_offset, std::move(p.cached)));
  }
  return rows;
}

// Tuples, one a span class: bases of swept partial spans, of swept full ones.
nb::list central_of(const Replay& replay) {
  nb::list rows;
  for (go::Snapshot::Central& c : replay.allocator().central()) {
    rows.append(nb::make_tuple(std::move(c.partial), std::move(c.full)));
  }
  return rows;
}

// Rows (class, object bytes, span pages, scan objects, noscan objects), from class 1 on.
nb::list size_class_table(bool greentea) {
  nb::list rows;
  for (int i = 1; i < go::kSizeClasses; ++i) {
    const go::SizeClass& entry = go::kSizeClassTable[static_cast<std::size_t>(i)];
    rows.append(nb::make_tuple(i, entry.object_bytes, entry.span_pages,
                               go::kObjectsPerSpan[greentea][go::make_span_class(i, false)],
                               go::kObjectsPerSpan[greentea][go::make_span_class(i, true)]));
  }
  return rows;
}

}  // namespace

NB_MODULE(_go, m) {
  bind_options(m);
  bind_snapshot(m);
  harness::bind_allocator<go::Go, const go::Options&, const go::Snapshot*>(m, "Go", nb::arg("options"),
                                                                           nb::arg("snapshot").none())
      .def("state",
           [](const Replay& self) {
             nb::dict state;
             for (const auto& [name, value] : self.allocator().state()) state[name.c_str()] = value;
             return state;
           })
      .def("spans", &spans_of)
      .def("chunks", &chunks_of)
      .def("processors", &processors_of)
      .def("central", &central_of)
      .def("begin_recorded_cycle", [](Replay& self) { self.allocator().begin_recorded_cycle(); })
      .def(
          "end_recorded_cycle",
          [](Replay& self, bool sweeps) { self.allocator().end_recorded_cycle(sweeps); }, nb::arg("sweeps"))
      .def("record_cycles", [](Replay& self, bool on) { self.allocator().collector().record_cycles(on); })
      .def("take_cycles", [](Replay& self) { return self.allocator().collector().take_cycles(); })
      .def("set_stack_scans", [](Replay& self, std::vector<std::uint64_t> bytes) {
        self.allocator().collector().set_stack_scans(std::move(bytes));
      });
  m.def("size_class_table", &size_class_table, nb::arg("greentea"));
  m.def("span_reserve_bytes", &go::span_reserve_bytes, nb::arg("span_class"), nb::arg("greentea"));
}
