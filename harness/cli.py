"""The command line: parses, calls, prints; no logic of its own.

Every import that costs time stands in its verb, so that `harness --help` loads neither pyarrow nor numpy.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

from harness import __version__
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.allocator import Spec
    from harness.commits import Commit
    from harness.comparison import Side
    from harness.gate_replay import How
    from harness.plot import Destination
    from harness.results import TraceRuns
    from harness.trace import Noscan

FORMATS = ("table", "markdown", "csv", "json", "latex")

_format = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print."
)

# The figures of plot.py and how many samples they want; named here, too, so that --help loads no matplotlib.
FIGURES = ("footprint", "collector", "waste", "occupancy")
_SAMPLES, _SAMPLES_DRAWN = 200, 1000

_noscan = click.option(
    "--noscan", metavar="all|none|FRACTION", help="Objects without pointers, where the trace does not say."
)

_allocators = click.option(
    "-a",
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME[:key=value,...]",
    help="May be given again; key=A|B makes one run each  [default: go, tcmalloc and ideal].",
)

_history = click.option(
    "--history",
    "history_folder",
    metavar="DIR",
    default="results/history",
    show_default=True,
    help="The history.",
)

_costs = click.option(
    "--costs",
    "cost_source",
    metavar="FILE|default",
    help="What paths take, for modelled times  [default: as calibrated here, else what ships].",
)


def main() -> None:
    """Run the command line; exit 0 done, 1 a check found a difference, 2 an error, said in one line."""
    try:
        status = cli.main(standalone_mode=False, prog_name="harness")
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "harness"
        _fail(f"{error.format_message()} (see `{verb} --help`)")
    except click.ClickException as error:
        _fail(error.format_message())
    except HarnessError as error:
        _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # The reader of our output has gone; there is nobody to tell.
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    _tell(message)
    sys.exit(2)


def _tell(fault: object) -> None:
    """Say what went wrong, in one line whatever the fault holds."""
    click.echo(f"harness: {' '.join(str(fault).split())}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Replay allocation traces through memory allocators and compare what each makes of the memory."""


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("-o", "--output", metavar="OUT.parquet", help="The trace to write  [default: PROGRAM.parquet].")
@click.option("--follow-fork", is_flag=True, help="Record children too, each to a file of its own.")
@click.option("--sites", is_flag=True, help="Keep the call stack of each allocation (docs/sites.md).")
@click.option(
    "--frames", type=int, help="With --sites: the innermost frames to keep, up to 128  [default: 32]."
)
@click.option(
    "--go", is_flag=True, help="Run a Go program that traces itself, or go test (docs/how-to/go-programs.md)."
)
@click.option("--recover", metavar="RAW", help="Make a trace of what an interrupted recording left behind.")
@click.option("--quiet", is_flag=True, help="Say nothing on stderr when all went well.")
def record(
    command: tuple[str, ...],
    output: str | None,
    follow_fork: bool,
    sites: bool,
    frames: int | None,
    go: bool,
    recover: str | None,
    quiet: bool,
) -> int:
    """Run PROGRAM and record its allocations: harness record [-o OUT.parquet] -- PROGRAM ARGS..."""
    from harness import recording

    if recover is not None:
        if command:
            raise click.UsageError("--recover takes a raw file and runs no program")
        written = recording.recover(recover, output)
        if not quiet:
            click.echo(f"harness: wrote {written}", err=True)
        return 0
    if not command:
        raise click.UsageError("what to run is missing: harness record [-o OUT.parquet] -- PROGRAM ARGS...")
    if frames is not None and not sites:
        raise click.UsageError("--frames goes with --sites")
    if go:
        if sites or follow_fork:
            raise click.UsageError(
                "--go has Go's own tracer record: --sites and --follow-fork do not go with it"
            )
        return recording.record_go(list(command), output, quiet)
    return recording.record(
        list(command),
        output,
        follow_fork=follow_fork,
        quiet=quiet,
        sites=sites,
        **({} if frames is None else {"frames": frames}),
    )


@cli.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--from", "from_format", metavar="FORMAT", help="Format of IN  [default: by content and name].")
@click.option("--to", "to_format", metavar="FORMAT", help="Format of OUT  [default: by name].")
@click.option("--events", metavar="A:B", help="Only events A up to B, not included; either may be left out.")
@click.option("--time", "time_s", metavar="A:B", help="Only the seconds A up to B from the first event.")
@click.option("--threads", metavar="N,N", help="Only what these threads allocate, and what becomes of it.")
@click.option("--lenient", is_flag=True, help="Mend and count what no program can have done.")
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="OURS=THEIRS,...",
    help="What IN calls a column: object=ptr,size=bytes,op=kind.",
)
def convert(
    source: str,
    target: str,
    from_format: str | None,
    to_format: str | None,
    events: str | None,
    time_s: str | None,
    threads: str | None,
    lenient: bool,
    mapping: tuple[str, ...],
) -> None:
    """Bring another recorder's trace in, canonicalise or cut one, or write one for another tool."""
    from harness.conversion import convert as run
    from harness.formats import Reading

    with _progress("convert") as progress:
        result = run(
            source,
            target,
            from_format=from_format,
            to_format=to_format,
            events=_window(events, int, "--events"),
            time_s=_window(time_s, float, "--time"),
            threads=_numbers(threads, "--threads"),
            reading=Reading(lenient=lenient, columns=_mapping(mapping)),
            progress=progress,
        )
    click.echo(f"harness: {target}: {result.events:,} events", err=True)
    for warning in result.warnings:
        click.echo(f"harness: note: {warning}", err=True)


