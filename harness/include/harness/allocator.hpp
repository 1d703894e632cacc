// The contract between the replay loop and a simulated allocator.
//
// A backend is any type that models harness::Allocator. It sees requests, never trace files, and answers with
// byte counts, never with reports. What it is handed was checked before: no double free, no unknown object.
// harness/allocator.py is this file's Python twin; replay.hpp is the loop that drives a backend.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "harness/events.hpp"
#include "harness/ticks.hpp"

namespace harness {

// One allocation that the program asks for.
struct Request {
  std::uint64_t size = 0;       // Bytes asked for.
  std::uint32_t alignment = 0;  // A power of two, or 0 where the program did not ask for one.
  std::uint16_t thread = 0;     // Dense: an ended thread's number is given to a later thread.
  bool noscan = false;          // The object holds no pointers.
  bool zeroed = false;          // calloc: the program relies on zeroes.
};

// The value of a part that a backend cannot know. Models know everything but, perhaps, metadata.
inline constexpr std::int64_t kUnknown = -1;

// Who holds each mapped byte. The nine parts add up to mapped; metadata stands beside them.
struct Footprint {
  std::int64_t live = 0;  // Slots of objects that the program still holds, rounding and headers included.
  std::int64_t dead = 0;  // Slots that the program has released and no sweep has reached.
  std::int64_t front_end = 0;  // Free slots of per-thread or per-P caches.
  std::int64_t transfer = 0;   // Free slots in transfer caches.
  std::int64_t central = 0;    // Free slots of spans in central lists.
  std::int64_t tail = 0;       // Bytes of a span that no slot can use, in-span metadata included.
  std::int64_t page_heap = 0;  // Free pages not given back to the OS.
  std::int64_t released = 0;   // Pages given back to the OS, or mapped and never taken.
  std::int64_t runtime = 0;    // What the allocator's own process holds and no event asked for.
  std::int64_t mapped = 0;
  std::int64_t metadata = kUnknown;  // Off-heap structures.

  std::int64_t parts_sum() const {
    return live + dead + front_end + transfer + central + tail + page_heap + released + runtime;
  }
};

// One size class at one moment. The loop adds what the program asked for of it.
struct ClassUse {
  std::int64_t class_index =
      0;  // The allocator's own number; 0 holds the objects that have a span of their own.
  std::int64_t noscan = kUnknown;  // 1 or 0 where scan and noscan objects have spans apart.
  std::int64_t slot_bytes = 0;     // 0 where every object has its own.
  std::int64_t span_bytes = 0;     // 0 likewise.
  std::int64_t spans = 0;
  std::int64_t spans_requested = 0;  // From the page heap, ever.
  std::int64_t spans_returned = 0;   // To it.
  std::int64_t live_objects = 0;     // Slots that hold an object of the trace.
  std::int64_t live_bytes = 0;
  std::int64_t header_bytes = 0;  // Within live_bytes.
  std::int64_t dead_bytes = 0;
  std::int64_t front_end_bytes = 0;
  std::int64_t transfer_bytes = 0;
  std::int64_t central_bytes = 0;
  std::int64_t tail_bytes = 0;
  std::int64_t lock_acquisitions = kUnknown;  // Of a lock that the class has to itself, ever.
};

// A span that holds objects, at one moment. What is not live, dead or the runtime's is free slots and tail.
struct SpanUse {
  std::uint64_t span = 0;  // As span_of() names it: small numbers, since they index.
  std::uint32_t class_row = 0;
  std::uint32_t slots = 0;
  std::int64_t live_slots = kUnknown;  // The loop counts the objects where slots hold one each.
  std::int64_t bytes = 0;
  std::int64_t slot_bytes = 0;
  std::int64_t dead_bytes = 0;
  std::int64_t runtime_slots = 0;  // Held by the allocator's own process.
  std::int64_t runtime_bytes = 0;  // With the tail where that is the runtime's as well.
};

// Named counts, in the order in which they are printed.
using Counters = std::vector<std::pair<std::string, std::int64_t>>;

// A model's invariant does not hold: a bug in the model, said with its operands.
class InvariantError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

template <typename A>
concept Allocator = requires(A a, const A& view, const Request& request, typename A::Block block) {
  requires std::default_initializable<typename A::Block>;
  static_cast<bool>(block);  // A null Block is a failed allocation.
  { a.allocate(request) } -> std::same_as<typename A::Block>;
  // The program is done with the block; the allocator decides when its memory comes back.
  { a.release(block, request.thread) } -> std::same_as<void>;
  // Called at stops and whenever committed_bytes() reaches a new maximum, so it must not walk the heap.
  { view.footprint() } -> std::same_as<Footprint>;
  // Both are read after every event: kept as they change.
  { view.mapped_bytes() } -> std::same_as<std::uint64_t>;
  { view.committed_bytes() } -> std::same_as<std::uint64_t>;
};

// One of two values, chosen without a branch. Compilers make a branch of a conditional where they like, so
// the choice is hidden from them in a mask.
class Choice {
 public:
  explicit Choice(bool first) : Choice(!first, std::uint64_t{0} - first) {}
  // 1 for the second, 0 for the first.
  static Choice numbered(std::uint64_t number) { return Choice(number, number - 1); }

