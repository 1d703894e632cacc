// Traces of CS:APP's malloc lab.
#include "rep.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::RepLines>(data, size);
  return 0;
}