@cli.command()
@click.argument("trace")
@click.option(
    "--format", "form", type=click.Choice(("table", "markdown", "json")), default="table", show_default=True
)
def inspect(trace: str, form: str) -> None:
    """Say what a trace holds: events, threads, sizes, lifetimes."""
    from harness.inspection import inspect as run

    with _progress("inspect") as progress:
        inspection = run(trace, progress)
    if form == "json":
        click.echo(json.dumps(inspection.as_dict(), indent=1))
    else:
        from harness.inspection_report import inspection_tables

        click.echo(inspection_tables(inspection, form))


@cli.command()
@click.option("-o", "--output", required=True, metavar="OUT.parquet", help="The trace to write.")
@click.option("--events", type=int, help="How many events, unless --phase says it.")
@click.option("--live", type=int, default=100_000, show_default=True, help="Objects alive at a time.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same trace.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option(
    "--remote-free", type=float, default=0.0, show_default=True, help="Share of frees on another thread."
)
@click.option(
    "--noscan", type=float, default=0.5, show_default=True, help="Share of objects without pointers."
)
@click.option(
    "--sizes",
    metavar="NAME|FILE.csv",
    default="log-normal",
    show_default=True,
    help="Or what a service asks for, fleetbench-0 to fleetbench-9, or a file of size,weight.",
)
@click.option("--size-mu", type=float, help="Mean of the log-normal sizes' logarithm  [default: 4.5].")
@click.option("--size-sigma", type=float, help="Its standard deviation  [default: 1.5].")
@click.option(
    "--lifetimes",
    metavar="exponential|fifo|lifo|mixture|by-size",
    default="exponential",
    show_default=True,
    help="Who dies: anyone alike, the oldest, the youngest, short-lived ones, each size at its own rate.",
)
@click.option(
    "--short-lived", type=float, help="Share of a mixture's allocations that live short  [default: 0.9]."
)
@click.option("--short-life", type=float, help="How many events these live, in the mean  [default: 100].")
@click.option(
    "--phase",
    "phases",
    multiple=True,
    metavar="EVENTS[:key=value,...]",
    help="May be given again: so many events by these options, as 1000000:live=5000,sizes=fleetbench-3.",
)
def generate(output: str, **parameters: Any) -> None:
    """Make a synthetic trace: sizes, lifetimes and phases as you ask (docs/generate.md)."""
    from harness.generation import generate as run

    with _progress("generate", parameters["events"]) as progress:
        run(output, progress=progress, **parameters)


