"""The documentation site builds without a warning and without a network, and its reference is the code."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys

import click
import jsonschema
import pytest
from docs_pages import DOCS, ROOT
from support import harness, write_trace

from harness import reference_pages, trace
from harness.allocator import find, options_of, registered
from harness.cli import cli

# A name is looked up before anything can be fetched by it.
OFFLINE = """
import socket, sys
def refuse(*arguments, **named):
    raise OSError(f"the build asked for the network: {arguments}")
socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-c", OFFLINE, "build", "--strict", "--quiet", "-d", folder]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_no_page_takes_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        taken = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(https?:[^"]*)"', page.read_text()
        )
        assert not taken, page
    assert "fonts.googleapis" not in "".join(sheet.read_text() for sheet in site.rglob("*.css"))


def test_every_page_of_docs_is_on_the_site_and_none_of_its_marks_is_left(site):
    for page in DOCS.rglob("*.md"):
        made = site / page.relative_to(DOCS).with_suffix(".html")
        assert not re.search("<!-- (include|generate|site):", made.read_text()), page
        assert ":::" not in text_of(made), page


def test_what_docs_links_to_outside_of_itself_is_on_the_site(site):
    assert "aggressive_decommit" in text_of(site / "repository" / "allocators" / "tcmalloc" / "index.html")
    assert (site / "repository" / "harness" / "distributions" / "LICENSE-Apache-2.0").exists()


def test_a_link_to_nothing_ends_the_build(tmp_path):
    for name in ("mkdocs.yml", "allocators", "harness", "results", "tests", "traces"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()
    for path in DOCS.iterdir():
        (tmp_path / "docs" / path.name).symlink_to(path)
    (tmp_path / "docs" / "waste.md").unlink()
    (tmp_path / "docs" / "waste.md").write_text("# Waste\n\n[nothing](../harness/nothing.py)\n")
    (tmp_path / "docs" / "hooks.py").unlink()
    (tmp_path / "docs" / "hooks.py").write_text((DOCS / "hooks.py").read_text())
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path / "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "docs/waste.md: links to ../harness/nothing.py, and there is no such file" in done.stderr


def test_what_is_left_out_of_the_models_stands_on_one_page(site):
    page = text_of(site / "explanation" / "limits.html")
    for model in ("go", "tcmalloc"):
        readme = (ROOT / "allocators" / model / "README.md").read_text()
        left_out = readme.split("## Left out\n")[1].split("\n## ")[0]
        departures = [
            row.split(" | ")[0].strip("| ") for row in left_out.splitlines() if row.startswith("| ")
        ]
        assert len(departures) > 10
        assert [each for each in departures if each.replace("`", "") not in page] == []


def test_every_verb_and_option_of_the_command_line_is_on_its_page(site):
    page = text_of(site / "reference" / "commands.html")
    for name, verb in cli.commands.items():
        assert f"harness {name} " in page
        options = [each.opts[-1] for each in verb.params if isinstance(each, click.Option)]
        assert [option for option in options if option not in page] == []


def test_every_installed_allocator_with_its_options_is_on_its_page(site):
    page = (site / "reference" / "allocators.html").read_text()
    for name, each in registered()[0].items():
        assert f'id="{name}"' in page
        assert [option.name for option in options_of(each) if f"<code>{option.name}</code>" not in page] == []


@pytest.mark.parametrize(
    ("readme", "table", "name"),
    [("go", 0, "go"), ("go", 1, "real-go"), ("tcmalloc", 0, "tcmalloc"), ("library", 0, "libtcmalloc")],
)
def test_the_options_of_a_readme_are_those_of_the_code(readme, table, name):
    text = (ROOT / "allocators" / readme / "README.md").read_text()
    rows = re.findall(r"^\| option \| default \|.*?\n\n", text, re.M | re.S)[table]
    first_cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", rows, re.M)
    described = {option for cell in first_cells for option in re.findall(r"`(\w+)`", cell)}
    assert described == {option.name for option in options_of(find(name)[0].factory)}


def test_the_columns_of_a_trace_are_those_of_the_code(site):
    page = (site / "reference" / "traces.html").read_text()
    assert [name for name in trace.COLUMNS if f"<code>{name}</code>" not in page] == []
    assert trace.SCHEMA in page


def test_the_schema_of_runs_is_one_and_fits_what_replay_prints(tmp_path):
    schema = reference_pages.schema_of_runs()
    jsonschema.Draft202012Validator.check_schema(schema)
    path = write_trace(tmp_path / "t.parquet")
    printed = json.loads(harness("replay", path, "--format", "json", "--json-samples").stdout)
    jsonschema.validate(printed, schema)
    del printed["results"][0]["runs"][0]["summary"]
    with pytest.raises(jsonschema.ValidationError, match="'summary' is a required property"):
        jsonschema.validate(printed, schema)
