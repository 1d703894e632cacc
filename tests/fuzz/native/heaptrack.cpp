// heaptrack's raw files.
#include "heaptrack.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::HeaptrackLines>(data, size, formats::Recorder::kLateReallocs);
  return 0;
}
