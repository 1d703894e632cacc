// Binds the converter of raw recordings to Python.
#include <cxxabi.h>

#include <cstdlib>

#include "convert.hpp"
#include "harness/bind.hpp"

namespace {

namespace nb = nanobind;
using namespace nb::literals;
using harness::to_numpy;

nb::object take(recording::Conversion& conversion, std::size_t max_rows, bool is_final) {
  recording::Rows rows;
  {
    nb::gil_scoped_release unlocked;
    rows = conversion.take(max_rows, is_final);
  }
  if (rows.op.empty()) return nb::none();
  nb::dict columns;
  columns["op"] = to_numpy(std::move(rows.op));
  columns["thread"] = to_numpy(std::move(rows.thread));
  columns["object"] = to_numpy(std::move(rows.object));
  columns["size"] = to_numpy(std::move(rows.size));
  columns["alignment"] = to_numpy(std::move(rows.alignment));
  columns["time_ns"] = to_numpy(std::move(rows.time_ns));
  if (conversion.file().has_sites()) columns["site"] = to_numpy(std::move(rows.site));
  return columns;
}

nb::dict header(const recording::Conversion& conversion) {
  const raw_header& raw = conversion.file().header();
  nb::dict result;
  result["pid"] = raw.pid;
  result["page_bytes"] = raw.page_bytes;
  result["parent"] = nb::bytes(raw.parent, std::strlen(raw.parent));
  result["parent_records"] = raw.parent_records;
  result["command"] = nb::bytes(raw.command, raw.command_bytes);
  result["has_sites"] = conversion.file().has_sites();
  return result;
}

nb::dict counts(const recording::Conversion& conversion) {
  const recording::ConversionCounts& now = conversion.counts();
  nb::dict result;
  result["events"] = now.events;
  result["threads"] = now.threads;
  result["inherited_objects"] = now.inherited_objects;
  result["unknown_frees"] = now.unknown_frees;
  result["unknown_reallocations"] = now.unknown_reallocations;
  result["unseen_frees"] = now.unseen_frees;
  result["lost_records"] = now.lost_records;
  return result;
}

nb::dict sites(const recording::Conversion& conversion) {
  const recording::StackSites& found = conversion.sites();
  nb::list modules;
  for (const recording::Module& module : found.modules()) {
    modules.append(nb::make_tuple(nb::bytes(module.path.data(), module.path.size()),
                                  nb::bytes(module.build_id.data(), module.build_id.size())));
  }
  std::vector<std::uint32_t> module_of_address;
  std::vector<std::uint64_t> addresses;
  for (const recording::ModuleAddress& address : found.addresses()) {
    module_of_address.push_back(address.module);
    addresses.push_back(address.address);
  }
  nb::dict result;
  result["modules"] = modules;
  result["module"] = to_numpy(std::move(module_of_address));
  result["address"] = to_numpy(std::move(addresses));
  result["frames"] = to_numpy(std::vector<std::uint32_t>(found.frames()));
  result["offsets"] = to_numpy(found.offsets());
  return result;
}

template <typename T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
std::span<const T> view(const Array<T>& array) {
  return {array.data(), array.size()};
}

nb::tuple expand_stacks(const Array<std::uint32_t>& addresses, const Array<std::uint64_t>& offsets,
                        const Array<std::int32_t>& frames, const Array<std::int64_t>& begins) {
  recording::ExpandedStacks expanded =
      recording::expand(view(addresses), view(offsets), view(frames), view(begins));
  return nb::make_tuple(to_numpy(std::move(expanded.frames)), to_numpy(std::move(expanded.offsets)));
}

// The readable name of a symbol of C++ or Rust; any other one as it is.
std::string demangle(const std::string& symbol) {
  int status = 0;
  char* const name = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  std::string readable = status == 0 && name != nullptr ? name : symbol;
  std::free(name);
  return readable;
}

std::string path_of(const nb::bytes& path) { return {path.c_str(), path.size()}; }

}  // namespace

NB_MODULE(_recording, m) {
  nb::exception<recording::RawError>(m, "RawError");
  m.attr("DISK_FULL") = static_cast<int>(RAW_DISK_FULL);
  m.attr("FILE_LIMIT") = static_cast<int>(RAW_FILE_LIMIT);
  m.attr("WINDOW_FULL") = static_cast<int>(RAW_WINDOW_FULL);
  m.attr("FILE_LOST") = static_cast<int>(RAW_FILE_LOST);
  m.attr("CAN_RECORD_SITES") = RAW_CAN_RECORD_SITES != 0;
  m.attr("MAX_FRAMES") = RAW_MAX_FRAMES;
  m.def("expand_stacks", &expand_stacks, "addresses"_a, "offsets"_a, "frames"_a, "begins"_a);
  m.def("demangle", &demangle, "symbol"_a);
  nb::class_<recording::Conversion>(m, "Conversion")
      .def("__init__", [](recording::Conversion* self,
                          const nb::bytes& path) { new (self) recording::Conversion(path_of(path)); })
      .def("inherit", [](recording::Conversion& self, const nb::bytes& path,
                         std::uint64_t records) { self.inherit(path_of(path), records); })
      .def("take", &take, "max_rows"_a, "is_final"_a)
      .def("stopped", [](const recording::Conversion& self) { return self.file().stopped(); })
      .def("header", &header)
      .def("sites", &sites)
      .def("counts", &counts);
}
