"""Results as a folder to be read and kept under version control: a table over all traces, a page each.

Nothing that differs from machine to machine stands in it: models alone can be published, with the tables of
costs that ship, and whoever replays the same traces gets the same bytes. `harness compare` reads run.json as
that of a run directory; size classes stand in classes.csv, which is a third as long as they are in JSON.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from harness import metrics, report
from harness.allocator import DEFAULT_ALLOCATORS, Spec
from harness.errors import HarnessError
from harness.results import RUN_FILE, Environment, Run, TraceRuns, to_json, write_whole

# Who holds what is committed and was not asked for, beside what is lost within objects.
_HOLDERS = [column.name for column in metrics.FOOTPRINT.values() if column.name not in ("live", "released")]

# The first line of every page, by which a page that was published before is known from somebody's own file.
MARK = "<!-- Written by `harness replay --publish`; what is changed by hand is lost the next time. -->"

_README = "README.md"
_CLASSES = "classes.csv"


def check(directory: str, traces: Sequence[str], specs: Sequence[Spec]) -> None:
    """Raise HarnessError where the results of a replay could not be published, before it is done."""
    for spec in specs:
        if getattr(spec.factory, "kind", "model") != "model":
            raise HarnessError(
                f"--publish: {spec.label} is measured and differs from machine to machine; choose models"
            )
    for name, count in Counter(_page(trace).lower() for trace in traces).items():
        if count > 1 or name == _README.lower():
            raise HarnessError(f"--publish: a page {name} is there already; give the trace another name")
    folder = Path(directory)
    if not folder.parent.is_dir():
        raise HarnessError(f"{directory}: cannot be written: there is no folder {folder.parent}")
    if folder.exists() and not folder.is_dir():
        raise HarnessError(f"{directory}: cannot be written: it is a file, not a folder")
    readme = folder / _README
    is_foreign = not _is_ours(readme) if readme.exists() else folder.exists() and any(folder.iterdir())
    if is_foreign:
        raise HarnessError(
            f"{directory}: holds something else than published results; choose a new or an empty folder"
        )


def publish(directory: str, results: Sequence[TraceRuns], noscan: str | None) -> None:
    """Write results into a folder, in place of those that were published there before.

    Each file appears whole; pages of traces that are not among the results go. HarnessError where one cannot
    be written.
    """
    folder = Path(directory)
    written = files(results, folder.resolve().name, noscan)
    try:
        folder.mkdir(exist_ok=True)
        for page in folder.glob("*.md"):
            if page.name not in written and _is_ours(page):
                page.unlink()
    except OSError as error:
        raise HarnessError(f"{directory}: cannot be written: {error.strerror or error}") from error
    for name, text in written.items():
        write_whole(str(folder / name), text)


def files(results: Sequence[TraceRuns], folder: str, noscan: str | None) -> dict[str, str]:
    """Return the text of every file by its name; `folder` is the name of the one that they are for."""
    bare = [
        replace(each, runs=[replace(run, classes=[], samples={}, stats_text=None) for run in each.runs])
        for each in results
    ]
    everywhere = Environment(python="any", platform="any", processor="any", cores=None)
    classes = [
        {"trace": each.trace["path"], "run": run.label, **row}
        for each in results
        for run in each.runs
        for row in run.classes
    ]
    return {
        _README: _readme(results, everywhere, folder, noscan),
        **{_page(each.trace["path"]): _trace_page(each) for each in results},
        RUN_FILE: to_json(bare, everywhere, samples=False) + "\n",
        _CLASSES: report.rows_csv(classes),
    }


def _page(trace: str) -> str:
    return f"{PurePath(trace).stem}.md"


def _is_ours(page: Path) -> bool:
    with page.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().rstrip("\n") == MARK


def _readme(results: Sequence[TraceRuns], environment: Environment, folder: str, noscan: str | None) -> str:
    runs = {run.label: run for each in results for run in each.runs}
    allocators = [
        report.prose("markdown", f"{label}: {run.version}, {run.description}{_costs_text(run)}")
        for label, run in runs.items()
    ]
    traces = [
        f"- [{report.prose('markdown', PurePath(each.trace['path']).stem)}](<{_page(each.trace['path'])}>): "
        + report.prose("markdown", f"{each.trace['events']:,} events, {each.trace['digest']}")
        for each in results
    ]
    parts = [
        MARK,
        "# Results",
        "What models of allocators make of recorded programs. The same traces and version give the same "
        f"bytes on every machine; alloc-harness {environment.harness} wrote this folder:",
        f"```sh\n{_command(results, runs, folder, noscan)}\n```",
        "Fragmentation is committed / requested bytes: the peaks of both, the means of both. The columns "
        "behind it are shares of what is committed at its peak, and add up to 100 %: what the program asked "
        "for, rounding and headers, and what each tier holds. Times are modelled.",
        _summary(results),
        "\n".join(f"- {text}" for text in allocators),
        "The traces, with a page each:",
        "\n".join(traces),
        f"`{RUN_FILE}` holds every number in bytes, and is what `harness compare {folder} OTHER` reads; "
        f"`{_CLASSES}` has a row for each size class of each run.",
    ]
    return "\n\n".join(parts) + "\n"


def _trace_page(result: TraceRuns) -> str:
    trace = result.trace
    parts = [
        MARK,
        f"# {report.prose('markdown', PurePath(trace['path']).stem)}",
        f"{trace['digest']}. [All traces]({_README})",
        # Without the speed of the replay, which is another every time.
        report.comparison([result], Environment(), "markdown"),
    ]
    return "\n\n".join(parts)


def _costs_text(run: Run) -> str:
    table = (run.timing or {}).get("cost_table")
    return f" Times by the costs of {table}." if table else ""


def _command(results: Sequence[TraceRuns], runs: Mapping[str, Run], folder: str, noscan: str | None) -> str:
    """Return the command that writes the folder again, from beside it."""
    paths = [each.trace["path"] for each in results]
    within = {os.path.dirname(path) for path in paths}
    traces = " ".join(map(shlex.quote, paths))
    if len(paths) > 1 and len(within) == 1 and all(path.endswith(".parquet") for path in paths):
        traces = shlex.quote(within.pop() or ".") + "/*.parquet"
    labels = [] if list(runs) == list(DEFAULT_ALLOCATORS) else [f"-a {shlex.quote(label)}" for label in runs]
    others = [f"--noscan {noscan}"] if noscan is not None else []
    return " ".join(["harness replay", traces, *labels, *others, f"--publish {shlex.quote(folder)}"])


def _summary(results: Sequence[TraceRuns]) -> str:
    """Return one table over all traces: fragmentation, where the memory is, time."""
    headings = ["trace", "allocator", "peak requested", "peak / peak", "mean / mean", "requested", "rounding"]
    headings += [name.replace("_", " ") for name in _HOLDERS]
    rows = [_summary_row(each, run) for each in results for run in each.runs]
    return report.table(rows, [*headings, "ns an event"], "markdown", left=2)


def _summary_row(result: TraceRuns, run: Run) -> list[str]:
    summary, peak = run.summary, run.footprint["peak"]
    committed, internal = summary["peak_committed_bytes"], summary["internal_waste_bytes"]
    requested = None if peak["live"] is None or internal is None else peak["live"] - internal
    held: list[Any] = [requested, internal, *(peak[name] for name in _HOLDERS)]
    return [
        PurePath(result.trace["path"]).stem,
        run.label,
        report.bytes_text(summary["peak_requested_bytes"]),
        report.ratio_text(summary["fragmentation_peak_ratio"]),
        report.ratio_text(summary["fragmentation_mean"]),
        *(report.percent_text(metrics.ratio(value, committed)) for value in held),
        report.ns_text(summary["modelled_ns_per_event"]),
    ]