@cli.command()
@click.argument("traces", nargs=-1, required=True)
@_allocators
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    help=f"Samples over the trace  [default: {_SAMPLES}; {_SAMPLES_DRAWN:,} with --plot].",
)
@_noscan
@_format
@click.option("--output", metavar="PATH", help="Write there instead of to stdout.")
@click.option("--placements", metavar="FILE", help="Write each object's model address to a Parquet file.")
@click.option("--json-samples", is_flag=True, help="Put the samples into the JSON.")
@click.option(
    "--plot",
    "drawn",
    metavar="DIR",
    help="Draw there what `harness plot` draws, as PNG and SVG; FILE.png or FILE.svg: the footprint alone.",
)
@click.option(
    "--census",
    is_flag=True,
    help="Look at the spans at the peak: classes then, how full spans are. Takes a second pass up to there.",
)
@click.option(
    "--save",
    "directory",
    metavar="DIR",
    help="Keep everything in a new directory: run.json, samples.parquet, tables.txt.",
)
@click.option(
    "--publish",
    "folder",
    metavar="DIR",
    help="Write pages and files of what models make of traces, the same on every machine; with a census, and "
    "times by the costs that ship.",
)
@click.option(
    "--history",
    "history_folder",
    metavar="DIR",
    help="Add the results to a history, as those of the commit that stands here (docs/history.md).",
)
@click.option(
    "--stats-text",
    is_flag=True,
    help="Print the statistics that the allocator itself would print at the end (tcmalloc: GetStats).",
)
@_costs
@click.option(
    "--batch-events", type=click.IntRange(min=1), help="Events decoded at a time; changes no result."
)
def replay(
    traces: tuple[str, ...],
    allocators: tuple[str, ...],
    samples: int | None,
    noscan: str | None,
    form: str,
    output: str | None,
    placements: str | None,
    json_samples: bool,
    drawn: str | None,
    census: bool,
    directory: str | None,
    folder: str | None,
    history_folder: str | None,
    stats_text: bool,
    cost_source: str | None,
    batch_events: int | None,
) -> int:
    """Replay traces through allocators and compare fragmentation and waste."""
    _before_arrow_is_loaded()
    with _loading():
        from harness import costs
        from harness.allocator import DEFAULT_ALLOCATORS, find
        from harness.replay import Settings, replay_all
        from harness.results import Environment, TraceRuns, check_free, save
        from harness.trace import BATCH_EVENTS

        specs = [spec for text in allocators or DEFAULT_ALLOCATORS for spec in find(text)]
    if placements and len(specs) * len(traces) != 1:
        raise click.UsageError("--placements needs one trace and one allocator: choose it with -a")
    chosen = _chosen_noscan(noscan)
    if stats_text and form not in ("table", "markdown", "json"):
        raise click.UsageError(f"--stats-text has no place in {form}; it goes with table, markdown and json")
    if stats_text and not any(hasattr(spec.factory, "stats_text") for spec in specs):
        having = ", ".join(_with("stats_text"))
        raise click.UsageError(
            f"--stats-text: none of these allocators prints statistics; those that do: {having}"
        )
    destination = None
    if drawn is not None:
        from harness.plot import Destination

        destination = Destination(drawn, len(traces))
    if samples is None:
        samples = _SAMPLES if destination is None else _SAMPLES_DRAWN
    settings = Settings(
        samples,
        chosen,
        batch_events or BATCH_EVENTS,
        placements,
        stats_text,
        costs.chosen(cost_source or (costs.DEFAULT if folder else None)),
        census or folder is not None or (destination is not None and destination.shows_classes),
    )
    if directory is not None:
        check_free(directory)
    if folder is not None:
        from harness import publication

        publication.check(folder, traces, specs)
    commit = None
    if history_folder is not None:
        from harness import commits, history_files

        commit = commits.find(None, None)
        named = [
            (commits.within_repository(trace), label) for trace in traces for label in _labels(trace, specs)
        ]
        history_files.check(history_folder, commit, named)
    results: list[TraceRuns] = []
    faults: list[HarnessError] = []
    environment = Environment()
    begin = time.perf_counter()
    for outcome in replay_all(traces, specs, settings, _progress):
        if isinstance(outcome, TraceRuns):
            results.append(outcome)
        else:
            faults.append(outcome)  # The other traces' results are kept.
    environment.seconds = time.perf_counter() - begin
    events = sum(result.trace["events"] for result in results) * len(specs)
    if environment.seconds > 0 and events:
        environment.replay_events_per_second = events / environment.seconds
    if results:
        _print(_replay_text(results, environment, form, json_samples), output)
        if directory is not None:
            tables = {"tables.txt": _replay_text(results, environment, "table", json_samples)}
            save(directory, results, environment, tables)
        if folder is not None and not faults:
            publication.publish(folder, results, noscan)
        if history_folder is not None and commit is not None:
            _add_to_history(history_folder, results, commit)
    if destination is not None:
        faults += _draw(results, destination)
    failures = [run.failure for result in results for run in result.runs if run.failure is not None]
    for fault in (*faults, *failures):
        _tell(fault)
    return 2 if faults or failures else 0


def _labels(trace: str, specs: Sequence[Spec]) -> list[str]:
    """Return what the allocators will be called on a trace; nothing, where it cannot be opened."""
    from harness.trace import TraceReader

    try:
        metadata = TraceReader(trace).metadata
    except HarnessError:
        return []  # The replay will say why.
    return [spec.for_trace(metadata).label for spec in specs]


def _add_to_history(directory: str, results: list[TraceRuns], commit: Commit, **options: Any) -> None:
    from harness import history_files
    from harness.history import short

    written = history_files.append(directory, results, commit, **options)
    click.echo(f"harness: wrote {written}", err=True)
    if not commit.is_clean:
        click.echo(
            f"harness: note: there are changes here that commit {short(commit.name)} does not have",
            err=True,
        )


def _before_arrow_is_loaded() -> None:
    """Have Arrow and NumPy take no more memory and no more processors than a replay has use for."""
    # Arrow's usual pool keeps what each of its threads once held; this one holds a fifth less, and a longer
    # trace does not make it hold more. Arrow reads the name when it is loaded.
    if sys.platform == "linux":
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
    # NumPy's linear algebra starts a thread a processor that spins for want of work; there is none here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _replay_text(results: Any, environment: Any, form: str, json_samples: bool) -> str:
    if form == "json":
        from harness.results import to_json

        return to_json(results, environment, samples=json_samples) + "\n"
    from harness import report

    if form == "csv":
        return report.comparison_csv(results)
    return report.comparison(results, environment, form)


_COMPARED = (
    "two results (harness compare before.json after.json) or, on a trace, two allocators "
    "(harness compare go go:gogc=50 --trace x.parquet)"
)


