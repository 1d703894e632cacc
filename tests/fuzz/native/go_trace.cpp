// Go's execution traces in blocks of any size: wire, rows, and the checker of traces behind them.
#include "go_trace.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "harness/check.hpp"

namespace {

void take_all(formats::GoTrace& trace, harness::Checker& checker) {
  while (const auto rows = trace.take()) {
    static_cast<void>(checker.check({.op = rows->op,
                                     .thread = rows->thread,
                                     .object = rows->object,
                                     .size = rows->size,
                                     .alignment = {},
                                     .noscan = rows->noscan,
                                     .time_ns = rows->time_ns}));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::size_t block_bytes = std::size_t{1} + data[0] * data[0];
  const std::string_view whole(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (const bool is_lenient : {false, true}) {
    formats::GoTrace trace(is_lenient, size % 2 == 0);
    harness::Checker checker(0.0, false);
    try {
      for (std::size_t at = 0; at < whole.size(); at += block_bytes) {
        // A copy, so that what is read behind it is found.
        const std::string block(whole.substr(at, block_bytes));
        trace.feed(block);
        take_all(trace, checker);
      }
      trace.end();
      take_all(trace, checker);
      static_cast<void>(trace.take_spans());
    } catch (const formats::GoTraceRefused&) {
    } catch (const formats::RecordFault&) {
    }
  }
  return 0;
}
