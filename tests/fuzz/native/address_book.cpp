// Records of any kind in the book: addresses that meet, reallocs that move, times that go back. Four bytes
// make a record.
#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  for (const bool is_lenient : {false, true}) {
    formats::AddressBook address_book(is_lenient, "record", size % 2 == 0,
                                      static_cast<formats::Recorder>(size % 4));
    harness::Checker checker(0.0, false);
    formats::Records records;
    const auto flush = [&] { fuzzed::book(address_book, checker, std::exchange(records, {})); };
    try {
      for (std::size_t i = 0; i + 4 <= size; i += 4) {
        const auto op = static_cast<harness::Op>(1 + data[i] % 6);
        const std::uint64_t address = data[i + 1] % 16 == 15 ? ~std::uint64_t{data[i + 1]} : data[i + 1] % 16;
        const std::uint64_t size_bytes = std::uint64_t{data[i + 3]} << (data[i] / 8 * 2);
        if (data[i] % 16 == 15) {
          records.begin_realloc(data[i + 2] % 4, address);
        } else {
          records.add(op, data[i + 2] % 4, address, data[i + 1] / 16, size_bytes);
        }
        records.alignment.push_back(data[i + 2]);
        records.time_ns.push_back(data[i + 2] * 16 - data[i]);
        if (data[i] > 200) flush();
      }
      flush();
    } catch (const formats::RecordFault&) {
      if (is_lenient) std::abort();
    }
  }
  return 0;
}
