// Raw files of heaptrack, their modules and trees of stacks.
#include "heaptrack.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::HeaptrackLines, formats::Recorder::kLateReallocs>(data, size);
  return 0;
}
