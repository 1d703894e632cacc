// malloc-bench's messages of protobuf, in blocks of any size.
#include "malloc_bench.hpp"

#include <string>

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::size_t block_bytes = std::size_t{1} + data[0] * data[0];
  const std::string_view whole(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (const bool is_lenient : {false, true}) {
    formats::MallocBenchReader reader(is_lenient);
    formats::AddressBook address_book(is_lenient, "record", false);
    harness::Checker checker(0.0, false);
    try {
      for (std::size_t at = 0; at < whole.size(); at += block_bytes) {
        // A copy, so that what is read behind it is found.
        const std::string block(whole.substr(at, block_bytes));
        fuzzed::book(address_book, checker, reader.read(block));
      }
      fuzzed::book(address_book, checker, reader.end());
    } catch (const formats::TextFault&) {
      if (is_lenient) std::abort();
    } catch (const formats::RecordFault&) {
      if (is_lenient) std::abort();
    }
  }
  return 0;
}
