// Binds what reads foreign traces fast: the parsers of text, and the book that makes rows of addresses.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <optional>
#include <string>
#include <vector>

#include "address_book.hpp"
#include "android.hpp"
#include "android_text.hpp"
#include "bpftrace.hpp"
#include "call_sites.hpp"
#include "go_trace.hpp"
#include "harness/bind.hpp"
#include "heaptrack.hpp"
#include "lines.hpp"
#include "ltrace.hpp"
#include "malloc_bench.hpp"
#include "mtrace.hpp"
#include "rep.hpp"
#include "rep_text.hpp"
#include "valgrind.hpp"
#include "workload.hpp"

namespace {

namespace nb = nanobind;
using namespace nb::literals;
using harness::Column;
using harness::to_numpy;
using harness::view;

// The columns that have anything in them, by the names of address_book.hpp.
nb::dict to_columns(formats::Records records) {
  nb::dict columns;
  columns["op"] = to_numpy(std::move(records.op));
  columns["thread"] = to_numpy(std::move(records.thread));
  columns["address"] = to_numpy(std::move(records.address));
  columns["old_address"] = to_numpy(std::move(records.old_address));
  columns["size"] = to_numpy(std::move(records.size));
  columns["place"] = to_numpy(std::move(records.place));
  if (!records.alignment.empty()) columns["alignment"] = to_numpy(std::move(records.alignment));
  if (!records.noscan.empty()) columns["noscan"] = to_numpy(std::move(records.noscan));
  if (!records.time_ns.empty()) columns["time_ns"] = to_numpy(std::move(records.time_ns));
  if (!records.site.empty()) columns["site"] = to_numpy(std::move(records.site));
  return columns;
}

nb::dict to_dict(const formats::Counts& counts) {
  nb::dict result;
  for (const auto& [name, count] : counts) result[name] = count;
  return result;
}

// A reader of text as a Python class; `initialise` binds its constructor, and what else the format tells can
// follow.
template <typename Format, typename... Arguments, typename... Extra>
nb::class_<formats::TextReader<Format>> bind_text(nb::module_& module, const char* name,
                                                  const Extra&... extra) {
  using Reader = formats::TextReader<Format>;
  return nb::class_<Reader>(module, name)
      .def(nb::init<bool, Arguments...>(), nb::kw_only(), "lenient"_a, extra...)
      .def(
          "read",
          [](Reader& reader, const nb::bytes& block) {
            formats::Records records;
            {
              nb::gil_scoped_release unlocked;
              records = reader.read({block.c_str(), block.size()});
            }
            return to_columns(std::move(records));
          },
          "block"_a)
      .def("end", [](Reader& reader) { return to_columns(reader.end()); })
      .def("counts",
           [](const Reader& reader) {
             if constexpr (requires { reader.format().counts(); }) {
               return to_dict(reader.format().counts());
             } else {
               return nb::dict();
             }
           })
      .def_prop_ro("bad_lines", &Reader::bad_lines)
      .def_prop_ro("first_bad_line", &Reader::first_bad_line);
}

// What call_sites.py makes a table of.
nb::dict to_dict(const formats::CallSites& sites) {
  nb::list modules;
  for (const std::string& path : sites.modules()) modules.append(nb::bytes(path.data(), path.size()));
  nb::dict result;
  result["modules"] = modules;
  result["module_of"] = to_numpy(std::vector(sites.module_of()));
  result["addresses"] = to_numpy(std::vector(sites.addresses()));
  result["frames"] = to_numpy(std::vector(sites.frames()));
  result["offsets"] = to_numpy(sites.offsets());
  return result;
}

// Of a format whose lines tell who called.
template <typename Format>
void bind_sites(nb::class_<formats::TextReader<Format>>&& reader) {
  reader.def("sites", [](const formats::TextReader<Format>& self) { return to_dict(self.format().sites()); });
}

nb::dict rows(formats::AddressBook& book, const Column<std::uint8_t>& op, const Column<std::uint32_t>& thread,
              const Column<std::uint64_t>& address, const Column<std::uint64_t>& old_address,
              const Column<std::uint64_t>& size, const Column<std::uint64_t>& place,
              const std::optional<Column<std::uint32_t>>& alignment,
              const std::optional<Column<std::uint8_t>>& noscan,
              const std::optional<Column<std::int64_t>>& time_ns,
              const std::optional<Column<std::uint32_t>>& site) {
  formats::RecordColumns records{.op = view(op),
                                 .thread = view(thread),
                                 .address = view(address),
                                 .old_address = view(old_address),
                                 .size = view(size),
                                 .place = view(place)};
  if (alignment) records.alignment = view(*alignment);
  if (noscan) records.noscan = view(*noscan);
  if (time_ns) records.time_ns = view(*time_ns);
  if (site) records.site = view(*site);
  const auto matches = [&](std::size_t count) { return count == 0 || count == records.op.size(); };
  for (const std::size_t count : {records.thread.size(), records.address.size(), records.old_address.size(),
                                  records.size.size(), records.place.size()}) {
    if (count != records.op.size()) throw std::invalid_argument("columns of records differ in length");
  }
  if (!matches(records.alignment.size()) || !matches(records.noscan.size()) ||
      !matches(records.time_ns.size()) || !matches(records.site.size())) {
    throw std::invalid_argument("columns of records differ in length");
  }
  formats::BookedRows booked;
  {
    nb::gil_scoped_release unlocked;
    booked = book.rows(records);
  }
  nb::dict columns;
  columns["op"] = to_numpy(std::move(booked.op));
  columns["thread"] = to_numpy(std::move(booked.thread));
  columns["object"] = to_numpy(std::move(booked.object));
  columns["size"] = to_numpy(std::move(booked.size));
  if (alignment) columns["alignment"] = to_numpy(std::move(booked.alignment));
  if (noscan) columns["noscan"] = to_numpy(std::move(booked.noscan));
  if (time_ns) columns["time_ns"] = to_numpy(std::move(booked.time_ns));
  if (site) columns["site"] = to_numpy(std::move(booked.site));
  return columns;
}

nb::dict counts(const formats::AddressBook& book) {
  const formats::BookCounts& now = book.counts();
  nb::dict result;
  result["failed_allocations"] = now.failed_allocations;
  result["null_frees"] = now.null_frees;
  result["unknown_frees"] = now.unknown_frees;
  result["unknown_reallocations"] = now.unknown_reallocations;
  result["unseen_frees"] = now.unseen_frees;
  result["clock_steps_back"] = now.clock_steps_back;
  result["impossible_sizes"] = now.impossible_sizes;
  result["impossible_alignments"] = now.impossible_alignments;
  result["late_frees"] = now.late_frees;
  return result;
}

nb::dict to_columns(formats::GoRows rows) {
  nb::dict columns;
  columns["op"] = to_numpy(std::move(rows.op));
  columns["thread"] = to_numpy(std::move(rows.thread));
  columns["object"] = to_numpy(std::move(rows.object));
  columns["size"] = to_numpy(std::move(rows.size));
  columns["noscan"] = to_numpy(std::move(rows.noscan));
  columns["time_ns"] = to_numpy(std::move(rows.time_ns));
  columns["site"] = to_numpy(std::move(rows.site));
  columns["address"] = to_numpy(std::move(rows.address));
  return columns;
}

nb::object take(formats::GoTrace& trace) {
  std::optional<formats::GoRows> rows;
  {
    nb::gil_scoped_release unlocked;
    rows = trace.take();
  }
  if (!rows) return nb::none();
  return to_columns(*std::move(rows));
}

nb::dict take_spans(formats::GoTrace& trace) {
  formats::GoSpanEvents spans = trace.take_spans();
  nb::dict columns;
  columns["row"] = to_numpy(std::move(spans.row));
  columns["is_free"] = to_numpy(std::move(spans.is_free));
  columns["address"] = to_numpy(std::move(spans.address));
  columns["pages"] = to_numpy(std::move(spans.pages));
  columns["span_class"] = to_numpy(std::move(spans.span_class));
  columns["time_ns"] = to_numpy(std::move(spans.time_ns));
  return columns;
}

nb::dict collections(const formats::GoTrace& trace) {
  formats::GoCollections found = trace.collections();
  nb::dict columns;
  columns["row"] = to_numpy(std::move(found.row));
  columns["begin_ns"] = to_numpy(std::move(found.begin_ns));
  columns["end_ns"] = to_numpy(std::move(found.end_ns));
  columns["is_explicit"] = to_numpy(std::move(found.is_explicit));
  return columns;
}

nb::dict counts(const formats::GoTrace& trace) {
  const formats::GoWireCounts& wire = trace.wire().counts();
  const formats::GoCounts& heap = trace.counts();
  nb::dict result;
  result["bytes"] = wire.bytes;
  result["generations"] = wire.generations;
  result["events"] = wire.events;
  result["damaged_batches"] = wire.damaged_batches;
  result["unread_bytes"] = wire.unread_bytes;
  result["objects_at_start"] = heap.objects_at_start;
  result["allocations"] = heap.allocations;
  result["free_events"] = heap.free_events;
  result["exact_sizes"] = heap.exact_sizes;
  result["class_sizes"] = heap.class_sizes;
  result["tiny_joins"] = heap.tiny_joins;
  result["manual_spans"] = heap.manual_spans;
  result["stack_events"] = heap.stack_events;
  result["max_procs"] = heap.max_procs;
  result["late_frees"] = heap.late_frees;
  result["late_span_frees"] = heap.late_span_frees;
  result["untold_spans"] = heap.untold_spans;
  result["waited"] = heap.waited;
  result["unseen_frees"] = heap.unseen_frees;
  result["unknown_frees"] = heap.unknown_frees;
  result["unknown_spans"] = heap.unknown_spans;
  result["unknown_types"] = heap.unknown_types;
  result["pointer_contradictions"] = heap.pointer_contradictions;
  result["bad_spans"] = heap.bad_spans;
  result["late_starts"] = heap.late_starts;
  return result;
}

// Of each site, the first of which is none: the type's name and size in bytes.
nb::list types(const formats::GoTrace& trace) {
  nb::list result;
  for (const formats::GoType& type : trace.types()) {
    // A damaged file may hold any bytes.
    const nb::bytes name(type.name.data(), type.name.size());
    result.append(nb::make_tuple(name, type.size_bytes));
  }
  return result;
}

nb::list go_size_classes() {
  nb::list result;
  for (std::uint32_t i = 1; i < formats::GoSizeClasses::kCount; ++i) {
    result.append(nb::make_tuple(formats::kGoSizeClasses.slot_bytes(i), formats::kGoSizeClasses.span_pages(i),
                                 formats::kGoSizeClasses.max_request_bytes(i, true),
                                 formats::kGoSizeClasses.max_request_bytes(i, false)));
  }
  return result;
}

// A writer of calls as a Python class.
template <typename Text>
nb::class_<Text> bind_writer(nb::module_& module, const char* name) {
  return nb::class_<Text>(module, name)
      .def(nb::init<>())
      .def(
          "lines",
          [](Text& text, const Column<std::uint8_t>& op, const Column<std::uint32_t>& thread,
             const Column<std::uint64_t>& object, const Column<std::uint64_t>& size,
             const std::optional<Column<std::uint32_t>>& alignment,
             const std::optional<Column<std::int64_t>>& time_ns) {
            formats::CallRows rows{
                .op = view(op), .thread = view(thread), .object = view(object), .size = view(size)};
            if (alignment) rows.alignment = view(*alignment);
            if (time_ns) rows.time_ns = view(*time_ns);
            std::string_view lines;
            {
              nb::gil_scoped_release unlocked;
              lines = text.lines(rows);
            }
            return nb::bytes(lines.data(), lines.size());
          },
          nb::kw_only(), "op"_a, "thread"_a, "object"_a, "size"_a, "alignment"_a = nb::none(),
          "time_ns"_a = nb::none())
      .def("counts", [](const Text& text) { return to_dict(text.counts()); });
}

}  // namespace

