"""docs/gate.md says what the gate does, and it and action.yml tell CI what is valid and works."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import xmlschema
from ruamel.yaml import YAML
from support import harness, random_rows, write_trace

from harness.baseline import LIBRARY_METRICS, MODEL_METRICS
from harness.metrics import DEFINITIONS
from harness.thresholds import Thresholds

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gate.md").read_text()
YAMLS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
SHELLS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
ACTION = YAML(typ="safe").load((ROOT / "action.yml").read_text())


def test_the_example_of_a_gate_is_what_it_prints():
    ((command, shown),) = re.findall(r"`(harness check traces/[^`]*)`:\n\n```\n(.*?)^```", PAGE, re.M | re.S)
    done = harness(*shlex.split(command)[1:], cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == shown


def test_the_page_of_the_gate_has_its_metrics_and_thresholds():
    rows = re.findall(r"^\| (?:`(\w+)`)? \| (?:`(\w+)`)? \|$", PAGE, re.M)
    columns = [tuple(filter(None, column)) for column in zip(*rows, strict=True)]
    assert columns == [MODEL_METRICS, LIBRARY_METRICS]
    bytes_metric, ns_metric = (DEFINITIONS[name] for name in ("waste_bytes", "modelled_ns_per_event"))
    for case, name in (
        ("thresholds", "a model, the same trace"),
        ("new-traces", "a model, a trace recorded anew"),
        ("libraries", "a real library"),
    ):
        (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))
        for_bytes, for_ns = (Thresholds().of(metric, case) for metric in (bytes_metric, ns_metric))
        assert f"| {100 * for_bytes.relative:g} %, {for_bytes.absolute // 1024} KiB |" in row
        assert f"| {100 * for_ns.relative:g} %, {for_ns.absolute:g} ns |" in row
        assert row.endswith({"fail": "| fails |", "warn": "| warns |"}[for_bytes.severity])


def is_valid(schema, file):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "check_jsonschema", "--builtin-schema", schema, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout


def test_the_action_is_one():
    assert is_valid("vendor.github-actions", ROOT / "action.yml") == (True, "ok -- validation done\n")


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        *((text, "vendor.github-workflows") for text in YAMLS if "runs-on" in text),
        *((text, "vendor.gitlab-ci") for text in YAMLS if "image" in text),
    ],
    ids=["GitHub", "GitHub, recorded anew", "GitLab"],
)
def test_a_workflow_of_the_page_is_one(text, schema, tmp_path):
    (tmp_path / "ci.yml").write_text(text)
    valid, said = is_valid(schema, tmp_path / "ci.yml")
    assert valid, said


def test_a_workflow_that_is_none_is_noticed(tmp_path):
    (tmp_path / "ci.yml").write_text(YAMLS[0].replace("runs-on", "runs-upon"))
    assert not is_valid("vendor.github-workflows", tmp_path / "ci.yml")[0]


@pytest.mark.parametrize("text", [text for text in YAMLS if "OWNER/" in text])
def test_a_workflow_gives_the_action_what_it_takes(text):
    for job in YAML(typ="safe").load(StringIO(text))["jobs"].values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("OWNER/alloc-harness"):
                assert set(step["with"]) <= set(ACTION["inputs"])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a trace and its baseline."""
    folder = tmp_path_factory.mktemp("project")
    write_trace(folder / "a.parquet", random_rows(2000))
    assert harness("check", "--update", "a.parquet", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def checkout(project, tmp_path):
    """A copy of it, to change."""
    folder = tmp_path / "checkout"
    shutil.copytree(project, folder)
    return folder


def worsen(folder):
    """Change the baseline so that today's memory is worse."""
    content = json.loads((folder / "harness-baseline.json").read_text())
    content["traces"]["a.parquet"]["runs"]["go"]["metrics"]["peak_committed_bytes"] //= 2
    (folder / "harness-baseline.json").write_text(json.dumps(content, indent=1))


# Stands for GitHub's own: answers as if there were a comment, or none, and keeps what it is asked.
GH = """\
#!/bin/sh
echo "$*" >> "$RUNNER_TEMP/gh.log"
case "$*" in *--paginate*) printf '%s' "$FOUND_COMMENT";; esac
"""


class Runner:
    """Carries out the steps of the action as GitHub's runner does, those of other actions left out."""

    def __init__(self, folder, checkout, **inputs):
        self.temporary, self.checkout = folder / "temp", checkout
        self.inputs = {name: each.get("default", "") for name, each in ACTION["inputs"].items()} | inputs
        self.outputs = {}
        (self.temporary / "bin").mkdir(parents=True)
        (self.temporary / "bin" / "gh").write_text(GH)
        (self.temporary / "bin" / "gh").chmod(0o755)
        for name in ("summary", "output"):
            (self.temporary / name).touch()
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "RUNNER_TEMP": str(self.temporary),
            "GITHUB_STEP_SUMMARY": str(self.temporary / "summary"),
            "GITHUB_OUTPUT": str(self.temporary / "output"),
            "GITHUB_ACTIONS": "true",
            "PATH": f"{self.temporary / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *names, **variables):
        """Run steps by name; returns the last one's end."""
        for name in names:
            (step,) = (step for step in ACTION["runs"]["steps"] if step.get("name") == name)
            given = {key: self._value(text) for key, text in step.get("env", {}).items()}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=self.checkout,
                env=self.environment | given | variables,
                capture_output=True,
                text=True,
                check=False,
            )
            text = (self.temporary / "output").read_text()
            self.outputs = dict(line.split("=") for line in text.splitlines())
        return done

    def _value(self, text):
        known = {
            "inputs.package || github.action_path": str(ROOT),
            "github.repository": "me/mine",
            "github.event.pull_request.number": "7",
            "steps.check.outputs.status": self.outputs.get("status", ""),
        }
        known |= {f"inputs.{name}": value for name, value in self.inputs.items()}
        return re.sub(r"\$\{\{ (.*?) \}\}", lambda match: known[match[1]], text)


