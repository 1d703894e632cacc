"""The reference that is made from the code: verbs, allocators, trace columns, entry points, a run's JSON.

Returns Markdown for the pages of docs/reference, which docs/hooks.py puts in where they ask for it. Knows
allocators by their entry points alone, so that a page lists what is installed.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any

import click
import tabulate

from harness import calibration, cli, conform, formats, results, trace
from harness.allocator import (
    ENTRY_POINT_GROUP,
    OP_NAMES,
    description_of,
    option_text,
    options_of,
    registered,
)

# What an entry point of each group is.
_GROUPS = {
    ENTRY_POINT_GROUP: "a class that answers `feed()` and `result()`: an `Allocator` or a `NativeAllocator`",
    conform.ENTRY_POINT_GROUP: "a function that makes two subjects: the model, and a reader of the truth",
    conform.RECORDINGS_GROUP: "a class that compares its model with what the real allocator wrote of itself",
    calibration.ENTRY_POINT_GROUP: "something that makes a subject: the model's counts, the real one's times",
    formats.ENTRY_POINT_GROUP: "a class that reads traces of another format, and may write them",
}

# No line of a table is broken.
_WIDE = 1000

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}


def commands() -> str:
    """Return a section for each verb of the command line: what it does, and a table of its options."""
    group = click.Context(cli.cli, info_name="harness", max_content_width=_WIDE)
    texts = [cli.cli.help or ""]
    for name, verb in sorted(cli.cli.commands.items()):
        context = click.Context(verb, group, name, max_content_width=_WIDE)
        said = [each.get_help_record(context) for each in verb.params if isinstance(each, click.Option)]
        usage = f"{context.command_path} {' '.join(verb.collect_usage_pieces(context))}"
        options = [[f"`{record[0]}`", record[1]] for record in said if record]
        texts += [f"## {name}", f"```\n{usage}\n```", verb.help or "", _table(options, ["option", ""])]
    return "\n\n".join(texts)


def allocators() -> str:
    """Return a table of the installed allocators, and below it one of the options of each."""
    known, _ = registered()
    rows = [
        [f"[`{name}`](#{name})", getattr(each, "kind", "model"), description_of(each)]
        for name, each in known.items()
    ]
    texts = [_table(rows, ["allocator", "kind", "what it is"])]
    for name, each in known.items():
        texts.append(f"### {name}\n\n{description_of(each)}")
        options = [
            [
                f"`{option.name}`",
                f"`{option_text(option.default)}`" if option.default != "" else "",
                option.values,
            ]
            for option in options_of(each)
        ]
        texts.append(_table(options, ["option", "default", "takes"]) if options else "It has no options.")
    return "\n\n".join(texts)


def trace_columns() -> str:
    """Return a table of the columns of a trace, with their types in Parquet."""
    rows = [
        [f"`{name}`", f"`{kind}`", "required" if name in trace.REQUIRED else "optional"]
        for name, kind in trace.COLUMNS.items()
    ]
    return _table(rows, ["column", "type", ""])


def trace_ops() -> str:
    """Return a table of the values of a trace's column `op`."""
    return _table([[str(number), f"`{name}`"] for number, name in OP_NAMES.items()], ["`op`", "name"])


def trace_keys() -> str:
    """Return the schema's name and the keys of a file's metadata, as a list."""
    return (
        f"- schema `{trace.SCHEMA}`\n- `{trace.METADATA_KEY.decode()}`: JSON, what the file says of itself\n"
        f"- `{trace.SITES_KEY.decode()}`: the allocation sites, where the column `site` points to them"
    )


def groups() -> str:
    """Return a table of the groups of entry points, with what is installed in each."""
    rows = [
        [f"`{group}`", what, ", ".join(f"`{entry.name}`" for entry in _sorted(group))]
        for group, what in _GROUPS.items()
    ]
    return _table(rows, ["group", "an entry point is", "installed"])


def run_schema() -> str:
    """Return the JSON Schema of `harness replay --format json`, as a block of code."""
    return f"```json\n{json.dumps(schema_of_runs(), indent=1)}\n```"


def schema_of_runs() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of what `harness replay --format json` prints."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": results.SCHEMA,
        "type": "object",
        "properties": {
            "schema": {"const": results.SCHEMA},
            "results": {"type": "array", "items": _schema(results.TraceRuns)},
            "environment": _schema(results.Environment),
        },
        "required": ["schema", "results", "environment"],
    }


def _schema(hint: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type; of a dataclass an object with its fields."""
    inner = typing.get_args(hint)
    if hint is Any:
        return {}
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return {
            "type": "object",
            "properties": {each.name: _schema(hints[each.name]) for each in fields(hint)},
            "required": [
                each.name for each in fields(hint) if each.default is each.default_factory is MISSING
            ],
        }
    if isinstance(hint, types.UnionType):
        return {"anyOf": [_schema(each) for each in inner]}
    if typing.get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1])}
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _schema(inner[0])}
    return {"type": _JSON_TYPES[hint]}


def _sorted(group: str) -> Iterator[Any]:
    yield from sorted(entry_points(group=group), key=lambda entry: entry.name)


def _table(rows: list[list[str]], headings: list[str]) -> str:
    # Within a code span Python-Markdown takes a bar for what it is, and a backslash, too.
    escaped = [[re.sub(r"`[^`]*`|\|", _escaped, cell) for cell in row] for row in rows]
    return tabulate.tabulate(escaped, headings, "github", disable_numparse=True)


def _escaped(found: re.Match[str]) -> str:
    return "\\|" if found[0] == "|" else found[0]
