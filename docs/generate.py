"""Writes the pages of docs/reference: `python docs/generate.py`. With --check it only compares.

Each page comes from the code: `nodes.md` from the node types, `commands.md` from the argument parser,
`diagnostics.md` from the messages that `sgd` prints for the files in `diagnostics.yaml`, `record.md` from the
JSON Schema of the record.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from sgd.graph.cli.main import main, parser
from sgd.graph.contract.node import Input, NodeType
from sgd.graph.contract.ports import show
from sgd.graph.language.registry import standard
from sgd.graph.language.schema import bounds

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
EXAMPLES = REFERENCE / "diagnostics.yaml"
SCHEMA = DOCS / "run.schema.json"
MADE = "`python docs/generate.py` writes this page."
BOUNDS = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}


def nodes() -> Iterator[str]:
    """The page of node types: every type of the standard library."""
    yield from ("# Node types", "")
    yield from (f"{MADE} `sgd nodes NAME` prints the same for every node type that is installed.", "")
    library = standard()
    for name in sorted(library.nodes):
        yield from _node(library.nodes[name])


def _node(type: NodeType) -> Iterator[str]:
    yield from (f"## {type.name}", "", type.summary, "")
    paragraphs = [" ".join(p.split()) for p in type.doc.split("\n\n")[1:] if p.strip()]
    for paragraph in paragraphs:
        if re.match(r"(Args|Returns|Raises):", paragraph):
            break
        yield from (paragraph, "")
    if type.inputs:
        yield from _table(["parameter", "type", "default", "range", "meaning"], map(_parameter, type.inputs.values()))
    outputs = ", ".join(f"`{o.name}` ({o.type})" for o in type.outputs) or "none"
    meanings = " ".join(dict.fromkeys(o.doc for o in type.outputs if o.doc))
    yield from (f"Outputs: {outputs}. {meanings}".rstrip(), "")
    errors = re.search(r"^Raises:\n(.*?)(?:\n\n|\Z)", type.doc, re.DOTALL | re.MULTILINE)
    if errors:
        found = re.findall(r"(?m)^ {4}(\w+): (.*(?:\n {5,}.*)*)", errors[1])
        yield from ("Errors:", "", *(f"- `{name}`: {' '.join(text.split())}" for name, text in found), "")


def _parameter(parameter: Input) -> list[str]:
    default = "required" if parameter.required else show(getattr(parameter.default, "value", parameter.default))
    numeric = parameter.type.kind in ("int", "float")
    limits = bounds(parameter.annotation) if numeric else {}
    range = ", ".join(f"{BOUNDS[name]} {value:g}" for name, value in limits.items() if name in BOUNDS)
    return [f"`{parameter.name}`", str(parameter.type), default, range, parameter.doc]


def commands() -> Iterator[str]:
    """The page of commands: usage, arguments and options of each, as the parser has them."""
    root = parser()
    yield from ("# Commands", "", f"{MADE} Each command prints the same with `--help`.", "")
    exits = (root.epilog or "").partition(": ")[2].split("; ")
    yield from ("Exit codes:", "", *(f"- {code.replace(' ', ': ', 1)}" for code in exits), "")
    choices = next(a.choices for a in root._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in choices.items():
        yield from (f"## sgd {name}", "", command.description or "", "")
        yield from ("```text", *_usage(command), "```", "")
        actions = [a for a in command._actions if not isinstance(a, argparse._HelpAction)]
        if actions:
            yield from _table(["argument", "default", "meaning"], map(_argument, actions))


def _usage(command: argparse.ArgumentParser) -> list[str]:
    """The usage in lines of at most 100 characters, broken between arguments."""
    command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=10_000)
    words = re.findall(r"\[[^\[\]]*(?:\[[^\[\]]*\])?[^\[\]]*\]|\S+", command.format_usage().removeprefix("usage: "))
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) > 100:
            lines.append(f"   {word}")
        else:
            lines[-1] += f" {word}"
    return lines


def _argument(action: argparse.Action) -> list[str]:
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    takes = f" {value}" if action.nargs != 0 else ""
    name = f"{', '.join(action.option_strings)}{takes}" if action.option_strings else str(value)
    default = "" if action.default in (None, False, [], argparse.SUPPRESS) else f"`{action.default}`"
    return [f"`{name}`", default, action.help or ""]


def diagnostics() -> Iterator[str]:
    """The page of diagnostics: for each code its meaning, a wrong file, the message, and the right file."""
    yield from ("# Diagnostics", "")
    yield from (f"{MADE} The examples stand in `docs/reference/diagnostics.yaml`.", "")
    yield "`sgd check` reports all problems of a file at once. Each has a code and a place, and most have a help line."
    yield from ("The codes are stable. The files below are named `mine.yaml`.", "")
    for code, example in yaml.safe_load(EXAMPLES.read_text(encoding="utf-8")).items():
        command = example.get("command", "sgd check mine.yaml")
        yield from (f"## {code}", "", example["meaning"], "")
        yield from ("Wrong:", "", "```yaml", example["wrong"].rstrip(), "```", "")
        yield from ("```console", f"$ {command}", printed(command, example["wrong"]).rstrip(), "```", "")
        if "right" in example:
            yield from ("Right:", "", "```yaml", example["right"].rstrip(), "```", "")
        if "right command" in example:
            yield from ("Right:", "", "```console", f"$ {example['right command']}", "```", "")
        if "note" in example:
            yield from (example["note"], "")


def printed(command: str, text: str) -> str:
    """The lines that a command prints on stderr, in a folder with this text as `mine.yaml`."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as errors:
        os.chdir(folder)
        try:
            Path("mine.yaml").write_text(text, encoding="utf-8")
            with contextlib.redirect_stdout(io.StringIO()):
                main(shlex.split(command)[1:])
        finally:
            os.chdir(before)
    return errors.getvalue()


