"""Random programs by shape and seed: the events of a trace, the calls between them and a model's options.

A shape is a kind of program that leads an allocator down particular paths; the seed chooses sizes, threads,
order and settings. The same shape and seed give the same program. Objects outlive what a shape is about, so
that every program ends with a heap that is in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END, EventBatch
from harness.conform import Call
from harness.trace import RowChecker

# What TCMALLOC_TRANSFER_NUM_OBJ may be: its least, a small one, today's default, the least and the greatest
# with the documented 88 classes.
TRANSFER_BATCHES = (2, 8, 32, 40, 512)

LEAST_EVENTS, MOST_EVENTS = 20_000, 60_000

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# The greatest size with a size class, and what is one page and one granule of growth.
MAX_SMALL_BYTES, PAGE_BYTES, GROWTH_BYTES = 256 * KIB, 8 * KIB, MIB


@dataclass(frozen=True)
class Program:
    """What a random program does."""

    shape: str
    seed: int
    events: EventBatch
    calls: list[Call]
    options: dict[str, Any]  # Of the model, those that differ from its defaults.


class Writer:
    """Notes what a program does, event by event; counts its live objects."""

    def __init__(self, random: Random, minor: int) -> None:
        self.random = random
        self.minor = minor  # Of the library's release 2.x.
        self.rows: list[tuple[int, int, int, int, int]] = []  # op, thread, object, size, alignment
        self.options: dict[str, Any] = {}
        self.live: list[int] = []
        self._calls: list[tuple[int, str, tuple[str, ...], int | None]] = []
        self._objects = 0

    def __len__(self) -> int:
        return len(self.rows)

    def allocate(self, thread: int, size: int, *, op: int = ALLOC, alignment: int = 0) -> int:
        """Allocate an object that is kept among the live ones, and return its name."""
        name = self._objects
        self._objects += 1
        self.rows.append((op, thread, name, size, alignment))
        self.live.append(name)
        return name

    def allocate_apart(self, thread: int, size: int, *, op: int = ALLOC, alignment: int = 0) -> int:
        """Allocate an object that the caller keeps."""
        self.allocate(thread, size, op=op, alignment=alignment)
        return self.live.pop()

    def reallocate(self, thread: int, name: int, size: int) -> None:
        """Resize an object."""
        self.rows.append((REALLOC, thread, name, size, 0))

    def free(self, thread: int, name: int) -> None:
        """Free an object that the caller keeps."""
        self.rows.append((FREE, thread, name, 0, 0))

    def free_all(self, thread: int, names: Sequence[int]) -> None:
        """Free objects that the caller keeps, in their order."""
        self.rows += [(FREE, thread, name, 0, 0) for name in names]

    def free_live(self, thread: int) -> None:
        """Free a live object: a recent one as often as any."""
        live, random = self.live, self.random.random
        if random() < 0.5:
            index = max(0, len(live) - 1 - int(-50 * math.log(1 - random())))
        else:
            index = int(random() * len(live))
        live[index], live[-1] = live[-1], live[index]
        self.rows.append((FREE, thread, live.pop(), 0, 0))

    def end(self, thread: int) -> None:
        """End a thread; seen again, it is a new one."""
        self.rows.append((THREAD_END, thread, 0, 0, 0))

    def collect(self, thread: int) -> None:
        """Ask for a garbage collection."""
        self.rows.append((GC, thread, 0, 0, 0))

    def call(self, name: str, *arguments: object) -> None:
        """Ask the allocator for something that is no event."""
        self._calls.append((len(self.rows), name, tuple(map(str, arguments)), None))

    def call_on(self, name: str, thread: int) -> None:
        """Make a call on a thread that runs."""
        self._calls.append((len(self.rows), name, (), thread))

    def finish(self, shape: str, seed: int) -> Program:
        """Return the program, checked, with the dense numbers of its threads in its calls."""
        op, thread, name, size, alignment = np.array(self.rows, np.uint64).T
        columns = {
            "op": op.astype(np.uint8),
            "thread": thread.astype(np.uint32),
            "object": name.copy(),
            "size": size.copy(),
            "alignment": alignment.astype(np.uint32),
        }
        events = RowChecker(f"{shape} {seed}").check(columns)
        calls = []
        for event, call, arguments, on in self._calls:
            if on is not None:
                latest = int(np.flatnonzero(columns["thread"][:event] == on)[-1])
                assert columns["op"][latest] != THREAD_END, f"{shape} {seed}: thread {on} has ended"
                arguments = (str(events.thread[latest]),)
            calls.append(Call(event, call, arguments))
        return Program(shape, seed, events, calls, self.options)


Size = Callable[[], int]


def log_normal(random: Random, mu: float, sigma: float, most: int = 1 << 30) -> Size:
    """Return a source of sizes in bytes, e to the power of a normal number."""
    return lambda: min(most, int(math.exp(random.gauss(mu, sigma))))


def any_large(random: Random, least: int = MAX_SMALL_BYTES, most: int = 8 * MIB) -> Size:
    """Return a source of sizes in bytes of objects with spans of their own, every magnitude as likely."""
    low, high = math.log(least), math.log(most)
    return lambda: int(math.exp(random.uniform(low, high)))


@dataclass
class Mix:
    """What an ordinary program does, in shares of its events."""

    size: Size
    live: int = 3000  # Objects that it keeps, about.
    threads: Sequence[int] = (0,)
    switch: float = 0.1  # To another thread.
    remote: float = 0.3  # Frees by the thread that runs; the others by the first.
    realloc: float = 0.03
    calloc: float = 0.05
    aligned: float = 0.01
    large: float = 0.001

    def run(self, writer: Writer, events: int) -> None:
        """Go on for so many events."""
        random = writer.random
        chance, live = random.random, writer.live
        large = any_large(random, most=3 * MIB)
        thread = random.choice(self.threads)
        stop = len(writer) + events
        while len(writer) < stop:
            if chance() < self.switch:
                thread = random.choice(self.threads)
            if live and chance() < self.realloc:
                writer.reallocate(thread, live[int(chance() * len(live))], self.size())
            elif live and chance() < 0.5 * len(live) / self.live:
                writer.free_live(thread if chance() < self.remote else self.threads[0])
            elif chance() < self.large:
                writer.allocate(thread, large(), op=CALLOC if chance() < self.calloc else ALLOC)
            elif chance() < self.aligned:
                writer.allocate(thread, self.size(), alignment=1 << random.randrange(4, 14))
            else:
                writer.allocate(thread, self.size(), op=CALLOC if chance() < self.calloc else ALLOC)


def some_events(writer: Writer) -> int:
    """Return how long a program is to be."""
    return writer.random.randrange(LEAST_EVENTS, MOST_EVENTS + 1)


def steady(writer: Writer) -> None:
    """One thread, sizes and lifetimes as most programs have them."""
    random = writer.random
    size = log_normal(random, random.choice((3, 4.5, 6)), random.choice((0.5, 1.5, 2.5)), 4 * MIB)
    mix = Mix(size, live=random.choice((100, 2000, 10_000)), realloc=random.choice((0, 0.1)))
    mix.run(writer, some_events(writer))


def mixed(writer: Writer) -> None:
    """Some threads that do everything."""
    random = writer.random
    size = log_normal(random, random.choice((4, 5.5, 7)), random.choice((1, 2)), 8 * MIB)
    mix = Mix(
        size,
        live=random.choice((500, 5000)),
        threads=range(random.randrange(2, 9)),
        switch=random.choice((0.01, 0.1, 0.3)),
        remote=random.choice((0.3, 1)),
        aligned=random.choice((0.01, 0.1)),
        large=random.choice((0.001, 0.01)),
    )
    events = some_events(writer)
    for _ in range(20):
        mix.run(writer, events // 20 + 1)
        writer.collect(random.choice(mix.threads))


def hundred_threads(writer: Writer) -> None:
    """Up to a hundred threads whose caches take limits from one another."""
    random = writer.random
    threads = range(random.randrange(20, 101))
    early = threads[: len(threads) // 4]
    # A few caches grow above the minimum while there is something to claim; the others come to a full house.
    writer.options["max_total_thread_cache_bytes"] = random.choice((2, 4, 8, 12)) * MIB
    for thread in early:
        writer.allocate(thread, random.randrange(1, 2000))
    mix = Mix(log_normal(random, 7.5, 1, 64 * KIB), live=3000, threads=early, switch=0.02, remote=1)
    events = some_events(writer)
    while len(writer) < events:
        if len(writer) > events // 3:
            mix.threads = threads
        mix.run(writer, 600)
        thread = random.choice(mix.threads)
        for _ in range(random.randrange(1, 20)):
            burst = [writer.allocate_apart(thread, 16_000) for _ in range(20)]
            writer.free_all(thread, burst)


def thread_churn(writer: Writer) -> None:
    """Threads come and go; their objects outlive them."""
    random = writer.random
    alive = list(range(random.randrange(2, 16)))
    following = len(alive)
    mix = Mix(log_normal(random, 5, 1.5, MIB), live=4000, threads=alive, switch=0.05, remote=1)
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(50, 800))
        ended = random.choice(alive)
        writer.end(ended)
        if random.random() < 0.5:  # Under another name; otherwise the old one comes again.
            alive[alive.index(ended)] = following
            following += 1


def short_threads(writer: Writer) -> None:
    """A thread for each small piece of work; the next one frees what it left."""
    random = writer.random
    size = log_normal(random, 4.5, 1.2, 128 * KIB)
    writer.allocate(0, 100)
    number = 1
    left: list[int] = []
    events = some_events(writer)
    while len(writer) < events:
        if random.random() < 0.7:
            # A thread that only frees has no cache.
            writer.free_all(number, left)
            left = []
        if random.random() < 0.8:
            left += [writer.allocate_apart(number, size()) for _ in range(random.randrange(5, 100))]
        if random.random() < 0.2:
            writer.allocate(number, size())
        writer.end(number)
        number += 1
    writer.live += left


def producer_consumer(writer: Writer) -> None:
    """One thread allocates, others free: whole batches pass through the transfer caches."""
    random = writer.random
    consumers = range(1, random.randrange(2, 5))
    for thread in (0, *consumers):
        writer.allocate(thread, 8)  # A thread without a cache would give back single objects.
    sizes = [int(math.exp(random.uniform(2, 9))) for _ in range(random.randrange(2, 12))]
    queued: list[list[int]] = []
    events = some_events(writer)
    while len(writer) < events:
        if len(queued) < 2 or random.random() < 0.5:
            size = random.choice(sizes)
            count = min(random.randrange(200, 4000), 8 * MIB // size)
            queued.append([writer.allocate_apart(0, size) for _ in range(count)])
        else:
            names = queued.pop(random.randrange(len(queued)))
            if random.random() < 0.3:
                random.shuffle(names)
            # Mostly not all, so that slots stay in use.
            kept = len(names) // random.choice((3, 10, 1000))
            writer.free_all(random.choice(consumers), names[kept:])
            writer.live += names[:kept]


def all_classes_consumed(writer: Writer) -> None:
    """Objects of every class pass between threads, so that the classes take slots from one another."""
    random = writer.random
    writer.allocate(1, 8)
    sizes = [*range(8, 1025, 16), *range(1152, 32_769, 1024), 65_536, 131_072]
    events = some_events(writer)
    while len(writer) < events:
        size = random.choice(sizes[: random.choice((10, 50, len(sizes)))])
        count = min(random.randrange(100, 2500), max(8, 4 * MIB // size))
        names = [writer.allocate_apart(0, size) for _ in range(count)]
        writer.free_all(random.randrange(2), names)


def pipeline(writer: Writer) -> None:
    """Objects are freed in the order in which they came, a stage further on."""
    random = writer.random
    stages = random.randrange(2, 7)
    queues: list[list[int]] = [[] for _ in range(stages)]
    size = log_normal(random, 5.5, 1, 100_000)
    burst = random.choice((10, 100, 600))
    for stage in range(stages):
        writer.allocate(stage, 8)
    events = some_events(writer)
    while len(writer) < events:
        stage = random.randrange(stages)
        queues[stage] += [writer.allocate_apart(stage, size()) for _ in range(random.randrange(1, burst + 1))]
        if len(queues[stage]) > 2 * burst:
            writer.free_all((stage + 1) % stages, queues[stage][:burst])
            del queues[stage][:burst]


def nested(writer: Writer) -> None:
    """Objects die in the reverse order of their birth, as on a stack."""
    random = writer.random
    size = log_normal(random, 5, 2, 300_000)
    stack: list[int] = []
    events = some_events(writer)
    while len(writer) < events:
        if len(stack) < 20 or random.random() < 0.5:
            stack += [writer.allocate_apart(0, size()) for _ in range(random.randrange(1, 300))]
        else:
            for _ in range(random.randrange(1, min(300, len(stack)))):
                writer.free(0, stack.pop())


def growing_vectors(writer: Writer) -> None:
    """Buffers that grow by realloc, a little or by a factor, and shrink."""
    random = writer.random
    threads = random.randrange(1, 4)
    sizes: dict[int, int] = {}
    count = random.choice((20, 300))
    factors = (1.05, 1.2, 1.5, 2, 3, 0.9, 0.6, 0.45, 0.1)
    events = some_events(writer)
    while len(writer) < events:
        thread = random.randrange(threads)
        if len(sizes) < count or random.random() < 0.1:
            size = random.randrange(0, 200)
            sizes[writer.allocate_apart(thread, size)] = size
        if len(sizes) > count:
            name = random.choice(list(sizes))
            del sizes[name]
            writer.free(thread, name)
        name = random.choice(list(sizes))
        for _ in range(random.randrange(1, 12)):
            sizes[name] = int((sizes[name] + 1) * random.choice(factors)) + random.randrange(-1, 9)
            sizes[name] = min(max(sizes[name], 0), 4 * MIB)
            writer.reallocate(thread, name, sizes[name])


def aligned(writer: Writer) -> None:
    """Alignments up to and above a page."""
    random = writer.random
    thread_count = random.randrange(1, 4)
    size = log_normal(random, random.choice((4, 7, 9)), 2, 2 * MIB)
    highest = random.choice((14, 17, 23))
    live = random.choice((50, 400))
    events = some_events(writer)
    while len(writer) < events:
        thread = random.randrange(thread_count)
        if random.random() < 0.5 * len(writer.live) / live:
            writer.free_live(thread)
        else:
            alignment = 1 << random.randrange(4, highest)
            op = CALLOC if random.random() < 0.1 else ALLOC
            writer.allocate(thread, random.choice((0, size(), size())), op=op, alignment=alignment)
        if random.random() < 0.001:
            writer.call("release_to_system", random.randrange(1, 4 * MIB))


def zeroed(writer: Writer) -> None:
    """calloc alone."""
    random = writer.random
    size = log_normal(random, 6, 2, 2 * MIB)
    Mix(size, live=1500, calloc=1, threads=range(random.randrange(1, 4))).run(writer, some_events(writer))


def boundaries(writer: Writer) -> None:
    """Sizes next to those where one class ends and the next begins, and where small ends."""
    random = writer.random
    ends = (
        [8 * k for k in range(129)]
        + [128 * k for k in range(8, 65)]
        + [1024 * k for k in range(8, 257)]
        + [k * PAGE_BYTES for k in (127, 128, 129)]
    )

    def size() -> int:
        return max(0, random.choice(ends) + random.randrange(-1, 2))

    mix = Mix(size, live=random.choice((300, 2000)), threads=range(random.randrange(1, 4)), realloc=0.1)
    mix.run(writer, some_events(writer))


def large_objects(writer: Writer) -> None:
    """Objects with spans of their own among small ones; some memory goes back to the system."""
    random = writer.random
    large = any_large(random, 200 * KIB, random.choice((2, 16)) * MIB)
    small = log_normal(random, 5, 1, 8192)
    live = random.choice((30, 200))
    kept: list[int] = []
    releases = random.choice((0, 0.001, 0.02))
    events = some_events(writer)
    while len(writer) < events:
        if len(kept) > live or (kept and random.random() < 0.45):
            writer.free(0, kept.pop(random.randrange(len(kept))))
        else:
            kept.append(writer.allocate_apart(0, large()))
        if random.random() < 0.3:
            writer.allocate(0, small())
        if writer.live and random.random() < 0.29:
            writer.free_live(0)
        if random.random() < releases:
            writer.call("release_to_system", random.randrange(1, 32 * MIB))


def page_spans(writer: Writer) -> None:
    """Spans of every length up to the longest that has a list of its own, normal and returned."""
    random = writer.random
    lengths = random.sample(range(33, 140), random.randrange(5, 60))
    live = random.choice((40, 150))
    releases = random.choice((0.002, 0.02))
    events = some_events(writer)
    while len(writer) < events:
        if len(writer.live) > live or (writer.live and random.random() < 0.45):
            writer.free_live(0)
        else:
            size = random.choice(lengths) * PAGE_BYTES - random.choice((0, 1, 5000))
            writer.allocate(0, size)
        if random.random() < releases:
            writer.call("release_to_system", random.randrange(1, 16) * MIB)


def central_spans(writer: Writer) -> None:
    """Many spans of few classes fill and drain, object by object, out of order."""
    random = writer.random
    events = some_events(writer)
    while len(writer) < events:
        size = random.choice((8, 48, 500, 2048, 3328, 6656, 9216, 20_480, 26_624))
        count = min(random.randrange(500, 3000), 16 * MIB // size)
        names = [writer.allocate_apart(0, size) for _ in range(count)]
        match random.randrange(4):
            case 0:
                random.shuffle(names)
            case 1:
                names.reverse()
            case 2:
                names = names[::3] + names[1::3] + names[2::3]
        kept = count // random.choice((2, 20, 200))
        writer.free_all(0, names[kept:])
        writer.live += names[:kept]
        for _ in range(min(len(writer.live), random.randrange(300))):
            writer.free_live(0)


def waves(writer: Writer) -> None:
    """The heap grows, shrinks to almost nothing and grows again."""
    random = writer.random
    size = log_normal(random, random.choice((5, 7)), 1.5, 2 * MIB)
    mix = Mix(size, threads=range(random.randrange(1, 5)))
    most = random.choice((3000, 12_000))
    events = some_events(writer)
    while len(writer) < events:
        mix.live = max(10, int(most * random.choice((0.01, 0.1, 0.5, 1))))
        mix.run(writer, random.randrange(500, 8000))
        while len(writer.live) > 2 * mix.live:
            writer.free_live(random.choice(mix.threads))
        if random.random() < 0.3:
            writer.call("release_free_memory")


def releases(writer: Writer) -> None:
    """The program gives memory back itself, all or so many bytes, again and again."""
    random = writer.random
    mix = Mix(log_normal(random, 7, 2, 4 * MIB), live=random.choice((200, 2000)), large=0.02)
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(20, 1500))
        if random.random() < 0.2:
            writer.call("release_free_memory")
        else:
            writer.call("release_to_system", random.choice((1, 8191, 8192, 100_000, MIB, 20 * MIB)))


def release_rate(writer: Writer) -> None:
    """So much is freed that spans go back at the release rate, which changes."""
    random = writer.random
    writer.options["release_rate"] = random.choice((0.1, 0.5, 1.0, 10.0, 0.0))
    mix = Mix(log_normal(random, 6, 1.5, MIB), live=2000, large=0.01)
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(200, 1000))
        # The first look at what to return comes after 2 GiB of freed spans. Nobody touches these.
        blocks = [writer.allocate_apart(0, random.randrange(8, 64) * MIB) for _ in range(8)]
        random.shuffle(blocks)
        writer.free_all(0, blocks)
        if random.random() < 0.1:
            writer.call("set_release_rate", random.choice((0, 0.5, 3, 10, 1000)))


def coalescing(writer: Writer) -> None:
    """Free memory split between normal and returned spans, until growth makes it whole by force."""
    random = writer.random
    events = some_events(writer)
    mix = Mix(log_normal(random, 5, 1, 4096), live=3000)
    while len(writer) < events:
        blocks = [writer.allocate_apart(0, random.randrange(4, 40) * 128 * KIB) for _ in range(60)]
        writer.free_all(0, blocks[::3])
        writer.call("release_to_system", random.randrange(1, 64) * MIB)
        writer.free_all(0, blocks[1::3])
        mix.run(writer, random.randrange(100, 1500))
        # Longer than what is free in one piece, and often across a multiple of 128 MiB.
        longest = [writer.allocate_apart(0, random.randrange(16, 90) * MIB) for _ in range(2)]
        writer.free_all(0, blocks[2::3])
        if random.random() < 0.7:
            writer.free_all(0, longest)


def aggressive_decommit(writer: Writer) -> None:
    """Free spans go back at once, from the start or for a while."""
    random = writer.random
    writer.options["aggressive_decommit"] = random.random() < 0.5
    size = log_normal(random, 6.5, 2, 3 * MIB)
    mix = Mix(size, live=800, threads=range(random.randrange(1, 4)), large=0.02)
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(500, 5000))
        writer.call("set", "aggressive_memory_decommit", random.randrange(2))


def heap_limit(writer: Writer) -> None:
    """Allocations fail under a limit that memory is returned for first."""
    random = writer.random
    threads = range(random.randrange(1, 4))
    for thread in threads:  # Starting a thread takes memory too, and must not fail.
        writer.allocate(thread, 100)
    limit = random.randrange(24, 80)
    if random.random() < 0.5:
        writer.options["heap_limit_mb"] = limit
    else:
        writer.call("set", "tcmalloc.heap_limit_mb", limit)
    large = any_large(random, 100 * KIB, 12 * MIB)
    size = log_normal(random, random.choice((6, 8.5)), 1.5, MIB)
    mix = Mix(size, live=3000, threads=threads, large=0.02, aligned=0.02)
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(100, 2000))
        blocks = [writer.allocate_apart(0, large()) for _ in range(random.randrange(1, 25))]
        for name in random.sample(blocks, len(blocks) // 3):
            writer.reallocate(0, name, large())
        random.shuffle(blocks)
        writer.free_all(0, blocks)
        match random.randrange(12):
            case 0:
                writer.call("set", "heap_limit_mb", random.choice((0, limit, limit + 10, 20)))
            case 1:
                writer.call("release_to_system", random.randrange(1, 16 * MIB))
            case 2:
                writer.allocate(0, 10 * MIB, alignment=1 << 20)


def cache_limits(writer: Writer) -> None:
    """The limit of all thread caches, and of each where the release has it, rise and fall."""
    random = writer.random
    threads = list(range(random.randrange(2, 12)))
    if random.random() < 0.5:
        writer.options["max_total_thread_cache_bytes"] = random.choice((0, 600_000, 3 * MIB, 64 * MIB))
    mix = Mix(log_normal(random, 7, 1.5, 200_000), live=2000, threads=threads, switch=0.01, remote=1)
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(500, 3000))
        thread = random.choice(threads)
        burst = [writer.allocate_apart(thread, 5000) for _ in range(200)]
        writer.free_all(thread, burst)
        if random.random() < 0.5:
            total = random.choice((0, 100_000, 512 * KIB, 3_000_000, 32 * MIB, 2 * GIB))
            writer.call("set", "max_total_thread_cache_bytes", total)
        elif writer.minor >= 16 and random.random() < 0.5:
            least = random.choice((0, 1000, 65_536, 100_000, 512 * KIB, 2 * MIB))
            writer.call("set", "min_per_thread_cache_bytes", least)
        if random.random() < 0.1:
            writer.end(random.choice(threads))


def idling(writer: Writer) -> None:
    """Threads say that they will be idle, for good or for a while, and come back."""
    random = writer.random
    threads = list(range(random.randrange(2, 10)))
    for thread in threads:
        writer.allocate(thread, 24)
    mix = Mix(log_normal(random, 5, 1.5, 500_000), live=3000, threads=threads, switch=0.05, remote=1)
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(20, 500))
        call = "mark_thread_temporarily_idle" if random.random() < 0.4 else "mark_thread_idle"
        writer.call_on(call, random.choice(threads))
        if random.random() < 0.3:  # Without a cache, until it allocates.
            thread = random.choice(threads)
            for _ in range(min(len(writer.live), random.randrange(50))):
                writer.free_live(thread)


def address_windows(writer: Writer) -> None:
    """A heap of several GiB, most of it never touched, with small objects all over it."""
    random = writer.random
    mix = Mix(log_normal(random, 6, 1.5, 100_000), live=4000, threads=range(random.randrange(1, 3)))
    blocks: list[int] = []
    events = some_events(writer)
    while len(writer) < events:
        mix.run(writer, random.randrange(500, 2000))
        blocks.append(writer.allocate_apart(0, random.randrange(50, 600) * MIB))
        if len(blocks) > 12:
            writer.free(0, blocks.pop(random.randrange(len(blocks))))
        if random.random() < 0.1:
            writer.call("release_to_system", random.randrange(1, 512) * MIB)


def big_spans_of_metadata(writer: Writer) -> None:
    """So many spans, caches and growths that their records take chunk after chunk."""
    random = writer.random
    events = some_events(writer)
    step = random.choice((5120, 8192, 16_384))
    # A span for two objects at most: its record is all that this costs.
    names = [writer.allocate_apart(0, step) for _ in range(events // 2)]
    writer.live += [writer.allocate_apart(0, GROWTH_BYTES + PAGE_BYTES) for _ in range(300)]
    if random.random() < 0.5:
        random.shuffle(names)
    kept = len(names) // random.choice((3, 50))
    writer.free_all(0, names[kept:])
    writer.live += names[:kept]
    Mix(log_normal(random, 8, 1, MIB), live=len(writer.live)).run(writer, 3000)


SHAPES: dict[str, Callable[[Writer], None]] = {
    shape.__name__: shape
    for shape in (
        steady,
        mixed,
        hundred_threads,
        thread_churn,
        short_threads,
        producer_consumer,
        all_classes_consumed,
        pipeline,
        nested,
        growing_vectors,
        aligned,
        zeroed,
        boundaries,
        large_objects,
        page_spans,
        central_spans,
        waves,
        releases,
        release_rate,
        coalescing,
        aggressive_decommit,
        heap_limit,
        cache_limits,
        idling,
        address_windows,
        big_spans_of_metadata,
    )
}


def above_four_gib(writer: Writer) -> None:
    """A million objects of 1 KiB, more than 8 MiB of metadata, and more than 4 GiB that nobody touches."""
    for number in range(1_100_000):
        writer.allocate(0, 1024)
        if number % 50_000 == 7:
            writer.allocate(0, 210 * MIB)
    writer.random.shuffle(writer.live)
    freed = writer.live[:700_000]
    del writer.live[:700_000]
    writer.free_all(0, freed)
    for _ in range(200_000):
        writer.allocate(0, writer.random.choice((2000, 5000, 9000, 30_000)))


def end_of_a_metadata_chunk(writer: Writer) -> None:
    """Growths whose record and page map are the last in 8 MiB of metadata: there their order is seen."""
    writer.options["transfer_num_objects"] = 32
    writer.allocate(0, 100)
    for _ in range(493):
        writer.allocate(0, MIB + 8192)
    for _ in range(8):
        writer.allocate(0, 2048 * MIB)
    for _ in range(3):
        writer.allocate(0, 3 * MIB)
        writer.allocate(0, 50_000)


# Too large, in time or in address space, to be run many times.
LARGE_SHAPES: dict[str, Callable[[Writer], None]] = {
    shape.__name__: shape for shape in (above_four_gib, end_of_a_metadata_chunk)
}


def program(shape: str, seed: int, minor: int) -> Program:
    """Return the program of a shape and a seed, for a library of release 2.`minor`.

    Seeds that follow one another have different transfer batches.
    """
    writer = Writer(Random(f"{shape} {seed}"), minor)
    names = [*SHAPES, *LARGE_SHAPES]
    batch = TRANSFER_BATCHES[(seed + names.index(shape)) % len(TRANSFER_BATCHES)]
    writer.options["transfer_num_objects"] = batch
    (SHAPES | LARGE_SHAPES)[shape](writer)
    return writer.finish(shape, seed)