@cli.command()
@click.argument("sides", metavar="A B", nargs=-1)
@click.option(
    "--trace",
    "traces",
    multiple=True,
    metavar="TRACE...",
    help="A and B are allocators, NAME[:key=value,...]: replay these traces through both.",
)
@click.option("--classes", is_flag=True, help="Compare what each size class wastes, too.")
@click.option("--all", "everything", is_flag=True, help="Show equal numbers, too.")
@click.option("--different-traces", is_flag=True, help="Compare results of different traces all the same.")
@_noscan
@_costs
@_format
@click.option("--output", metavar="PATH", help="Write there instead of to stdout.")
def compare(
    sides: tuple[str, ...],
    traces: tuple[str, ...],
    classes: bool,
    everything: bool,
    different_traces: bool,
    noscan: str | None,
    cost_source: str | None,
    form: str,
    output: str | None,
) -> int:
    """Say what differs between two results, A and B, number by number (docs/compare.md).

    A and B are what `harness replay` wrote with --save or with --format json, or with --trace two allocators.
    """
    from harness import comparison_report
    from harness.comparison import compare as run

    if len(sides) < 2:
        raise click.UsageError(f"what to compare is missing: {_COMPARED}")
    faults: list[HarnessError] = []
    if traces:
        # A shell puts all files of a pattern behind --trace, which takes the first.
        a, b, faults = _replayed_sides(
            sides[0], sides[1], (*traces, *sides[2:]), classes, noscan, cost_source
        )
    else:
        a, b = _loaded_sides(sides, noscan, cost_source)
    found = run(a, b, classes=classes, different_traces=different_traces)
    _print(comparison_report.comparison(found, form, everything=everything), output)
    for fault in faults:
        _tell(fault)
    return 2 if faults else 0


def _loaded_sides(sides: tuple[str, ...], noscan: str | None, cost_source: str | None) -> list[Side]:
    """Return two results that were kept."""
    from harness.allocator import registered
    from harness.comparison import Side
    from harness.results import load

    if noscan is not None or cost_source is not None:
        raise click.UsageError("--noscan and --costs are for a replay: they go with --trace")
    for side in sides:
        if side.partition(":")[0] in registered()[0] and not os.path.exists(side):
            raise click.UsageError(f"{side} is an allocator: say on which trace, with --trace TRACE")
    if len(sides) > 2:
        raise click.UsageError(f"found {len(sides)} things to compare, expected {_COMPARED}")
    return [Side(side, load(side)[0]) for side in sides]


def _replayed_sides(
    a: str,
    b: str,
    traces: tuple[str, ...],
    classes: bool,
    noscan: str | None,
    cost_source: str | None,
) -> tuple[Side, Side, list[HarnessError]]:
    """Return what two allocators make of traces, and the faults of traces and of real libraries."""
    _before_arrow_is_loaded()
    from harness import costs
    from harness.allocator import find
    from harness.comparison import Side
    from harness.replay import Settings, replay_all
    from harness.results import TraceRuns

    specs = []
    for text in (a, b):
        try:
            found = find(text)
        except HarnessError as fault:
            if os.path.exists(text):
                raise click.UsageError(f"with --trace A and B are allocators, not files: {fault}") from fault
            raise
        if len(found) > 1:
            raise click.UsageError(f"{text} are {len(found)} allocators; A and B are one each")
        specs += found
    # With a census the size classes are those of the peak, as the parts above them are.
    settings = Settings(noscan=_chosen_noscan(noscan), cost_tables=costs.chosen(cost_source), census=classes)
    outcomes = list(replay_all(traces, specs, settings, _progress))
    results = [outcome for outcome in outcomes if isinstance(outcome, TraceRuns)]
    faults = [outcome for outcome in outcomes if isinstance(outcome, HarnessError)]
    runs = [run for result in results for run in result.runs]
    faults += [HarnessError(run.failure) for run in runs if run.failure is not None]
    if not results:
        raise faults[0]
    of_each = [[TraceRuns(each.trace, [each.runs[index]]) for each in results] for index in range(2)]
    return Side(a, of_each[0]), Side(b, of_each[1]), faults


