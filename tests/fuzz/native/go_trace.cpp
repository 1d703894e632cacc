// Go's execution traces, in blocks of any size: what the reader lets through the checker of traces must, too.
#include "go_trace.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "harness/check.hpp"

namespace {

void check(harness::Checker& checker, formats::GoTrace& trace) {
  while (const std::optional<formats::GoRows> rows = trace.take()) {
    if (rows->address.size() != rows->op.size()) std::abort();
    static_cast<void>(checker.check({.op = rows->op,
                                     .thread = rows->thread,
                                     .object = rows->object,
                                     .size = rows->size,
                                     .alignment = {},
                                     .noscan = rows->noscan,
                                     .time_ns = rows->time_ns}));
    static_cast<void>(trace.take_spans());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::size_t block_bytes = std::size_t{1} + data[0] * data[0];
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (const bool is_lenient : {false, true}) {
    formats::GoTrace trace(is_lenient, true);
    harness::Checker checker(0.0, false);
    try {
      for (std::size_t at = 0; at < bytes.size(); at += block_bytes) {
        // A copy, so that what is read behind it is found.
        trace.feed(std::string(bytes.substr(at, block_bytes)));
        check(checker, trace);
      }
      trace.end();
      check(checker, trace);
    } catch (const formats::GoTraceRefused&) {
    } catch (const formats::RecordFault&) {
      if (is_lenient) std::abort();
    }
  }
  return 0;
}