NB_MODULE(_formats, module) {
  nb::exception<formats::RecordFault>(module, "RecordFault");
  nb::exception<formats::TextFault>(module, "TextFault");
  nb::enum_<formats::Recorder>(module, "Recorder")
      .value("WHOLE", formats::Recorder::kWhole)
      .value("PARTIAL", formats::Recorder::kPartial)
      .value("LATE_FREES", formats::Recorder::kLateFrees)
      .value("LATE_REALLOCS", formats::Recorder::kLateReallocs);
  nb::class_<formats::AddressBook>(module, "AddressBook")
      .def(nb::init<bool, std::string, bool, formats::Recorder>(), nb::kw_only(), "lenient"_a, "unit"_a,
           "null_names"_a = false, "recorder"_a = formats::Recorder::kWhole)
      .def("rows", &rows, nb::kw_only(), "op"_a, "thread"_a, "address"_a, "old_address"_a, "size"_a,
           "place"_a, "alignment"_a = nb::none(), "noscan"_a = nb::none(), "time_ns"_a = nb::none(),
           "site"_a = nb::none())
      .def("counts", [](const formats::AddressBook& book) { return counts(book); });
  nb::exception<formats::GoTraceRefused>(module, "GoTraceRefused");
  nb::class_<formats::GoTrace>(module, "GoReader")
      .def(nb::init<bool, bool>(), nb::kw_only(), "lenient"_a, "keeps_spans"_a = false)
      .def(
          "feed",
          [](formats::GoTrace& trace, const nb::bytes& block) { trace.feed({block.c_str(), block.size()}); },
          "block"_a)
      .def("end", &formats::GoTrace::end)
      .def("take", &take)
      .def("take_spans", &take_spans)
      .def("collections", &collections)
      .def("counts", [](const formats::GoTrace& trace) { return counts(trace); })
      .def("types", &types)
      .def_prop_ro("version", [](const formats::GoTrace& trace) { return trace.wire().version(); })
      .def_prop_ro("cut", [](const formats::GoTrace& trace) { return trace.wire().cut(); });
  module.def("go_size_classes", &go_size_classes);
  bind_text<formats::AndroidLines, bool>(module, "AndroidReader", "has_times"_a);
  bind_writer<formats::AndroidText>(module, "AndroidText");
  bind_text<formats::RepLines>(module, "RepReader");
  bind_writer<formats::RepText>(module, "RepText")
      .def_prop_ro("ids", &formats::RepText::ids)
      .def_prop_ro("operations", &formats::RepText::operations);
  nb::class_<formats::MallocBenchReader>(module, "MallocBenchReader")
      .def(nb::init<bool>(), nb::kw_only(), "lenient"_a)
      .def(
          "read",
          [](formats::MallocBenchReader& reader, const nb::bytes& block) {
            formats::Records records;
            {
              nb::gil_scoped_release unlocked;
              records = reader.read({block.c_str(), block.size()});
            }
            return to_columns(std::move(records));
          },
          "block"_a)
      .def("end", [](formats::MallocBenchReader& reader) { return to_columns(reader.end()); })
      .def("counts", [](const formats::MallocBenchReader& reader) { return to_dict(reader.counts()); })
      .def_prop_ro("bad_lines", &formats::MallocBenchReader::bad_records);
  nb::class_<formats::WorkloadReader>(module, "WorkloadReader")
      .def(nb::init<int, std::uint64_t, bool>(), nb::kw_only(), "file"_a, "file_bytes"_a, "lenient"_a)
      .def(
          "read",
          [](formats::WorkloadReader& reader, std::size_t count) {
            formats::Records records;
            {
              nb::gil_scoped_release unlocked;
              records = reader.read(count);
            }
            return to_columns(std::move(records));
          },
          "count"_a)
      .def_prop_ro("threads", &formats::WorkloadReader::threads)
      .def_prop_ro("missing_syncs", &formats::WorkloadReader::missing_syncs)
      .def_prop_ro("broken_threads", &formats::WorkloadReader::broken_threads);
  bind_text<formats::BpftraceLines, bool>(module, "BpftraceReader", "must_be_sorted"_a)
      .def_prop_ro("lost_events",
                   [](const formats::TextReader<formats::BpftraceLines>& reader) {
                     return reader.format().lost_events();
                   })
      .def_prop_ro("lines_lacking", [](const formats::TextReader<formats::BpftraceLines>& reader) {
        return reader.format().lines_lacking();
      });
  bind_sites(bind_text<formats::HeaptrackLines>(module, "HeaptrackReader"));
  bind_text<formats::LtraceLines, bool>(module, "LtraceReader", "has_times"_a)
      .def_prop_ro("untold_allocations",
                   [](const formats::TextReader<formats::LtraceLines>& reader) {
                     return reader.format().untold_allocations();
                   })
      .def_prop_ro("executed_programs", [](const formats::TextReader<formats::LtraceLines>& reader) {
        return reader.format().executed_programs();
      });
  bind_sites(bind_text<formats::MtraceLines>(module, "MtraceReader"));
  bind_text<formats::ValgrindLines, bool>(module, "ValgrindReader", "has_times"_a)
      .def_prop_ro("untold_allocations",
                   [](const formats::TextReader<formats::ValgrindLines>& reader) {
                     return reader.format().untold_allocations();
                   })
      .def_prop_ro("foreign_calls", [](const formats::TextReader<formats::ValgrindLines>& reader) {
        return reader.format().foreign_calls();
      });
}