@cli.command()
@click.argument("arguments", metavar="[BASELINE.json] [TRACE...]", nargs=-1)
@click.option("--update", is_flag=True, help="Write the baseline: of what is given, else of what it has.")
@click.option(
    "-a",
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME[:key=value,...]",
    help="Hold these against the baseline's runs of the same allocators; with --update, keep these.",
)
@click.option(
    "--metric",
    "chosen",
    multiple=True,
    metavar="NAME",
    help="With --update: keep this number; may be given again  [default: docs/gate.md].",
)
@click.option(
    "--new-traces",
    is_flag=True,
    help="The traces were recorded anew: compare the program's memory, by thresholds for that.",
)
@click.option("--any-version", is_flag=True, help="Take a baseline of another version of harness, too.")
@click.option(
    "--config",
    metavar="FILE.toml",
    help="Where thresholds stand  [default: [tool.harness.check] of the nearest pyproject.toml].",
)
@click.option(
    "--repetitions",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often real libraries are measured; fewer than 5 tell nothing from chance.",
)
@click.option("--markdown", metavar="FILE", help="Write what was found as Markdown, too.")
@click.option("--junit", metavar="FILE", help="Write it as JUnit XML, too.")
@click.option("--json", "json_file", metavar="FILE", help="Write every number as JSON, too.")
@click.option(
    "--annotations/--no-annotations",
    default=None,
    help="Print annotations for GitHub  [default: where GITHUB_ACTIONS is true].",
)
@_noscan
def check(
    arguments: tuple[str, ...],
    update: bool,
    allocators: tuple[str, ...],
    chosen: tuple[str, ...],
    new_traces: bool,
    any_version: bool,
    config: str | None,
    repetitions: int,
    markdown: str | None,
    junit: str | None,
    json_file: str | None,
    annotations: bool | None,
    noscan: str | None,
) -> int:
    """Replay what a baseline names; exit 1 if memory got worse than thresholds allow (docs/gate.md).

    The first time: harness check --update TRACE... -a NAME. From then on: harness check. Without
    BASELINE.json it is the one that pyproject.toml names, else harness-baseline.json.
    """
    _before_arrow_is_loaded()
    from pathlib import Path

    from harness import baseline, gate_replay, gate_report, thresholds
    from harness.allocator import find

    configured = thresholds.configuration(config)
    files = [text for text in arguments if text.endswith(".json")]
    traces = [text for text in arguments if text not in files]
    if len(files) > 1:
        raise click.UsageError(f"found {len(files)} baselines, {' and '.join(files)}; expected one")
    path = files[0] if files else configured.baseline or baseline.DEFAULT_PATH
    specs = [spec for text in allocators for spec in find(text)]
    how = gate_replay.How(new_traces, repetitions, _progress)
    outputs = {"--markdown": markdown, "--junit": junit, "--json": json_file}
    if update:
        given = [option for option, file in outputs.items() if file is not None]
        if given:
            raise click.UsageError(f"{given[0]} is for what a check finds, and --update makes none")
        _chosen_noscan(noscan)
        return _update_baseline(path, traces, specs, how, any_version, chosen or configured.metrics, noscan)
    if chosen or noscan is not None:
        raise click.UsageError("--metric and --noscan are kept in the baseline: they go with --update")
    kept = baseline.load(path, any_version=any_version)
    found = gate_replay.check(kept, configured.thresholds, traces, specs, how)
    click.echo(gate_report.check_text(found, "table"), nl=False)
    if annotations or (annotations is None and os.environ.get("GITHUB_ACTIONS") == "true"):
        for line in gate_report.github_annotations(found, Path(path).read_text(encoding="utf-8")):
            click.echo(line)
    if markdown is not None:
        _print(gate_report.check_text(found, "markdown"), markdown)
    if junit is not None:
        _print(gate_report.check_junit(found), junit)
    if json_file is not None:
        _print(gate_report.check_json(found), json_file)
    for fault in found.faults:
        _tell(fault)
    return found.status


def _update_baseline(
    path: str,
    traces: list[str],
    specs: list[Spec],
    how: How,
    any_version: bool,
    chosen: tuple[str, ...],
    noscan: str | None,
) -> int:
    from harness import baseline, gate_replay

    before = baseline.load(path, any_version=any_version) if os.path.exists(path) else None
    baseline.check_metrics(chosen)
    made, faults = gate_replay.update(path, before, traces, specs, how, chosen=chosen, noscan=noscan)
    if not faults:
        baseline.save(made)
        click.echo(f"harness: wrote {path}: {baseline.size_text(made)}", err=True)
    for fault in faults:
        _tell(fault)
    return 2 if faults else 0


@cli.command()
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option(
    "-a",
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME[:key=value,...]",
    help="May be given again  [default: go and tcmalloc].",
)
@click.option(
    "--by",
    type=click.Choice(("class", "site", "function", "module", "type")),
    default="class",
    show_default=True,
    help="Whose waste: size classes, or the program's lines, functions, modules or types (docs/sites.md).",
)
@click.option(
    "--frame",
    type=click.IntRange(min=0),
    help="With --by site, function or module: blame so many frames farther out.",
)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many rows.")
@_noscan
@_format
@click.option("--output", metavar="PATH", help="Write there instead of to stdout.")
def waste(
    traces: tuple[str, ...],
    allocators: tuple[str, ...],
    by: str,
    frame: int | None,
    top: int,
    noscan: str | None,
    form: str,
    output: str | None,
) -> int:
    """Say where the memory goes at the peak: which size classes, or whose objects, waste most, and why."""
    _before_arrow_is_loaded()
    from harness.allocator import find

    specs = [spec for text in allocators or ("go", "tcmalloc") for spec in find(text)]
    if frame is not None and by in ("class", "type"):
        raise click.UsageError("--frame goes with --by site, function or module")
    chosen = _chosen_noscan(noscan)
    if by == "class":
        text, faults = _waste_text(traces, specs, chosen, form, top)
    else:
        text, faults = _blame_text(traces, specs, by, frame or 0, chosen, form, top)
    if text is not None:
        _print(text, output)
    for fault in faults:
        _tell(fault)
    return 2 if faults else 0


def _waste_text(
    traces: tuple[str, ...], specs: list[Spec], noscan: Noscan, form: str, top: int
) -> tuple[str | None, list[HarnessError]]:
    """Return what could be explained, None where nothing could, and the faults of what could not."""
    from harness.replay import Settings, replay_all
    from harness.results import TraceRuns
    from harness.waste import explain_all
    from harness.waste_report import waste_text

    remedies = [getattr(spec.factory, "WASTE_REMEDIES", {}) for spec in specs]
    found = []
    faults: list[HarnessError] = []
    for outcome in replay_all(traces, specs, Settings(noscan=noscan, census=True), _progress):
        if not isinstance(outcome, TraceRuns):
            faults.append(outcome)
            continue
        explained, unexplained = explain_all(outcome, remedies)
        faults += unexplained
        if explained:
            found.append((outcome.trace, explained))
    return waste_text(found, form, top) if found else None, faults


