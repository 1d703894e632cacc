"""Makes docs/metrics.md from the definitions that compute the numbers: python -m harness.metrics_page."""

from __future__ import annotations

from collections.abc import Sequence

import tabulate

from harness import metrics

_HEAD = """\
# Metrics: names and formulas

This page is made from the definitions that compute the numbers:
`python -m harness.metrics_page > docs/metrics.md`.

At an event, R (`requested`) is what the program asked for and still holds. The parts of the footprint say
who holds each mapped byte:

{parts}

V (`mapped`) = A + D + F + T + C + W + H + U + N, and P (`committed`) = V - U. The *peak* is the first event
of most committed bytes. Maxima, means and sums are over all events, not over samples; a real library, which
can be asked at samples only, says so in a note. A ratio over nothing is null, and so is what nobody knows: R,
and all that is reckoned from it, where a [trace](reference/traces.md#what-a-trace-may-not-know) has sizes
from size classes alone.

# A run's summary

"Better" is what `harness compare` says of a change; what has none describes the program or a way of working.
"""

_CLASSES = """\
# A size class

`classes` of a run has a row for each class in use (Go: scan and noscan apart), at the sample with the most
committed bytes; with a census (`harness replay --census`, `harness waste`) at the peak itself. Then the sums
over classes are the footprint's parts exactly, but for what no class holds: the page heap, the free pages of
page caches, the runtime's own.

{columns}

# A sample

{samples}
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [[letter, f"`{column.name}`", column.meaning] for letter, column in metrics.FOOTPRINT.items()]
    texts = [_HEAD.format(parts=_table(parts, ["", "part", "who holds the byte"]))]
    for heading, group in metrics.GROUPS.items():
        rows = [
            [f"`{metric.name}`", metric.unit, metric.better or "", metric.formula, metric.note]
            for metric in group
        ]
        texts.append(f"## {heading}\n\n{_table(rows, ['metric', 'unit', 'better', 'formula', ''])}\n")
    texts.append(
        _CLASSES.format(columns=_columns(metrics.CLASS_COLUMNS), samples=_columns(metrics.SAMPLE_COLUMNS))
    )
    return "\n".join(texts)


def _columns(columns: Sequence[metrics.Column]) -> str:
    rows = [[f"`{column.name}`", column.unit, column.meaning] for column in columns]
    return _table(rows, ["column", "unit", ""])


def _table(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    # Not by report.table, which takes cells for names, where a mark is no mark.
    return tabulate.tabulate(rows, headings, "github", disable_numparse=True)


if __name__ == "__main__":
    print(page(), end="")
