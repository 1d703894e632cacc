"""Synthetic traces of any length: sizes, lifetimes, a steady number of live objects, in one phase or several.

native/generator.hpp draws the events; this file checks what was asked for and writes the trace.
docs/generate.md says what each option does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import __version__, distributions
from harness.errors import HarnessError
from harness.native._native import Generator, SizeOverflow
from harness.trace import BATCH_EVENTS, Progress, TraceWriter, unnoticed

LIFETIMES = ("exponential", "fifo", "lifo", "mixture", "by-size")
LOG_NORMAL = "log-normal"

_MAX_THREADS = 65_535
# Steady state wanders some standard deviations above it, and a trace may have 2^32 - 2 live objects.
_MAX_LIVE = 1 << 31
_MAX_EVENTS = 2**63 - 1  # No limit that anyone meets.
_MAX_LOG_SIZE = 32.5  # Just below ln 2^47, the address space.
_NO_SIZES = distributions.Distribution([], [], [])

# What a phase may set, and how its text is read.
_PHASE_OPTIONS: dict[str, Callable[[str], Any]] = {
    "live": int,
    "threads": int,
    "remote_free": float,
    "noscan": float,
    "sizes": str,
    "size_mu": float,
    "size_sigma": float,
    "lifetimes": str,
    "short_lived": float,
    "short_life": float,
}
# What has a meaning only beside a certain value of another option, and its default there.
_DEPENDENT = {
    "size_mu": ("sizes", LOG_NORMAL, 4.5),
    "size_sigma": ("sizes", LOG_NORMAL, 1.5),
    "short_lived": ("lifetimes", "mixture", 0.9),
    "short_life": ("lifetimes", "mixture", 100.0),
}
_RANGES: dict[str, tuple[float, float]] = {
    "events": (0, _MAX_EVENTS),
    "live": (1, _MAX_LIVE),
    "seed": (0, 2**64 - 1),
    "threads": (1, _MAX_THREADS),
    "remote_free": (0, 1),
    "noscan": (0, 1),
    "size_mu": (-_MAX_LOG_SIZE, _MAX_LOG_SIZE),
    "size_sigma": (0, _MAX_LOG_SIZE),
    "short_lived": (0, 1),
    "short_life": (1, _MAX_EVENTS),
}


def generate(
    target: str,
    *,
    seed: int,
    live: int,
    events: int | None = None,
    threads: int = 1,
    remote_free: float = 0.0,
    noscan: float = 0.5,
    sizes: str = LOG_NORMAL,
    size_mu: float | None = None,
    size_sigma: float | None = None,
    lifetimes: str = "exponential",
    short_lived: float | None = None,
    short_life: float | None = None,
    phases: Sequence[str] = (),
    progress: Progress = unnoticed,
) -> None:
    """Write a synthetic trace that climbs to `live` objects and stays around that.

    Sizes in bytes are e to the power of a normal number of mean `size_mu` (4.5) and deviation `size_sigma`
    (1.5), at least 1, or come from the distribution that `sizes` names. `remote_free` and `noscan` are shares
    of the frees and of the objects; `short_lived` (0.9) is the share of a mixture's allocations that live
    `short_life` (100) events in the mean. A phase, ``EVENTS[:key=value,...]``, sets some of these anew for so
    many events; without any there is one of `events`. The same arguments give the same rows. Raises
    HarnessError.
    """
    options = {
        "live": live,
        "threads": threads,
        "remote_free": remote_free,
        "noscan": noscan,
        "sizes": sizes,
        "size_mu": size_mu,
        "size_sigma": size_sigma,
        "lifetimes": lifetimes,
        "short_lived": short_lived,
        "short_life": short_life,
    }
    _within("seed", seed)
    if phases and events is not None:
        raise HarnessError(
            f"--events {events}: expected none beside --phase; each phase says how many it has"
        )
    if phases:
        made = [_phase_of(text, options) for text in phases]
        parameters = {"seed": seed, "phases": [phase.parameters() for phase in made]}
    elif events is not None:
        made = [_Phase(events, options)]
        parameters = made[0].parameters(seed=seed)
    else:
        raise HarnessError("--events is missing: expected how many to make, or --phase EVENTS for each phase")
    for name, (host, needed, _) in _DEPENDENT.items():
        if options[name] is not None and not any(name in phase.options for phase in made):
            raise HarnessError(
                f"{_said(name, options[name])}: means nothing here; expected {_said(host, needed)}"
            )
    source = {"program": "synthetic", "recorder": f"harness generate {__version__}", "parameters": parameters}
    generator = Generator(seed=seed)
    with TraceWriter(target, source=source, synthetic=True, optional=("noscan", "time_ns")) as writer:
        for phase in made:
            phase.write(generator, writer, progress)


class _Phase:
    """So many events by one set of options, which are checked when it is made."""

    def __init__(self, events: int, options: Mapping[str, Any]) -> None:
        self.events = events
        self.options = {name: value for name, value in options.items() if name not in _DEPENDENT}
        for name, (host, needed, default) in _DEPENDENT.items():
            if options[host] == needed:
                self.options[name] = default if options[name] is None else options[name]
        _within("events", events)
        for name, value in self.options.items():
            _within(name, value)
        if self.options["remote_free"] > 0 and self.options["threads"] < 2:
            raise HarnessError(
                f"{self._said('remote_free')}: one thread has no other to free on; "
                f"expected --threads 2 or more"
            )
        if self.options["lifetimes"] not in LIFETIMES:
            raise HarnessError(f"{self._said('lifetimes')}: expected {', '.join(LIFETIMES)}")
        self._sizes = (
            _NO_SIZES if self.options["sizes"] == LOG_NORMAL else distributions.load(self.options["sizes"])
        )
        if self.options["lifetimes"] == "by-size" and not self._sizes.live_weights:
            raise HarnessError(
                f"{self._said('sizes', 'lifetimes')}: these sizes have no column live, by which it goes; "
                f"expected some that have, as --sizes {distributions.names()[0]}"
            )
        if self.options["lifetimes"] == "mixture":
            short_objects = self.options["short_lived"] * self.options["short_life"] / 2
            if self.options["short_lived"] == 1 or short_objects >= self.options["live"]:
                raise HarnessError(
                    f"{self._said('short_lived', 'short_life', 'live')}: leaves no room for the long-lived; "
                    f"expected a smaller share, a shorter life or more objects"
                )

    def parameters(self, **more: int) -> dict[str, Any]:
        """Return what the trace says of how it was made; sizes and lifetimes where they are unusual."""
        said = {"events": self.events, "live": self.options["live"], **more, **self.options}
        for name, usual in (("sizes", LOG_NORMAL), ("lifetimes", LIFETIMES[0])):
            if said[name] == usual:
                del said[name]
        return said

    def write(self, generator: Generator, writer: TraceWriter, progress: Progress) -> None:
        """Make the phase's events and write them; HarnessError where the objects outgrow an address space."""
        sizes = self._sizes
        generator.begin_phase(
            **{name: 0.0 for name in _DEPENDENT} | self.options | sizes._asdict(),
        )
        for first in range(0, self.events, BATCH_EVENTS):
            count = min(BATCH_EVENTS, self.events - first)
            try:
                writer.write(generator.next(count))
            except SizeOverflow as overflow:
                by = ("sizes",) if sizes.sizes else ("size_mu", "size_sigma")
                raise HarnessError(
                    f"{self._said(*by, 'live')}: {overflow}; expected smaller sizes or fewer objects"
                ) from overflow
            progress(count)

    def _said(self, *names: str) -> str:
        return " ".join(_said(name, self.options[name]) for name in names)


