"""Whether memory got worse: numbers held against a baseline."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from gate_support import result, run

from harness import baseline, gate
from harness.errors import HarnessError
from harness.thresholds import Thresholds

MEAN = "mean_committed_bytes"
MIB = 1 << 20


def kept(*results, **options):
    return baseline.make("base.json", results, **options)


def verdicts_of(before, after, **options):
    checked = gate.check_runs(kept(result(run(**before))), [result(run(**after))], **options)
    assert checked.faults == []
    return {change.row.name: change.verdict for change in checked.changes}


def test_equal_numbers_are_equal():
    checked = gate.check_runs(kept(result(run(**{MEAN: MIB}))), [result(run(**{MEAN: MIB}))])
    assert [change.verdict for change in checked.changes] == ["equal"]
    assert checked.status == 0


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (8 * MIB + 8389, "regression"),  # A thousandth of 8 MiB is 8388.6 bytes.
        (8 * MIB + 8388, "worse"),
        (8 * MIB - 8388, "better"),
        (8 * MIB - 8389, "improvement"),
    ],
)
def test_more_memory_than_a_thousandth_is_a_regression_and_less_an_improvement(after, verdict):
    assert verdicts_of({MEAN: 8 * MIB}, {MEAN: after}) == {MEAN: verdict}


@pytest.mark.parametrize(("after", "verdict"), [(8192, "worse"), (8193, "regression")])
def test_up_to_a_page_is_nothing_however_large_a_share_it_is(after, verdict):
    assert verdicts_of({MEAN: 4096}, {MEAN: after}) == {MEAN: verdict}


def test_less_of_what_should_be_more_is_a_regression():
    name = "front_end_hit_rate"
    before, after = (kept(result(run(**{name: share})), chosen=(name,)) for share in (0.99, 0.9))
    assert gate.check_runs(before, [result(run(**{name: 0.9}))]).regressions[0].row.name == name
    assert gate.check_runs(after, [result(run(**{name: 0.99}))]).improvements[0].row.name == name


def test_what_only_describes_is_never_judged():
    assert verdicts_of({"peak_requested_bytes": 1}, {"peak_requested_bytes": MIB}) == {
        "peak_requested_bytes": "changed"
    }


def test_a_count_that_was_none_may_not_become_one():
    assert verdicts_of({"failed_allocations": 0}, {"failed_allocations": 1}) == {
        "failed_allocations": "regression"
    }


@pytest.mark.parametrize(("severity", "verdict"), [("warn", "warning"), ("ignore", "changed")])
def test_a_project_may_be_warned_only_or_not_told(severity, verdict):
    said = Thresholds({"thresholds": {MEAN: {"severity": severity}}})
    assert verdicts_of({MEAN: MIB}, {MEAN: 2 * MIB}, thresholds=said) == {MEAN: verdict}
    checked = gate.check_runs(kept(result(run(**{MEAN: MIB}))), [result(run(**{MEAN: 2 * MIB}))], said)
    assert checked.status == 0


def test_another_trace_of_the_same_name_is_no_comparison():
    checked = gate.check_runs(kept(result(run())), [result(run(), digest="sha256:2")])
    assert checked.status == 2
    (fault,) = checked.faults
    assert "a.parquet: holds another trace than base.json is of (sha256:2, expected sha256:1)" in str(fault)
    assert "--new-traces" in str(fault)


def test_a_trace_that_was_recorded_anew_has_wider_thresholds():
    before = kept(result(run(**{MEAN: 100 * MIB})))
    for mean, verdict in ((102 * MIB, "worse"), (104 * MIB, "regression")):
        now = [result(run(**{MEAN: mean}), digest="sha256:2")]
        (change,) = gate.check_runs(before, now, new_traces=True).changes
        assert change.verdict == verdict


def test_a_trace_is_known_by_its_path_its_content_or_its_name():
    before = kept(result(run(**{MEAN: 1})), result(run(**{MEAN: 2}), path="b.parquet", digest="sha256:2"))
    for path, digest, mean in (
        ("b.parquet", "sha256:1", 2),
        ("elsewhere.parquet", "sha256:2", 2),
        ("new/a.parquet", "sha256:3", 1),
    ):
        now = [result(run(**{MEAN: mean}), path=path, digest=digest)]
        (change,) = gate.check_runs(before, now, new_traces=True).changes
        assert change.verdict == "equal"
    checked = gate.check_runs(before, [result(run(), path="c.parquet", digest="sha256:9")])
    assert "c.parquet: base.json has no such trace; it has a.parquet, b.parquet" in str(checked.faults[0])


def test_traces_without_a_digest_are_known_by_their_totals():
    before = kept(result(run(), digest=None))
    assert gate.check_runs(before, [result(run(), digest=None)]).status == 0
    assert gate.check_runs(before, [result(run(), digest=None, events=10)]).status == 2


def test_other_options_of_one_allocator_are_compared_and_said():
    before = kept(result(run("go", options={"gogc": 100}, **{MEAN: MIB})))
    checked = gate.check_runs(before, [result(run("go:gogc=50", options={"gogc": 50}, **{MEAN: MIB}))])
    assert [(change.label, change.kept_label) for change in checked.changes] == [("go:gogc=50", "go")]
    assert checked.notes == ["go:gogc=50 against go: options differ: gogc 100 -> 50"]


def test_of_several_runs_of_an_allocator_the_one_with_its_defaults_is_compared():
    before = kept(result(run("go", **{MEAN: 1}), run("go:gogc=50", **{MEAN: 2})))
    checked = gate.check_runs(
        before, [result(run("go:gogc=20", **{MEAN: 1}), run("go:gogc=10", **{MEAN: 1}))]
    )
    assert [(change.kept_label, change.verdict) for change in checked.changes] == [("go", "equal")] * 2


def test_an_allocator_that_the_baseline_does_not_have_is_a_fault():
    checked = gate.check_runs(kept(result(run("go"))), [result(run("go"), run("slab"))])
    assert "a.parquet: the baseline has no slab; it has go" in str(checked.faults[0])


def test_another_version_of_an_allocator_is_said():
    checked = gate.check_runs(kept(result(run())), [result(replace(run(), version="2"))])
    assert checked.notes == ["model: versions differ: 1 in the baseline, 2 now"]


def test_a_number_that_is_unknown_now_is_a_fault():
    checked = gate.check_runs(kept(result(run(**{MEAN: 1}))), [result(run(**{MEAN: None}))])
    assert f"{MEAN} is unknown now" in str(checked.faults[0])


def test_a_run_that_failed_is_a_fault():
    checked = gate.check_runs(kept(result(run())), [result(replace(run(), failure="it crashed"))])
    assert "a.parquet: it crashed" in str(checked.faults[0])


NS = "measured_ns_per_event"


def library(*times):
    return [result(run("real", kind="library", **{NS: time})) for time in times]


def measured(before, after, **options):
    (change,) = gate.check_runs(
        kept(*library(*before), processor="a chip"), library(*after), processor="a chip", **options
    ).changes
    return change


def test_times_that_are_apart_are_a_warning():
    change = measured([10.0, 10.1, 10.2, 10.3, 10.4], [12.0, 12.1, 12.2, 12.3, 12.4])
    assert change.verdict == "warning"
    assert (change.row.a, change.row.b) == (10.2, 12.2)
    assert change.probability == pytest.approx(2 / 252)  # Two of the 252 orders are as far apart.


def test_times_that_are_apart_fail_where_a_project_says_so():
    said = Thresholds({"libraries": {NS: {"severity": "fail"}}})
    assert measured([10.0, 10.1, 10.2, 10.3, 10.4], [12.0] * 5, thresholds=said).verdict == "regression"


def test_times_that_chance_explains_are_no_difference():
    change = measured([10.0, 11.0, 12.0, 13.0, 14.0], [11.5, 12.5, 13.5, 14.5, 15.5])
    assert change.verdict == "~"


def test_three_repetitions_tell_nothing_from_chance():
    checked = gate.check_runs(kept(*library(1.0, 1.1, 1.2)), library(9.0, 9.1, 9.2))
    assert [change.verdict for change in checked.changes] == ["~"]
    assert checked.notes == ["real: fewer than 5 repetitions: nothing can be told from chance"]


def test_times_of_another_processor_are_not_compared():
    before = kept(*library(*[10.0] * 5), processor="a chip")
    checked = gate.check_runs(before, library(*[20.0] * 5), processor="another")
    assert checked.changes == []
    assert "times are of another processor than the baseline's, a chip" in checked.notes[0]


def test_equal_measurements_are_equal():
    assert measured([10.0] * 5, [10.0] * 5).verdict == "equal"


def test_without_scipy_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(HarnessError, match=r"pip install 'alloc-harness\[statistics\]'"):
        measured([1.0] * 5, [2.0] * 5)
