"""`harness explain`: what it measures with, how it prints, what it refuses, and what its page says."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from python_ideal import PythonIdeal
from support import harness

from harness.allocator import Spec, find
from harness.errors import AllocatorError, HarnessError
from harness.explanation import MEANINGS, Explanation, Number, Step, counted, explain, number
from harness.explanation import Path as Way
from harness.explanation_report import explanations
from harness.probe import Probe, habits, neighbours

PAGE = (Path(__file__).parent.parent / "docs" / "explain.md").read_text()
EXAMPLES = re.findall(r"^```\n\$ (harness explain .*?)\n(.*?)^```", PAGE, re.M | re.S)


class Steps(PythonIdeal):
    """Third parties' own: slots of whole 16 bytes, a number and a step that nobody else has."""

    version = "7"

    def explain(self, size, *, alignment, noscan):
        slot = -(-size // 16) * 16
        return Explanation(
            (
                number("requested_bytes", size),
                Number("colour", "text", "its colour", "red" if noscan else "blue"),
                number("slot_bytes", slot),
                number("largest_bytes", None),
                number("first_tier", "page heap"),
                number("second_tier", "page heap"),
            ),
            (
                Way(
                    "a walk",
                    (Step((), f"takes {counted(slot, 'byte')}."), Step(("walk",), "walks.", "page heap")),
                ),
            ),
        )


def values_of(allocator, size, **request):
    (found,) = explain(find(allocator), [size], **request)
    return found.explanation.values()


def steps():
    return Spec("steps", Steps, {})


class TestReport:
    def test_a_number_of_one_allocator_stands_where_it_has_it_and_is_a_dash_for_the_others(self):
        text = explanations(explain([*find("ideal"), steps()], [24]), "table")
        rows = {line[:30].strip(): line.split()[-2:] for line in text.splitlines()[4:]}
        assert rows["its colour"] == ["-", "blue"]
        assert [name for name in rows if name][:3] == ["asked for", "its colour", "slot"]

    def test_what_cannot_be_known_is_a_dash(self):
        text = explanations(explain([steps()], [24]), "table")
        assert re.search(r"^largest request for such a slot +-$", text, re.M)

    def test_a_path_is_numbered_and_names_its_functions_and_who_comes_so_far(self):
        text = explanations(explain([steps()], [24], noscan=True), "table")
        assert text.endswith(
            "steps: a walk\n\n  1. takes 32 bytes.\n  2. walk: walks. The first two allocations end here.\n"
        )
        assert text.startswith("24 bytes, without pointers (noscan)\n")

    def test_several_sizes_have_a_row_each_and_no_path(self):
        text = explanations(explain([steps(), *find("ideal")], [24, 40]), "table")
        assert len(re.findall(r"^ +(?:24|40) B ", text, re.M)) == 4
        assert text.index("\nsteps\n") < text.index("\nideal\n")
        assert "walk" not in text

    def test_one_size_twice_is_one_size(self):
        assert "a walk" in explanations(explain([steps()], [24, 24]), "table")

    def test_json_holds_every_number_and_step(self):
        (found,) = json.loads(explanations(explain([steps()], [24], alignment=64), "json"))["explanations"]
        assert found["numbers"]["slot_bytes"] == 32
        assert found["numbers"]["largest_bytes"] is None
        assert (found["allocator"], found["version"], found["alignment"]) == ("steps", "7", 64)
        assert found["paths"][0]["steps"][1] == {"functions": ["walk"], "text": "walks.", "tier": "page heap"}

    def test_csv_has_a_row_for_each_size_and_allocator(self):
        text = explanations(explain([steps(), *find("ideal")], [24, 40]), "csv")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [(row["allocator"], row["slot_bytes"]) for row in rows] == [
            ("steps", "32"),
            ("ideal", "24"),
            ("steps", "48"),
            ("ideal", "40"),
        ]

    @pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (1, "1 byte"), (8192, "8,192 bytes")])
    def test_counts_have_their_noun(self, count, text):
        assert counted(count, "byte") == text