def _blame_text(
    traces: tuple[str, ...],
    specs: list[Spec],
    by: str,
    outward: int,
    noscan: Noscan,
    form: str,
    top: int,
) -> tuple[str | None, list[HarnessError]]:
    """Return likewise whose the waste is."""
    from harness.blame import blame_trace
    from harness.blame_report import blame_text
    from harness.replay import Settings

    found = []
    faults: list[HarnessError] = []
    for trace in traces:
        with _progress(trace) as progress:
            try:
                result, runs = blame_trace(trace, specs, by, outward, Settings(noscan=noscan), progress)
            except HarnessError as fault:
                faults.append(fault)
            else:
                found.append((result.trace, runs))
    return blame_text(found, form, top) if found else None, faults


@cli.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@_allocators
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    help="A folder for PNG and SVG of every figure, or FILE.png or FILE.svg for one.",
)
@click.option(
    "--figure",
    "figures",
    multiple=True,
    type=click.Choice(FIGURES),
    help="May be given again  [default: each that has something to show; in a FILE, footprint].",
)
@click.option(
    "--x",
    type=click.Choice(("events", "time")),
    default="events",
    show_default=True,
    help="What goes along the trace: events, or the seconds that it has.",
)
@click.option(
    "--classes",
    "classes_shown",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Size classes shown of each allocator.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=_SAMPLES_DRAWN,
    show_default=True,
    help="Samples over each trace that is replayed.",
)
@_noscan
def plot(
    sources: tuple[str, ...],
    allocators: tuple[str, ...],
    output: str,
    figures: tuple[str, ...],
    x: Literal["events", "time"],
    classes_shown: int,
    samples: int,
    noscan: str | None,
) -> int:
    """Draw what allocators make of traces: footprint over time, collector, waste, occupancy (docs/plot.md).

    A SOURCE is a trace, which is replayed, or what a replay kept: a directory (--save) or a .json file.
    """
    _before_arrow_is_loaded()
    from harness.allocator import DEFAULT_ALLOCATORS, find
    from harness.plot import Destination, Look
    from harness.replay import Settings, replay_all
    from harness.results import TraceRuns, is_kept, load

    kept = [source for source in sources if is_kept(source)]
    traces = [source for source in sources if source not in kept]
    if allocators and not traces:
        raise click.UsageError("-a says what replays a trace, and there is none among the sources")
    specs = [spec for text in allocators or DEFAULT_ALLOCATORS for spec in find(text)]
    results = [result for source in kept for result in load(source)[0]]
    destination = Destination(output, len(traces) + len(results), figures, Look(x, classes_shown))
    settings = Settings(samples, _chosen_noscan(noscan), census=destination.shows_classes)
    faults: list[HarnessError] = []
    for outcome in replay_all(traces, specs, settings, _progress):
        if isinstance(outcome, TraceRuns):
            results.append(outcome)
        else:
            faults.append(outcome)  # The other traces are drawn.
    faults += _draw(results, destination)
    failures = [run.failure for result in results for run in result.runs if run.failure is not None]
    for fault in (*faults, *failures):
        _tell(fault)
    return 2 if faults or failures else 0


def _draw(results: list[TraceRuns], destination: Destination) -> list[HarnessError]:
    """Draw results and say what was written; return why some could not be drawn."""
    faults = []
    with _progress("draw", unit=" figures") as progress:
        for result in results:
            try:
                for written in destination.draw(result):
                    progress(1)
                    click.echo(f"harness: wrote {' and '.join(written)}", err=True)
            except HarnessError as fault:
                faults.append(fault)
    return faults


