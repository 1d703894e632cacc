// What our script for bpftrace prints, sorted or not.
#include "bpftrace.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::BpftraceLines>(data, size, formats::Recorder::kPartial, size % 2 == 0);
  return 0;
}