@pytest.fixture
def runner(tmp_path, checkout):
    """A runner with this environment's harness in the place of what it would install."""
    made = Runner(tmp_path, checkout)
    command = made.temporary / "harness" / "bin" / "harness"
    command.parent.mkdir(parents=True)
    command.write_text(
        f'#!/bin/sh\nexec {sys.executable} -P -c "from harness.cli import main; main()" "$@"\n'
    )
    command.chmod(0o755)
    return made


def test_the_action_passes_where_nothing_got_worse(runner):
    done = runner.run("Check")
    assert (done.returncode, done.stderr) == (0, "")
    assert runner.outputs == {"status": "0"}
    assert (runner.temporary / "summary").read_text().startswith("### harness-baseline.json: no regressions")
    assert runner.run("Verdict").returncode == 0


def test_the_action_fails_where_memory_got_worse_and_says_so_everywhere(runner):
    worsen(runner.checkout)
    done = runner.run("Check")
    assert done.returncode == 0, "the comment and the summary come before the verdict"
    assert "::error file=harness-baseline.json,line=" in done.stdout
    summary = (runner.temporary / "summary").read_text()
    assert "| a.parquet | go " in re.sub(" +", " ", summary)
    xmlschema.XMLSchema(str(ROOT / "tests" / "junit.xsd")).validate(
        str(runner.checkout / "harness-check.xml")
    )
    assert runner.run("Verdict").returncode == 1


def test_the_action_fails_where_there_is_no_baseline_and_annotates_why(runner):
    (runner.checkout / "harness-baseline.json").unlink()
    done = runner.run("Check")
    assert done.stdout.startswith(
        "::error title=harness check::harness: harness-baseline.json: no such baseline"
    )
    assert runner.run("Verdict").returncode == 2


def test_the_action_takes_a_baseline_and_arguments(runner):
    (runner.checkout / "harness-baseline.json").rename(runner.checkout / "my base.json")
    (runner.checkout / "new").mkdir()
    runner.inputs |= {
        "baseline": "my base.json",
        "record": "cp a.parquet new/; harness --version",
        "arguments": "--new-traces new/*.parquet",
    }
    assert runner.run("Record").returncode == 0
    done = runner.run("Check")
    assert done.returncode == 0
    assert done.stdout.startswith("my base.json: no regressions")


def test_the_action_fails_where_the_recording_does(runner):
    runner.inputs["record"] = "false\ntrue"
    assert runner.run("Record").returncode == 1


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        ("", "api --silent -X POST repos/me/mine/issues/7/comments -F"),
        ("41\n42\n", "api --silent -X PATCH repos/me/mine/issues/comments/41 -F"),
    ],
    ids=["the first", "the same again"],
)
def test_the_action_keeps_one_comment(runner, found, asked):
    done = runner.run("Check", "Comment", FOUND_COMMENT=found)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (runner.temporary / "gh.log").read_text().splitlines()
    assert first.startswith("api --paginate repos/me/mine/issues/7/comments --jq")
    assert second == f"{asked} body=@{runner.temporary}/harness-check.comment"
    comment = (runner.temporary / "harness-check.comment").read_text()
    assert comment.startswith("<!-- harness check -->\n### harness-baseline.json")


@pytest.mark.slow
def test_the_action_and_the_shell_script_install_what_they_run(tmp_path, checkout):
    made = Runner(tmp_path, checkout)
    done = made.run("Install")
    assert done.returncode == 0, done.stderr
    assert made.run("Check", "Verdict").returncode == 0
    (script,) = (text for text in SHELLS if text.startswith("#!/bin/sh"))
    # What pip has just built, instead of a second compilation.
    wheel = subprocess.run(
        [made.temporary / "harness" / "bin" / "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wheel.returncode == 0, wheel.stderr
    (package,) = tmp_path.glob("*.whl")
    worsen(checkout)
    for _ in range(2):  # A second time in the same folder, too.
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=checkout,
            env=os.environ | {"HARNESS_PACKAGE": str(package)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert (checkout / "harness-check.md").exists()


def test_the_gitlab_job_leaves_what_it_reports(checkout):
    (text,) = (text for text in YAMLS if "image" in text)
    job = YAML(typ="safe").load(StringIO(text))["memory"]
    (command,) = (line for line in job["script"] if line.startswith("harness "))
    assert harness(*command.split()[1:], cwd=checkout).returncode == 0
    for file in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (checkout / file).exists()
