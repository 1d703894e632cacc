// Binds TCMalloc to Python: its options, its loop, and what a program can ask of the library beside a trace.
#include <nanobind/stl/vector.h>

#include "harness/bind.hpp"
#include "tcmalloc.hpp"

namespace nb = nanobind;

using tcmalloc::Options;
using tcmalloc::SizeClass;
using tcmalloc::Tcmalloc;
using TcmallocReplay = harness::Replay<Tcmalloc>;

NB_MODULE(_tcmalloc, m) {
  nb::class_<Options>(m, "Options")
      .def(nb::init<>())
      .def_prop_rw(
          "minor", [](const Options& self) { return self.version.minor; },
          [](Options& self, int minor) { self.version.minor = minor; })
      .def_rw("transfer_num_objects", &Options::transfer_num_objects)
      .def_rw("starts_as_process", &Options::starts_as_process)
      .def_rw("release_rate", &Options::release_rate)
      .def_rw("max_total_thread_cache_bytes", &Options::max_total_thread_cache_bytes)
      .def_rw("aggressive_decommit", &Options::aggressive_decommit)
      .def_rw("heap_limit_mb", &Options::heap_limit_mb)
      .def_rw("heap_base", &Options::heap_base);

  nb::class_<SizeClass>(m, "SizeClass")
      .def_ro("object_bytes", &SizeClass::object_bytes)
      .def_prop_ro("span_bytes", &SizeClass::span_bytes)
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
      .def("size_classes", [](const TcmallocReplay& self) { return self.allocator().size_map().classes(); });
}
