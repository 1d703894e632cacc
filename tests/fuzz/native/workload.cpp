// glibc's workloads, which are read at several places of a file at once.
#include "workload.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include "fuzzed_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const int file = ::memfd_create("workload", 0);
  if (file < 0 || ::write(file, data + 1, size - 1) != static_cast<ssize_t>(size - 1)) std::abort();
  for (const bool is_lenient : {false, true}) {
    formats::AddressBook address_book(is_lenient, "byte", false);
    harness::Checker checker(0.0, false);
    try {
      formats::WorkloadReader reader(file, size - 1, is_lenient);
      for (;;) {
        const formats::Records records = reader.read(std::size_t{1} + data[0]);
        if (records.op.empty()) break;
        fuzzed::book(address_book, checker, records);
      }
    } catch (const formats::TextFault&) {  // A head that is none is refused by a lenient reader, too.
    } catch (const formats::RecordFault&) {
      if (is_lenient) std::abort();
    }
  }
  ::close(file);
  return 0;
}
