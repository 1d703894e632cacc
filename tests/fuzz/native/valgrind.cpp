// Logs of valgrind with --trace-malloc=yes, with times and without.
#include "valgrind.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::ValgrindLines, formats::Recorder::kPartial>(data, size, size % 2 == 0);
  return 0;
}
