"""Six faults of the TCMalloc model that its suite must notice."""

from conformance.canary import Canary, Fault

FAULTS = (
    Fault(
        "span list first in, first out",
        "page_heap.hpp",
        (
            (
                "if (!normal.empty()) return carve(normal.first, pages);",
                "if (!normal.empty()) return carve(normal.last, pages);",
            ),
        ),
    ),
    Fault(
        "eviction counter off by one",
        "transfer_cache.hpp",
        (("race_counter_ = turn %= caches_.size();", "race_counter_ = (turn %= caches_.size()) + 1;"),),
    ),
    Fault(
        "low-water mark not reset at a scavenge",
        "thread_cache.hpp",
        (("list.low_water = list.length();", ""),),
    ),
    Fault(
        "low-water mark not lowered by an exchange",
        "thread_cache.hpp",
        (("if (length < list.low_water) [[unlikely]]", "if (false)"),),
    ),
    Fault(
        "normal span preferred to a shorter returned one",
        "page_heap.hpp",
        (
            (
                "for (std::uint64_t length = pages; length <= max_pages_; ++length) {",
                "for (std::uint64_t length = pages; length <= max_pages_; ++length) {\n"
                "  const SpanList& normal = normal_.by_pages[length];\n"
                "  if (!normal.empty()) return carve(normal.first, pages);\n"
                "}\n"
                "for (std::uint64_t length = pages; length <= max_pages_; ++length) {",
            ),
        ),
    ),
    Fault(
        "128 instead of 129 release lists",
        "page_heap.hpp",
        (
            (
                "if (release_index_ > max_pages_) release_index_ = 0;",
                "if (release_index_ >= max_pages_) release_index_ = 0;",
            ),
            # The large spans share the last list, so that nothing waits for ever.
            (
                "if (release_index_ < max_pages_) return",
                "if (release_index_ + 1 < max_pages_ || normal_.by_pages[max_pages_].last) return",
            ),
        ),
    ),
    Fault(
        "slow start doubles instead of adding one",
        "thread_cache.hpp",
        (
            (
                "list.allow(list.max_length() + 1);\n    } else {",
                "list.allow(std::min(2 * list.max_length(), batch));\n    } else {",
            ),
        ),
    ),
)

CANARY = Canary(
    "tcmalloc", FAULTS, ("page_spans", "all_classes_consumed", "mixed", "hundred_threads", "waves")
)
