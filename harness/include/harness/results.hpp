// What a replay leaves: the stops, exact totals over all events, and, where asked for, addresses and spans.
//
// bind.hpp hands it to Python, where ratios are made of it (harness/metrics.py).
#pragma once

#include <cstdint>
#include <vector>

#include "harness/allocator.hpp"
#include "harness/events.hpp"

namespace harness {

// One stop. The order of the fields is SAMPLE_COLUMNS in harness/allocator.py.
struct Sample {
  std::int64_t live, dead, front_end, transfer, central, tail, page_heap, released, runtime, mapped, metadata;
  std::int64_t peak_mapped, peak_committed;  // Maxima over the events since the last stop.
};

// Exact totals over every event fed so far.
struct Totals {
  Uint128 committed_sum = 0;
  std::uint64_t peak_mapped = 0;
  std::uint64_t peak_committed = 0;
  std::uint64_t requested_at_peak_committed = 0;
  std::uint64_t peak_committed_event = 0;  // First event of the maximum, counted from 0.
  std::uint64_t committed_at_peak_requested = 0;
  std::uint64_t peak_requested = 0;  // The maximum that committed_at_peak_requested belongs to.
  std::uint64_t failed_allocations = 0;
  Footprint peak_footprint;  // At peak_committed_event.
};

// Address of each allocation and moving realloc; an object without memory is left to be null.
struct Placements {
  std::vector<std::uint64_t> event;
  std::vector<std::uint64_t> address;
  std::vector<std::uint8_t> has_address;
};

// Where the program's objects lie at one moment: spans, and the span of each object.
struct Census {
  std::vector<SpanUse> spans;
  std::vector<std::uint32_t> object_slot;  // The trace's number of the object.
  std::vector<std::uint32_t> object_span;  // An index into spans.
  std::vector<ClassUse> classes;
  std::vector<std::uint64_t> class_requested;
};

}  // namespace harness