  std::uint64_t number() const { return number_; }
  std::uint64_t of(std::uint64_t first, std::uint64_t second) const {
    return second ^ ((first ^ second) & mask_);
  }
  std::uint64_t if_first(std::uint64_t value) const { return value & mask_; }
  std::uint64_t if_second(std::uint64_t value) const { return value & ~mask_; }
  std::uint64_t inverted_if_first(std::uint64_t value) const { return value ^ mask_; }
  // Modulo 2^64.
  std::uint64_t negated_if_second(std::uint64_t value) const { return (value ^ ~mask_) - ~mask_; }
  std::uint64_t one_less_if_first_else_one_more(std::uint64_t value) const { return value + 1 + 2 * mask_; }

 private:
  Choice(std::uint64_t number, std::uint64_t mask) : number_(number), mask_(mask) { asm("" : "+r"(mask_)); }

  std::uint64_t number_;
  std::uint64_t mask_;
};

// What a backend may offer beyond that. The loop finds each by its presence.

// Carries out realloc by the allocator's own rule; returns the block that now holds the object, or a null one
// where it failed and the old block stands. Without it: allocate, then release the old block.
template <typename A>
concept Reallocates = requires(A a, typename A::Block block, const Request& request) {
  { a.reallocate(block, request) } -> std::same_as<typename A::Block>;
};

// Carries out an allocation (the choice's first) or a death where that is one and the same work: a slot moves
// between the block and the thread's cache, and no branch depends on which of the two it is, since nothing
// can foretell that. An exchanger() keeps at hand what this takes, for as long as nothing else is called;
// follow() says whose events come, and answers whether that thread has a cache. The block is null before an
// allocation and after a death. exchange() returns the object's class_row(), 0 where there are no classes; or
// kNotExchanged, nothing done, for whatever takes another way: the loop then calls allocate() or release().
// Neither mapped nor committed bytes change meanwhile. No event with a larger alignment than
// kExchangedAlignment is exchanged.
template <typename A>
concept Exchanges = requires(A a, Choice allocates, typename A::Block& block, const Request& request) {
  { a.exchanger().follow(request.thread) } -> std::same_as<bool>;
  { a.exchanger().exchange(allocates, block, request) } -> std::same_as<std::uint32_t>;
  { A::kExchangedAlignment } -> std::convertible_to<std::uint32_t>;
};
inline constexpr std::uint32_t kNotExchanged = ~std::uint32_t{0};

// Carries out allocations and deaths apart: allocations in their order, deaths later, since a death is but a
// note that nothing reads before something `looks_at_deaths`. So each kind has a loop of its own, which asks
// no event what it is. Slots rest between two objects (check.hpp), so that a death still finds its block when
// many later allocations have theirs.
//   births<plain>(events), deaths(): what these loops keep at hand, for as long as nothing else is
//     called. `plain` may be asked for where births_are_plain(). A birth of row_of(i) 0 is for
//     take_otherwise(), of another for take(), which says false where it needs more than what is at hand:
//     then the loop calls take_slowly(), which may change pages and deadlines, and fail with a null block,
//     and at last allocate(). die() says false where it does nothing; then the loop calls die_otherwise().
//     settle() is called before anything else is.
//   newcomer(threads): the first of these events that only step() can carry out because of its thread; their
//     number where there is none.
//   note_apart(births, deaths, thread): so many have happened, whether they are carried out yet or not; the
//     last event was this thread's.
template <typename A>
concept DefersDeaths =
    requires(A a, const A& view, const Events& events, std::span<const std::uint16_t> threads,
             std::uint16_t thread, typename A::Block& block, std::uint64_t number, std::size_t i) {
      { a.template births<true>(events).row_of(i) } -> std::same_as<std::uint32_t>;
      { a.template births<true>(events).take(std::uint32_t{}, i, block) } -> std::same_as<bool>;
      a.template births<false>(events).settle();
      { view.births_are_plain() } -> std::same_as<bool>;
      // The row, or kNotExchanged.
      { a.take_otherwise(events, i, block) } -> std::same_as<std::uint32_t>;
      { a.take_slowly(events, i, block) } -> std::same_as<std::uint32_t>;
      a.deaths().prefetch(block);
      { a.deaths().die(block) } -> std::same_as<bool>;
      a.deaths().settle();
      { view.deaths_are_far() } -> std::same_as<bool>;  // What they touch does not stay in a near cache.
      a.die_otherwise(block);
      { view.newcomer(threads) } -> std::same_as<std::size_t>;
      { view.looks_at_deaths(number) } -> std::same_as<bool>;  // An allocation of so many bytes.
      a.note_apart(number, number, thread);
    };

// Sees events, some thousand at a time, before the first of them is replayed: what does not depend on their
// order is cheaper there.
template <typename A>
concept Foresees = requires(A a, const Events& events) { a.foresee(events); };

// Holds what the program asked for and nothing else: what is requested after an event is mapped and
// committed, too. The loop then adds up that column, without a block or a call for each event, and says where
// it ended.
template <typename A>
concept HoldsRequested = requires(A a, std::uint64_t requested_bytes) { a.hold(requested_bytes); };

// An explicit garbage collection.
template <typename A>
concept Collects = requires(A a) { a.collect(); };

// A thread has ended; its number may come again for a new thread.
template <typename A>
concept EndsThreads = requires(A a, std::uint16_t thread) { a.thread_end(thread); };

// Touches, for the hardware's sake, what a coming release of the block will read. The block may be null.
template <typename A>
concept Prefetches = requires(const A& view, typename A::Block block) { view.prefetch(block); };

// Is asked whether a footprint says enough of its parts to be checked; those of all others do.
template <typename A>
concept MayNotKnow = requires(const A& view, const Footprint& footprint) {
  { view.knows(footprint) } -> std::same_as<bool>;
};

// Has something to do when trace time passes a deadline; INT64_MAX says that nothing is due.
template <typename A>
concept KeepsTime = requires(A a, std::int64_t time_ns) {
  { a.next_deadline_ns() } -> std::same_as<std::int64_t>;
  a.advance(time_ns);
};

// Follows trace time besides, a tick at a time (ticks.hpp). The loop says where it stands before it calls for
// anything but an exchange or a birth.
template <typename A>
concept HasTicker = KeepsTime<A> && requires(A a, const A& view, std::int64_t time_ns) {
  { view.ticker() } -> std::same_as<Ticker>;
  a.set_last_tick(time_ns);
};

// The model address of a block; none for an object that has no memory.
template <typename A>
concept Places = requires(const A& view, typename A::Block block) {
  { view.placement(block) } -> std::same_as<std::optional<std::uint64_t>>;
};

template <typename A>
concept Counts = requires(const A& view) {
  { view.counters() } -> std::same_as<Counters>;
};

// Numbers beside the footprint that change with time, taken at each stop and at the peak; kUnknown where
// there is none.
template <typename A>
concept Gauges = requires(const A& view) {
  A::kGaugeNames.size();
  { view.gauges() } -> std::same_as<std::array<std::int64_t, A::kGaugeNames.size()>>;
};

// Classes by row: class_row(block) is the row of classes() that the block belongs to.
template <typename A>
concept HasClasses = requires(const A& view, typename A::Block block) {
  { view.class_row(block) } -> std::same_as<std::uint32_t>;
  { view.class_rows() } -> std::same_as<std::uint32_t>;
  { view.classes() } -> std::same_as<std::vector<ClassUse>>;
};

// Knows from its own counts how many objects each class was ever asked for, reallocs included, even those
// that stayed in place. Otherwise the loop counts them, one by one.
template <typename A>
concept CountsAllocations = HasClasses<A> && requires(const A& view, std::uint32_t row) {
  { view.class_allocations(row) } -> std::same_as<std::uint64_t>;
};

// Every span that holds objects of a class, or one alone, and the span of a block; none for an object that
// has no memory. To be asked for once in a replay: both may walk the heap.
template <typename A>
concept HasSpans = HasClasses<A> && requires(A a, const A& view, typename A::Block block) {
  { a.spans() } -> std::same_as<std::vector<SpanUse>>;
  { view.span_of(block) } -> std::same_as<std::optional<std::uint64_t>>;
};

}  // namespace harness
