// Text of ltrace, with times and without.
#include "ltrace.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::LtraceLines, formats::Recorder::kPartial>(data, size, size % 2 == 0);
  return 0;
}
