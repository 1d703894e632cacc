"""How much worse is worse: the defaults, and what a project says."""

from __future__ import annotations

import pytest

from harness import metrics
from harness.errors import HarnessError
from harness.thresholds import Threshold, Thresholds, configuration

MEAN = metrics.DEFINITIONS["mean_committed_bytes"]
TIME = metrics.DEFINITIONS["measured_ns_per_event"]


def test_a_worsening_must_be_beyond_the_share_and_beyond_the_amount():
    threshold = Threshold(0.01, 100)
    assert threshold.allowed(1_000) == 100
    assert threshold.allowed(1_000_000) == 10_000
    assert threshold.allowed(0) == 100


def test_a_model_on_the_same_trace_has_a_thousandth_and_a_page():
    assert Thresholds().of(MEAN, "thresholds") == Threshold(0.001, 4096, "fail")


def test_a_real_library_warns_unless_one_says_otherwise():
    assert Thresholds().of(TIME, "libraries").severity == "warn"
    said = Thresholds({"libraries": {"*": {"severity": "fail"}}})
    assert said.of(TIME, "libraries").severity == "fail"
    assert said.of(TIME, "libraries").relative == Thresholds().of(TIME, "libraries").relative


def test_every_metric_has_a_threshold_in_every_case():
    for metric in metrics.DEFINITIONS.values():
        for case in ("thresholds", "new-traces", "libraries"):
            assert Thresholds().of(metric, case).relative > 0


def test_a_project_says_it_in_its_pyproject(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.harness.check]\nbaseline = "ci/base.json"\nmetrics = ["waste_bytes"]\n'
        '[tool.harness.check.thresholds]\n"*" = { relative = 0.5 }\n'
        'mean_committed_bytes = { absolute = "64KiB", severity = "warn" }\n'
    )
    monkeypatch.chdir(tmp_path / "sub")
    found = configuration()
    assert found.baseline == "../ci/base.json"
    assert found.metrics == ("waste_bytes",)
    assert found.thresholds.of(MEAN, "thresholds") == Threshold(0.5, 65536, "warn")
    assert found.thresholds.of(MEAN, "new-traces") == Thresholds().of(MEAN, "new-traces")


def test_a_nearer_pyproject_without_a_table_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.harness.check]\nbaseline = "base.json"\n')
    (tmp_path / "sub" / "pyproject.toml").write_text("[project]\n")
    monkeypatch.chdir(tmp_path / "sub")
    assert configuration().baseline == "../base.json"


def test_a_file_of_its_own_needs_no_table(tmp_path):
    file = tmp_path / "gate.toml"
    file.write_text("[thresholds]\nmean_committed_bytes = { relative = 0.2 }\n")
    assert configuration(str(file)).thresholds.of(MEAN, "thresholds").relative == 0.2


WRONG = {
    "an unknown table": ("limits = 1", "'limits' is nothing that a gate has"),
    "an unknown metric": ("[thresholds]\nspeed = { relative = 1 }", "'speed' is no metric"),
    "an unknown key": ("[thresholds]\nwaste_bytes = { percent = 1 }", "thresholds.waste_bytes.percent = 1"),
    "a number alone": ("[thresholds]\nwaste_bytes = 0.1", "expected a table, as"),
    "less than nothing": ("[libraries]\n'*' = { relative = -1 }", r"libraries\.\*\.relative = -1"),
    "no size": ("[thresholds]\n'*' = { absolute = '5 kB' }", "'5 kB' is no size"),
    "another severity": ("[thresholds]\n'*' = { severity = 'loud' }", "fail, warn, ignore"),
    "no table": ("thresholds = 1", "expected a table of metrics"),
    "no list": ("metrics = 'waste_bytes'", "expected a list of names"),
    "no metric": ("metrics = ['speed']", "'speed' is no metric"),
    "no path": ("baseline = 1", "expected a path"),
    "no TOML": ("=", "is no TOML"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_not_understood_is_said_in_one_line(tmp_path, text, message):
    file = tmp_path / "gate.toml"
    file.write_text(text)
    with pytest.raises(HarnessError, match=message) as raised:
        configuration(str(file))
    assert str(raised.value).startswith(str(file))


def test_a_file_that_is_not_there_is_said_in_one_line(tmp_path):
    with pytest.raises(HarnessError, match=r"gone\.toml: cannot be read"):
        configuration(str(tmp_path / "gone.toml"))
