// Android's memory_replay text, with times and without.
#include "android.hpp"

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzed::read<formats::AndroidLines>(data, size, size % 2 == 0);
  return 0;
}