def _phase_of(text: str, options: Mapping[str, Any]) -> _Phase:
    """Read ``EVENTS[:key=value,...]``; what it does not set is as `options` has it."""
    events, _, rest = text.partition(":")
    own: dict[str, Any] = {}
    try:
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if key not in _PHASE_OPTIONS or not equals:
                raise HarnessError(
                    f"found {part!r}, expected key=value with a key of {', '.join(_PHASE_OPTIONS)}"
                )
            own[key] = _number(_PHASE_OPTIONS[key], key, value)
        phase = _Phase(_number(int, "events", events), {**options, **own})
        for key in own:
            if key not in phase.options:
                host, needed, _ = _DEPENDENT[key]
                raise HarnessError(f"{key} means nothing here; expected {host}={needed}")
    except HarnessError as error:
        raise HarnessError(f"--phase {text}: {error}") from error
    return phase


def _number(kind: Callable[[str], Any], name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        raise HarnessError(f"{name}: found {text!r}, expected {expected}") from error


def _within(name: str, value: Any) -> None:
    if name not in _RANGES:
        return
    lowest, highest = _RANGES[name]
    if not lowest <= value <= highest:  # A NaN is not, either.
        expected = f"{lowest:,} to {highest:,}" if highest != _MAX_EVENTS else f"{lowest:,} or more"
        raise HarnessError(f"{_option(name)} {value}: expected {expected}")


def _said(name: str, value: Any) -> str:
    return f"{_option(name)} {value:g}" if isinstance(value, float) else f"{_option(name)} {value}"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
