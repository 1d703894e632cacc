// Binds what reads foreign traces fast: the parsers of text, and the book that makes rows of addresses.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <optional>

#include "address_book.hpp"
#include "android.hpp"
#include "android_text.hpp"
#include "harness/bind.hpp"
#include "lines.hpp"
#include "malloc_bench.hpp"
#include "rep.hpp"
#include "rep_text.hpp"
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
  nb::class_<formats::AddressBook>(module, "AddressBook")
      .def(nb::init<bool, std::string, bool>(), nb::kw_only(), "lenient"_a, "unit"_a, "null_names"_a = false)
      .def("rows", &rows, nb::kw_only(), "op"_a, "thread"_a, "address"_a, "old_address"_a, "size"_a,
           "place"_a, "alignment"_a = nb::none(), "noscan"_a = nb::none(), "time_ns"_a = nb::none(),
           "site"_a = nb::none())
      .def("counts", &counts);
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
}
