"""Distributions of sizes: what ships, what a user may bring, and what may be wrong with that, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import harness

from harness import distributions
from harness.distributions import load, names
from harness.errors import HarnessError

FOLDER = Path(distributions.__file__).parent


def test_ten_published_distributions_ship():
    assert names() == [f"fleetbench-{number}" for number in range(10)]


@pytest.mark.parametrize("name", names())
def test_what_ships_says_where_it_comes_from_and_under_which_licence(name):
    comments = "".join(
        line for line in (FOLDER / f"{name}.csv").read_text().splitlines(True) if line.startswith("#")
    )
    assert "Source: github.com/google/fleetbench" in comments
    assert "Licence: Apache-2.0 (LICENSE-Apache-2.0 beside this file)" in comments
    assert "Apache License" in (FOLDER / "LICENSE-Apache-2.0").read_text()


@pytest.mark.parametrize("name", names())
def test_what_ships_has_a_thousand_sizes_with_weights_and_lives(name):
    found = load(name)
    assert len(found.sizes) == len(found.weights) == len(found.live_weights) > 900
    assert min(found.sizes) == 1
    assert min(found.weights) > 0
    assert min(found.live_weights) > 0


@pytest.mark.parametrize(
    "text",
    [
        "size,weight\n8,1\n16,2.5e3\n",
        "\ufeffsize,weight\r\n8,1\r\n16,2500\r\n",
        "# my service\n\nsize, weight\n  # the small ones\n8, 1\n12, 0\n16, 2500",
    ],
    ids=["plain", "as a spreadsheet writes it", "comments and blanks"],
)
def test_a_file_of_sizes_and_weights_is_read(tmp_path, text):
    path = tmp_path / "sizes.csv"
    path.write_text(text, encoding="utf-8")
    assert load(str(path)) == ([8, 16], [1.0, 2500.0], [])


def test_a_third_column_says_how_many_are_alive(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text("size,weight,live\n8,1,30\n12,0,0\n16,2,4\n")
    assert load(str(path)) == ([8, 16], [1.0, 2.0], [30.0, 4.0])


BAD = {
    "": "is empty, expected the header size,weight and a line a size",
    "# nothing\n": "is empty, expected the header size,weight and a line a size",
    "8,100\n": "line 1: found '8,100', expected the header size,weight or size,weight,live",
    "size,count\n8,1\n": "line 1: found 'size,count', expected the header size,weight or size,weight,live",
    "size,weight\n": "no size has a weight, expected one above 0",
    "size,weight\n8,0\n": "no size has a weight, expected one above 0",
    "size,weight\n# two\n8,1,2\n": "line 3: found 3 values in '8,1,2', expected 2: size,weight",
    "size,weight\n8\n": "line 2: found 1 values in '8', expected 2: size,weight",
    "size,weight\n8.5,1\n": "line 2: found size '8.5', expected whole bytes, 0 to 140737488355327",
    "size,weight\n-8,1\n": "line 2: found size '-8', expected whole bytes, 0 to 140737488355327",
    f"size,weight\n{2**47},1\n": "line 2: found size '140737488355328', expected whole bytes, 0 to",
    "size,weight\n8,many\n": "line 2: found weight 'many', expected 0 or a number from 1e-100 to 1e100",
    "size,weight\n8,-1\n": "line 2: found weight '-1', expected 0 or a number from 1e-100 to 1e100",
    "size,weight\n8,nan\n": "line 2: found weight 'nan', expected 0 or a number from 1e-100 to 1e100",
    "size,weight\n8,1e999\n": "line 2: found weight '1e999', expected 0 or a number from 1e-100 to 1e100",
    "size,weight\n8,1\n9,1\n8,2\n": "line 4: found size 8 again, which line 2 has; expected each once",
    "size,weight,live\n8,1,0\n": "line 2: found weight 1 and live 0, expected both above 0 or both 0",
    "size,weight\n"
    + "".join(f"{size},1\n" for size in range(65_535)): "found 65,535 sizes, expected 65,534 at",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=[message[:40] for message in BAD.values()])
def test_a_fault_in_a_file_names_the_line_and_what_was_expected(tmp_path, text, message):
    path = tmp_path / "sizes.csv"
    path.write_text(text)
    with pytest.raises(HarnessError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_file_that_is_not_there_or_no_text_is_said(tmp_path):
    with pytest.raises(HarnessError, match=r"none.csv: no such file, expected a CSV of size,weight"):
        load(str(tmp_path / "none.csv"))
    with pytest.raises(HarnessError, match=r"cannot be read: Is a directory"):
        load(f"{tmp_path}/")
    (tmp_path / "binary.csv").write_bytes(b"size,weight\n\xff\xfe,1\n")
    with pytest.raises(HarnessError, match=r"binary.csv: is not text"):
        load(str(tmp_path / "binary.csv"))


def test_on_the_command_line_it_is_one_line_and_leaves_no_file(tmp_path):
    (tmp_path / "sizes.csv").write_text("size,weight\n8,many\n")
    done = harness("generate", "-o", "t.parquet", "--events", "10", "--sizes", "sizes.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "harness: sizes.csv: line 2: found weight 'many', expected 0 or a number from 1e-100 to 1e100\n"
    )
    assert not (tmp_path / "t.parquet").exists()