class TestProbe:
    """On a backend in plain Python without counters, classes or addresses."""

    def test_says_who_holds_the_bytes(self):
        probe = Probe(PythonIdeal(), 100, alignment=0, noscan=False)
        assert probe.allocate(3).parts["live"] == 300
        assert probe.free([0, 2]).parts["live"] == -200
        assert probe.collect().parts["live"] == 0

    def test_knows_no_tier_where_nothing_is_counted(self):
        outcome = Probe(PythonIdeal(), 100, alignment=0, noscan=False).allocate()
        assert (outcome.tier, outcome.front_end_share, outcome.size_class, outcome.addresses) == (
            None,
            0.0,
            None,
            [],
        )

    def test_habits_without_counters_are_unknown(self):
        found = habits(
            lambda: Probe(PythonIdeal(), 8, alignment=0, noscan=False), warm_up_objects=0, objects=4
        )
        values = {each.name: each.value for each in found}
        assert values["first_tier"] is values["freed_to"] is values["is_reused_at_once"] is None

    def test_neighbours_of_an_exact_slot(self):
        found = neighbours(
            lambda size: Probe(PythonIdeal(), size, alignment=0, noscan=False).allocate(),
            lambda outcome: outcome.parts["live"],
            24,
            24,
        )
        assert [each.value for each in found] == [24, 25, 1]


def test_the_default_is_go_beside_tcmalloc():
    done = harness("explain", "24")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].split() == ["go", "tcmalloc"]
    for function in ("mallocgc", "mcache.refill", "do_malloc", "PageHeap::New"):
        assert function in done.stdout


@pytest.mark.parametrize(("text", "size"), [("32KiB", 32_768), ("0", 0), ("1MiB", 1 << 20)])
def test_a_size_may_have_a_unit(text, size):
    found = json.loads(harness("explain", text, "--format", "json").stdout)
    assert {each["numbers"]["requested_bytes"] for each in found["explanations"]} == {size}


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "json", "csv"])
@pytest.mark.parametrize("sizes", [("24",), ("24", "40000")])
def test_every_format_names_every_allocator(form, sizes):
    done = harness("explain", *sizes, "-a", "ideal", "-a", "go:version=1.22|1.27", "--format", form)
    assert done.returncode == 0, done.stderr
    assert "ideal" in done.stdout
    assert done.stdout.count("1.22") >= 1


def test_output_goes_to_a_file(tmp_path):
    assert harness("explain", "24", "--output", str(tmp_path / "found.txt")).stdout == ""
    assert "mallocgc" in (tmp_path / "found.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-5"], "SIZE -5: expected bytes from 0 on"),
        (["1.5KiB"], "SIZE 1.5KiB: expected bytes from 0 on, as 24, or with a unit, as 32KiB"),
        (["128TiB"], "a size of 140737488355328 bytes; expected 0 or more and less than 2^47"),
        (["24", "--align", "48"], "an alignment of 48 bytes; expected a power of two"),
        (["24", "--align", "-8"], "--align -8: expected bytes from 0 on"),
        (
            ["24", "--align", "4GiB"],
            "an alignment of 4294967296 bytes; expected a power of two, at most 2^31",
        ),
        (["24", "-a", "glibc"], "glibc does not explain itself; those that do: go, ideal, tcmalloc"),
        (["24", "-a", "go:version=1.5"], "go: version=1.5 is not understood"),
        (["8TiB"], "go: the model's heap has no room for an object of 8796093022208 bytes"),
        (["2MiB", "-a", "tcmalloc:heap_limit_mb=1"], "tcmalloc: the model's heap has no room"),
        (["--nosacn", "24"], "No such option"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_explained_is_one_line(arguments, message):
    done = harness("explain", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_an_allocator_that_has_no_memory_says_so_in_python_too():
    with pytest.raises(AllocatorError, match="no room"):
        values_of("go", 1 << 43)
    with pytest.raises(HarnessError, match="power of two"):
        values_of("go", 1, alignment=3)


class TestPage:
    @pytest.mark.parametrize(("command", "printed"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
    def test_its_examples_are_what_the_commands_print(self, command, printed):
        assert harness(*shlex.split(command)[1:]).stdout == printed

    def test_it_has_examples(self):
        assert len(EXAMPLES) == 2

    def test_it_says_what_every_number_is(self):
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", PAGE, re.M)
        assert rows == [(name, meaning.unit, meaning.text) for name, meaning in MEANINGS.items()]

    def test_models_give_their_numbers_in_the_order_of_the_page(self):
        for allocator in ("go", "tcmalloc", "ideal"):
            for size in (0, 5, 24, 513, 300_000):
                names = list(values_of(allocator, size))
                assert names == [name for name in MEANINGS if name in names]