def record() -> Iterator[str]:
    """The page of the record: every field of `run.json`, as the JSON Schema describes it."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    yield from (f"# {schema['title']}", "", schema["description"], "")
    yield from (f"{MADE} [run.schema.json](../run.schema.json) is the JSON Schema that it is made from.", "")
    yield "A field of a list stands below the list with `[]`. A field without `always` may be left out."
    yield ""
    yield from _table(["field", "type", "", "meaning"], _fields(schema, ""))


def _fields(schema: Mapping[str, Any], above: str) -> Iterator[list[str]]:
    for name, field in schema.get("properties", {}).items():
        path = f"{above}{name}"
        always = "always" if name in schema.get("required", ()) else ""
        yield [f"`{path}`", _json_type(field), always, field.get("description", "")]
        yield from _fields(field, f"{path}.")
        yield from _fields(field.get("items", {}), f"{path}[].")


def _json_type(field: Mapping[str, Any]) -> str:
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return "; or ".join(map(_json_type, field["anyOf"]))
    types = field["type"]
    return " or ".join(types) if isinstance(types, list) else types


def _table(head: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield "| " + " | ".join(map(_cell, row)) + " |"
    yield ""


def _cell(text: str) -> str:
    """The text of a table's cell: a bar never ends the cell, and `<` outside of code begins no tag."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if inside % 2 else part.replace("<", "\\<") for inside, part in enumerate(parts))


PAGES = {"nodes.md": nodes, "commands.md": commands, "diagnostics.md": diagnostics, "record.md": record}
"""The function that makes each page, by the page's file name."""


def run(check: bool) -> int:
    """Write the pages, or with `check` name those that differ. Returns the exit code."""
    stale = []
    for name, page in PAGES.items():
        text = "\n".join(page()).rstrip() + "\n"
        file = REFERENCE / name
        if check and (not file.is_file() or file.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            file.write_text(text, encoding="utf-8")
    if stale:
        print(f"out of date: {', '.join(stale)}; run python docs/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv))
