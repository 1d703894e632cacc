// Binds TCMalloc to Python: its options, its loop, and what a program can ask of the library beside a trace.
#include <nanobind/stl/vector.h>

#include "harness/bind.hpp"
#include "tcmalloc.hpp"

namespace nb = nanobind;

using tcmalloc::Options;
using tcmalloc::PageHeap;
using tcmalloc::SizeClass;
using tcmalloc::Span;
using tcmalloc::Tcmalloc;
using TcmallocReplay = harness::Replay<Tcmalloc>;

namespace {

// MallocExtension::Ranges as columns: address, length, type and fraction, by address.
nb::tuple ranges(const Tcmalloc& model) {
  std::vector<std::uint64_t> address, length;
  std::vector<std::uint32_t> type;
  std::vector<double> fraction;
  for (const tcmalloc::SpanIndex index : model.page_heap().spans().by_address()) {
    const Span& span = model.page_heap().spans()[index];
    address.push_back(model.page_heap().page().bytes_of(span.start_page));
    length.push_back(model.page_heap().page().bytes_of(span.pages));
    type.push_back(static_cast<std::uint32_t>(span.location));
    const bool in_use = span.location == Span::Location::kInUse;
    const double object_bytes = in_use ? model.size_map()[span.size_class].object_bytes : 0;
    // In the library's order of operations.
    fraction.push_back(in_use && span.size_class == 0
                           ? 1.0
                           : object_bytes * span.refcount / static_cast<double>(length.back()));
  }
  return nb::make_tuple(harness::to_numpy(std::move(address)), harness::to_numpy(std::move(length)),
                        harness::to_numpy(std::move(type)), harness::to_numpy(std::move(fraction)));
}

// By class, from 0 on: free objects in central list, transfer cache and thread caches, and tails in bytes.
nb::list free_objects(const Tcmalloc& model) {
  nb::list rows;
  for (std::uint32_t c = 0; c < model.size_map().count(); ++c) {
    const Tcmalloc::FreeObjects free = model.free_objects(c);
    rows.append(nb::make_tuple(free.central, free.transfer, free.thread, free.tail_bytes));
  }
  return rows;
}

// By length from one page on, the large ones last: normal and returned spans, their pages.
nb::list free_spans(const Tcmalloc& model) {
  nb::list rows;
  const auto append = [&rows](const PageHeap::FreeSpanCounts& counts) {
    rows.append(nb::make_tuple(counts.normal_spans, counts.returned_spans, counts.normal_pages,
                               counts.returned_pages));
  };
  for (std::uint64_t pages = 1; pages <= model.page_heap().max_pages(); ++pages) {
    append(model.page_heap().free_spans_of(pages));
  }
  append(model.page_heap().large_free_spans());
  return rows;
}

}  // namespace

NB_MODULE(_tcmalloc, m) {
  nb::class_<Options>(m, "Options")
      .def(nb::init<>())
      .def_prop_rw(
          "minor", [](const Options& self) { return self.version.minor; },
          [](Options& self, int minor) { self.version.minor = minor; })
      .def_prop_rw(
          "page_shift", [](const Options& self) { return self.page.shift; },
          [](Options& self, int shift) { self.page.shift = shift; })
      .def_rw("min_alignment", &Options::min_alignment)
      .def_rw("transfer_num_objects", &Options::transfer_num_objects)
      .def_rw("starts_as_process", &Options::starts_as_process)
      .def_rw("release_rate", &Options::release_rate)
      .def_rw("max_total_thread_cache_bytes", &Options::max_total_thread_cache_bytes)
      .def_rw("aggressive_decommit", &Options::aggressive_decommit)
      .def_rw("counts_touched_pages", &Options::counts_touched_pages)
      .def_prop_rw(
          "touch", [](const Options& self) { return static_cast<int>(self.touch); },
          [](Options& self, int touch) { self.touch = static_cast<tcmalloc::Touch>(touch); })
      .def_rw("heap_limit_mb", &Options::heap_limit_mb)
      .def_rw("heap_base", &Options::heap_base);

  nb::class_<SizeClass>(m, "SizeClass")
      .def_ro("object_bytes", &SizeClass::object_bytes)
      .def_ro("span_bytes", &SizeClass::span_bytes)
      .def_ro("span_objects", &SizeClass::span_objects)
      .def_ro("tail_waste_bytes", &SizeClass::tail_waste_bytes)
      .def_ro("batch_objects", &SizeClass::batch_objects)
      .def_ro("transfer_slots", &SizeClass::transfer_slots)
      .def_ro("transfer_slots_max", &SizeClass::transfer_slots_max);

  harness::bind_allocator<Tcmalloc, Options>(m, "Tcmalloc", nb::arg("options"))
      .def("release_to_system",
           [](TcmallocReplay& self, std::uint64_t bytes) { self.allocator().release_to_system(bytes); })
      .def("mark_thread_idle",
           [](TcmallocReplay& self, std::uint16_t thread) { self.allocator().mark_thread_idle(thread); })
      .def("mark_thread_temporarily_idle",
           [](TcmallocReplay& self, std::uint16_t thread) {
             self.allocator().mark_thread_temporarily_idle(thread);
           })
      .def("start_thread", [](TcmallocReplay& self,
                              std::uint64_t vector_bytes) { self.allocator().start_thread(vector_bytes); })
      .def("set_max_total_thread_cache_bytes",
           [](TcmallocReplay& self, std::uint64_t bytes) {
             self.allocator().set_max_total_thread_cache_bytes(bytes);
           })
      .def("set_min_per_thread_cache_bytes",
           [](TcmallocReplay& self, std::uint64_t bytes) {
             self.allocator().set_min_per_thread_cache_bytes(bytes);
           })
      .def("set_aggressive_memory_decommit",
           [](TcmallocReplay& self, bool on) { self.allocator().set_aggressive_memory_decommit(on); })
      .def("set_heap_limit_mb",
           [](TcmallocReplay& self, std::uint64_t limit_mb) { self.allocator().set_heap_limit_mb(limit_mb); })
      .def("set_release_rate",
           [](TcmallocReplay& self, double rate) { self.allocator().set_release_rate(rate); })
      .def("properties",
           [](const TcmallocReplay& self) {
             nb::dict result;
             for (const auto& [name, value] : self.allocator().properties()) result[name.c_str()] = value;
             return result;
           })
      .def("ranges", [](const TcmallocReplay& self) { return ranges(self.allocator()); })
      .def("free_objects", [](const TcmallocReplay& self) { return free_objects(self.allocator()); })
      .def("free_spans", [](const TcmallocReplay& self) { return free_spans(self.allocator()); })
      .def("spans_in_use",
           [](const TcmallocReplay& self) { return self.allocator().page_heap().spans_in_use(); })
      .def("thread_heaps_in_use",
           [](const TcmallocReplay& self) { return self.allocator().thread_heaps_in_use(); })
      .def("metadata_bytes",
           [](const TcmallocReplay& self) { return self.allocator().page_heap().metadata().bytes(); })
      .def("touched_resident_bytes",
           [](const TcmallocReplay& self) -> std::optional<std::uint64_t> {
             const auto* const touched = self.allocator().page_heap().touched_pages();
             return touched == nullptr ? std::nullopt : std::optional(touched->bytes());
           })
      .def("size_classes", [](const TcmallocReplay& self) { return self.allocator().size_map().classes(); });
}
