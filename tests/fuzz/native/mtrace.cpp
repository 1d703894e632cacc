// What glibc's mtrace() writes.
#include "mtrace.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::MtraceLines, formats::Recorder::kLateFrees>(data, size);
  return 0;
}
