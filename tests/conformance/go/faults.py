"""Five faults of the Go model that its suite must notice."""

from conformance.canary import Canary, Fault

FAULTS = (
    Fault(
        "a wrong header limit",
        "size_classes.hpp",
        (("size > kHeapBitsInSpanMaxBytes ?", "size >= kHeapBitsInSpanMaxBytes ?"),),
    ),
    Fault(
        "span sets last in, first out",
        "mcentral.hpp",
        (("return *at(first_++).span;", "return *at(--end_).span;"),),
    ),
    Fault(
        "a page cache of 32 pages",
        "page_alloc.hpp",
        (
            (
                "const PageCache cache{*found / 64 * 64, ~chunk.taken[word], "
                "chunk.scavenged[word] & ~chunk.taken[word]};\n    chunk.taken[word] = ~std::uint64_t{0};",
                "const std::uint64_t half = *found % 64 < 32 ? 0xffffffff : 0xffffffff00000000;\n"
                "    const PageCache cache{*found / 64 * 64, ~chunk.taken[word] & half, "
                "chunk.scavenged[word] & ~chunk.taken[word] & half};\n    chunk.taken[word] |= half;",
            ),
        ),
    ),
    Fault(
        "a trigger that is one byte late",
        "pacer.hpp",
        (
            (
                "return std::clamp(wanted, least, std::max(most, least));",
                "return std::clamp(wanted, least, std::max(most, least)) + 1;",
            ),
        ),
    ),
    Fault(
        "no reserve for marks in the span",
        "size_classes.hpp",
        (("reserve_bytes += kInlineMarkBytes;", "reserve_bytes += 0;"),),
    ),
)

# Those that find most are run first.
CANARY = Canary("go", FAULTS, ("every_size", "boundaries", "mixed"))
