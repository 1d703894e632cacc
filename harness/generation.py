"""Synthetic traces of any length: log-normal sizes, exponential lifetimes, a steady number of live objects.

native/generator.hpp draws the events; this file checks what was asked for and writes the trace.
"""

from __future__ import annotations

import math

from harness import __version__
from harness.errors import HarnessError
from harness.native._native import Generator, SizeOverflow
from harness.trace import BATCH_EVENTS, Progress, TraceWriter, unnoticed

_MAX_THREADS = 65_535
# Steady state wanders some standard deviations above it, and a trace may have 2^32 - 2 live objects.
_MAX_LIVE = 1 << 31
_MAX_EVENTS = 2**63 - 1  # No limit that anyone meets.
_MAX_LOG_SIZE = 32.5  # Just below ln 2^47, the address space.


def generate(
    target: str,
    *,
    events: int,
    live: int,
    seed: int,
    threads: int = 1,
    remote_free: float = 0.0,
    noscan: float = 0.5,
    size_mu: float = 4.5,
    size_sigma: float = 1.5,
    progress: Progress = unnoticed,
) -> None:
    """Write a synthetic trace that climbs to `live` objects and stays around that.

    Sizes in bytes are e to the power of a normal number of mean `size_mu` and deviation `size_sigma`, at
    least 1; each death takes a uniformly chosen object, so that lifetimes are exponential; `remote_free` and
    `noscan` are shares of the frees and of the objects. The same arguments give the same rows. Raises
    HarnessError.
    """
    parameters = {
        "live": live,
        "seed": seed,
        "threads": threads,
        "remote_free": remote_free,
        "noscan": noscan,
        "size_mu": size_mu,
        "size_sigma": size_sigma,
    }
    _check(events, parameters)
    generator = Generator(
        live=live,
        seed=seed,
        threads=threads,
        remote_free=remote_free,
        noscan=noscan,
        size_mu=size_mu,
        size_sigma=size_sigma,
    )
    source = {
        "program": "synthetic",
        "recorder": f"harness generate {__version__}",
        "parameters": {"events": events, **parameters},
    }
    with TraceWriter(target, source=source, synthetic=True, optional=("noscan", "time_ns")) as writer:
        for first in range(0, events, BATCH_EVENTS):
            count = min(BATCH_EVENTS, events - first)
            try:
                writer.write(generator.next(count))
            except SizeOverflow as overflow:
                raise HarnessError(
                    f"--size-mu {size_mu:g} --size-sigma {size_sigma:g} --live {live}: {overflow}; "
                    f"expected smaller sizes or fewer objects"
                ) from overflow
            progress(count)


def _check(events: int, parameters: dict[str, int | float]) -> None:
    _within("events", events, 0, _MAX_EVENTS)
    _within("live", parameters["live"], 1, _MAX_LIVE)
    _within("seed", parameters["seed"], 0, 2**64 - 1)
    _within("threads", parameters["threads"], 1, _MAX_THREADS)
    _within("remote_free", parameters["remote_free"], 0, 1)
    _within("noscan", parameters["noscan"], 0, 1)
    _within("size_mu", parameters["size_mu"], -_MAX_LOG_SIZE, _MAX_LOG_SIZE)
    _within("size_sigma", parameters["size_sigma"], 0, _MAX_LOG_SIZE)
    if parameters["remote_free"] > 0 and parameters["threads"] < 2:
        raise HarnessError(
            f"--remote-free {parameters['remote_free']:g}: one thread has no other to free on; "
            f"expected --threads 2 or more"
        )


def _within(name: str, value: float, lowest: float, highest: float) -> None:
    if math.isnan(value) or not lowest <= value <= highest:
        option = f"--{name.replace('_', '-')}"
        expected = f"{lowest:,} to {highest:,}" if highest != _MAX_EVENTS else f"{lowest:,} or more"
        raise HarnessError(f"{option} {value}: expected {expected}")