class _History(click.Group):
    """A group whose first word, where it is no command, is what `show` is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@cli.group(cls=_History, no_args_is_help=False, subcommand_metavar="METRIC | add RUN... | COMMAND --help")
def history() -> None:
    """Show a metric over commits, or add results to a history (docs/history.md)."""


@history.command("add")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@_history
@click.option("--commit", "name", metavar="NAME", help="Whose results they are  [default: HEAD].")
@click.option("--date", metavar="DATE", help="When it was made  [default: as git says].")
@click.option("--replace", is_flag=True, help="Take these in place of those that are there of the commit.")
def history_add(
    runs: tuple[str, ...], history_folder: str, name: str | None, date: str | None, replace: bool
) -> None:
    """Add what `harness replay` wrote with --save or with --format json."""
    from harness import commits
    from harness.results import load

    loaded = [load(run) for run in runs]
    commit = commits.find(name, date)
    versions = {environment.harness for _, environment in loaded}
    if len(versions) > 1:
        raise HarnessError(f"results of harness {' and '.join(sorted(versions))}: add them one by one")
    results = [result for each, _ in loaded for result in each]
    _add_to_history(history_folder, results, commit, harness=versions.pop(), replace=replace)


@history.command("show")
@click.argument("metric")
@_history
@click.option("--trace", metavar="NAME", help="Only this trace, by its path, its end or its stem.")
@click.option("-a", "--allocator", metavar="LABEL", help="Only this allocator.")
@click.option(
    "--least",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="PERCENT",
    help="Call changed only what changes by so much  [default: whatever differs].",
)
@click.option("--all", "everything", is_flag=True, help="Show every commit.")
@_format
@click.option("--output", metavar="PATH", help="Write there instead of to stdout.")
def history_show(
    metric: str,
    history_folder: str,
    trace: str | None,
    allocator: str | None,
    least: float,
    everything: bool,
    form: str,
    output: str | None,
) -> None:
    """Show a metric over commits, and where it changed."""
    from harness import history_report
    from harness.history_files import load

    with _progress("history", unit=" files") as progress:
        found = load(history_folder, metric, trace=trace, allocator=allocator, progress=progress)
    _print(history_report.history(found, form, least=least / 100, everything=everything), output)


@cli.command()
@click.argument("allocator", metavar="NAME[:key=value,...]")
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option(
    "--against", metavar="PATH", help="The real allocator's file  [default: the one that is installed]."
)
@click.option(
    "--script",
    metavar="FILE",
    help="Calls between the events, a line each: EVENTS-BEFORE-IT CALL ARGUMENTS  [default: TRACE.script].",
)
@click.option(
    "--checkpoints",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="How often everything is compared between the first event and the last.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How often a real allocator is run that takes another course each time.",
)
@_noscan
@_format
@click.option("--output", metavar="PATH", help="Write there instead of to stdout.")
def conform(
    allocator: str,
    traces: tuple[str, ...],
    against: str | None,
    script: str | None,
    checkpoints: int,
    runs: int,
    noscan: str | None,
    form: str,
    output: str | None,
) -> int:
    """Hold an allocator's model against the real allocator, on traces of your own; exit 1 if they differ."""
    from harness import report
    from harness.allocator import find
    from harness.conform import conform as run

    specs = find(allocator)
    chosen = _chosen_noscan(noscan)
    reports = []
    for spec in specs:
        for trace in traces:
            with _progress(trace) as progress:
                reports.append(
                    run(
                        trace,
                        spec,
                        against=against,
                        script=script,
                        checkpoints=checkpoints,
                        runs=runs,
                        noscan=chosen,
                        progress=progress,
                    )
                )
    _print(report.conformance(reports, form), output)
    return 0 if all(found.agrees for found in reports) else 1


@cli.command()
@click.argument("traces", metavar="[TRACE...]", nargs=-1)
@click.option(
    "-o", "--output", metavar="FILE", help="The cost tables to write  [default: those that replay uses]."
)
@_format
def calibrate(traces: tuple[str, ...], output: str | None, form: str) -> int:
    """Measure on this machine what the paths of the models take, with the real allocators (docs/costs.md).

    Traces of your programs are measured beside what is made for the purpose, and tell how near models come.
    """
    from pathlib import Path

    from harness import calibration, costs, report, workloads
    from harness.results import write_whole

    target = Path(output) if output else costs.user_file()
    # What was measured before and cannot be measured now is kept.
    kept = costs.for_writing(target)
    measured_on = [*(workloads.of_trace(trace) for trace in traces), *workloads.synthetic()]
    with _progress("calibrate", calibration.runs_of(measured_on), unit=" runs") as progress:
        done, faults = calibration.calibrate(measured_on, progress=progress)
    if done:
        write_whole(str(target), costs.to_json({**kept, **{each.model: each.table for each in done}}))
        click.echo(report.calibration(done, form), nl=False)
        click.echo(f"harness: wrote {target}", err=True)
    for fault in faults:
        _tell(fault)
    return 2 if faults else 0


@cli.command()
@click.argument("allocator", metavar="NAME[:key=value,...]")
@_format
def classes(allocator: str, form: str) -> None:
    """Print an allocator's size classes."""
    from harness import report
    from harness.allocator import find

    spec = find(allocator)[0]
    made = spec.create()
    if not hasattr(made, "size_classes"):
        raise HarnessError(
            f"{spec.name} has no size classes; those that have: {', '.join(_with('size_classes'))}"
        )
    rows = made.size_classes()
    if form == "json":
        click.echo(json.dumps(rows, indent=1))
    elif form == "csv":
        click.echo(report.rows_csv(rows), nl=False)
    else:
        click.echo(report.class_table(rows, form))


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("sizes", metavar="SIZE...", nargs=-1, required=True)
@click.option(
    "--noscan", is_flag=True, help="Objects without pointers, where the allocator makes a difference."
)
@click.option(
    "--align", metavar="N", default="0", help="An alignment that the program asks for: a power of two."
)
@click.option(
    "-a",
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME[:key=value,...]",
    help="May be given again; key=A|B makes one column each  [default: go and tcmalloc].",
)
@_format
@click.option("--output", metavar="PATH", help="Write there instead of to stdout.")
def explain(
    sizes: tuple[str, ...],
    noscan: bool,
    align: str,
    allocators: tuple[str, ...],
    form: str,
    output: str | None,
) -> None:
    """Tell what becomes of one allocation: its slot, its span, its way through the tiers (docs/explain.md).

    SIZE is in bytes, or has a unit: 24, 32KiB. Several make a shorter table.
    """
    from harness.allocator import find
    from harness.explanation import explain as run
    from harness.explanation_report import explanations

    asked = [_bytes_of(text, "SIZE") for text in sizes]
    alignment = _bytes_of(align, "--align")
    specs = [spec for text in allocators or ("go", "tcmalloc") for spec in find(text)]
    for spec in specs:
        if not hasattr(spec.factory, "explain"):
            raise HarnessError(
                f"{spec.name} does not explain itself; those that do: {', '.join(_with('explain'))}"
            )
    _print(explanations(run(specs, asked, alignment=alignment, noscan=noscan), form), output)


