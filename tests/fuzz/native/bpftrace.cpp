// What recording/alloc.bt prints, sorted or not.
#include "bpftrace.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::BpftraceLines, formats::Recorder::kPartial>(data, size, size % 2 == 0);
  return 0;
}