def _bytes_of(text: str, what: str) -> int:
    from harness.allocator import parse_bytes

    # A negative number is no option, and an option that there is not is no number.
    if text.startswith("-") and not text[1:2].isdigit():
        raise click.NoSuchOption(text)
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.UsageError(
            f"{what} {text}: expected bytes from 0 on, as 24, or with a unit, as 32KiB"
        ) from error


def _chosen_noscan(text: str | None) -> Noscan:
    from harness.trace import Noscan

    try:
        return Noscan.parse(text)
    except ValueError as error:
        raise click.UsageError(
            f"--noscan {text}: expected all, none or a fraction between 0 and 1"
        ) from error


def _with(method: str) -> list[str]:
    from harness.allocator import registered

    return [name for name, factory in registered()[0].items() if hasattr(factory, method)]


@cli.command("list")
@click.option("--formats", is_flag=True, help="List the formats of traces that `convert` knows instead.")
@_format
def list_allocators(formats: bool, form: str) -> int:
    """List the installed allocators with their options and defaults."""
    if formats:
        return _list_formats(form)
    from harness import report
    from harness.allocator import description_of, option_text, options_of, registered

    known, faults = registered()
    for fault in faults:
        click.echo(f"harness: {fault}", err=True)
    status = 2 if faults else 0
    if form == "json":
        listed = [
            {
                "name": name,
                "version": factory.version,
                "kind": getattr(factory, "kind", "model"),
                "description": description_of(factory),
                "options": [
                    {"name": option.name, "default": option.default, "values": option.values}
                    for option in options_of(factory)
                ],
            }
            for name, factory in known.items()
        ]
        click.echo(json.dumps(listed, indent=1))
        return status
    rows = [
        {"allocator": name, "option": option.name, "default": option.default, "values": option.values}
        for name, factory in known.items()
        for option in options_of(factory)
    ]
    if form == "csv":
        click.echo(report.rows_csv(rows), nl=False)
        return status
    described = [[name, getattr(f, "kind", "model"), description_of(f)] for name, f in known.items()]
    click.echo(report.table(described, ["allocator", "kind", "what it is"], form, left=3))
    click.echo()
    cells = [[option_text(value) for value in row.values()] for row in rows]
    click.echo(report.table(cells, ["allocator", "option", "default", "values"], form, left=4))
    return status


def _list_formats(form: str) -> int:
    from harness import report
    from harness.allocator import description_of
    from harness.formats import installed

    known, faults = installed()
    for fault in faults:
        click.echo(f"harness: {fault}", err=True)
    rows: list[dict[str, Any]] = [
        {
            "format": name,
            "description": description_of(type(each)),
            "suffixes": " ".join(each.suffixes),
            "map": "yes" if getattr(each, "maps_columns", False) else "",
        }
        for name, each in known.items()
    ]
    if form == "json":
        click.echo(json.dumps(rows, indent=1))
    elif form == "csv":
        click.echo(report.rows_csv(rows), nl=False)
    else:
        cells = [list(row.values()) for row in rows]
        click.echo(report.table(cells, ["format", "what it is", "suffixes", "--map"], form, left=4))
    return 2 if faults else 0


def _print(text: str, output: str | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    from harness.results import write_whole

    write_whole(output, text)


@contextmanager
def _loading() -> Iterator[None]:
    """Spare what is loaded in this block Python's searches for cycles: all of it stays to the end.

    The last of them are made at that end; without, a short replay takes a fifth less.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def _progress(what: str, total: int | None = None, unit: str = " events") -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal once the work has lasted a second, and nothing on a pipe."""
    if not sys.stderr.isatty():
        yield lambda events: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, unit_scale=True, delay=1, leave=False) as bar:

        def advance(events: int) -> None:
            bar.update(events)

        yield advance


def _window(text: str | None, kind: type[int] | type[float], option: str) -> tuple[Any, Any] | None:
    if text is None:
        return None
    try:
        first, last = text.split(":")
        window = (kind(first) if first else None, kind(last) if last else None)
    except ValueError as error:
        raise click.UsageError(f"{option} {text}: expected A:B, A: or :B") from error
    return window


def _mapping(texts: tuple[str, ...]) -> dict[str, str]:
    """Return what --map says, our names before theirs."""
    found = {}
    for part in ",".join(texts).split(",") if texts else ():
        ours, equals, theirs = part.partition("=")
        if not (equals and ours.strip() and theirs.strip()):
            raise click.UsageError(f"--map {part}: expected OURS=THEIRS, such as object=ptr")
        found[ours.strip()] = theirs.strip()
    return found


def _numbers(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.UsageError(f"{option} {text}: expected numbers with commas between") from error


if __name__ == "__main__":
    main()
