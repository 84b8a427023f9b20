"""Completions of a word of a command line: commands, options, values, files, inputs, parameters, node types."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ..compiler.compile import check
from ..compiler.ir import Const, Graph
from ..contract.cards import CARDS
from ..contract.errors import Problems
from ..contract.node import USES, NodeType
from ..contract.ports import Type, show
from ..contract.workflow_folders import bundled_workflows
from ..language.registry import Library, installed
from .common_arguments import DEVICES

FILES = "FILES"
"""A completion that stands for every file; the shell lists them."""


@dataclass(frozen=True)
class Candidate:
    """A completion.

    Attributes:
        text: The whole word. One that ends in `=` is not finished.
        help: A description; empty if there is none.
    """

    text: str
    help: str = ""


def candidates(words: Sequence[str], root: argparse.ArgumentParser) -> list[Candidate]:
    """Completions of the last word.

    Args:
        words: The command line, without the program. The last word is incomplete or empty.
        root: The parser of the command line.

    Returns:
        Completions that begin with the last word, and perhaps one whose text is `FILES`.
    """
    *before, last = words or [""]
    found = [each for each in _all(before, last, root) if each.text == FILES or each.text.startswith(last)]
    return list({each.text: each for each in found}.values())


def _all(before: Sequence[str], last: str, root: argparse.ArgumentParser) -> Iterator[Candidate]:
    commands = next(a for a in root._actions if isinstance(a, argparse._SubParsersAction))
    called = next((word for word in before if word in commands.choices), None)
    if called is None:
        yield from (Candidate(each.dest, each.help or "") for each in commands._choices_actions)
        yield from _options(root)
        return
    parser = commands.choices[called]
    option = next((a for a in parser._actions if before[-1] in a.option_strings and a.nargs != 0), None)
    if option is not None:
        yield from _values_of(option, before, parser, last)
    elif last.startswith("-"):
        yield from _options(parser)
    else:
        yield from _positional(before, last, parser)


def _options(parser: argparse.ArgumentParser) -> Iterator[Candidate]:
    for action in parser._actions:
        yield from (Candidate(name, action.help or "") for name in action.option_strings if name.startswith("--"))


def _values_of(
    option: argparse.Action, before: Sequence[str], parser: argparse.ArgumentParser, last: str
) -> Iterator[Candidate]:
    """Values of an option."""
    if option.choices is not None:
        yield from (Candidate(str(choice)) for choice in option.choices)
    elif option.dest == "device":
        yield from map(Candidate, DEVICES)
    elif option.dest == "overlap_device":
        yield Candidate("cuda:1")
    elif option.dest == "set":
        graph = _graph(before, parser)
        yield from _settings(graph, last, _library(before)) if graph is not None else ()
    elif option.dest == "after":
        from .commands.show_plan import AFTER

        yield from map(Candidate, AFTER)
    elif option.dest == "card":
        yield from (Candidate(name, card.title) for name, card in CARDS.items())
    elif option.dest in ("library", "out", "profile", "compare", "trace", "trace_values"):
        yield Candidate(FILES)


def _positional(before: Sequence[str], last: str, parser: argparse.ArgumentParser) -> Iterator[Candidate]:
    places = [a for a in parser._actions if not a.option_strings]
    given = _positionals(before, parser)
    if not places:
        return
    place = places[min(len(given), len(places) - 1)]
    if place.choices is not None:
        yield from (Candidate(str(choice)) for choice in place.choices)
    elif place.dest == "name":
        yield from (Candidate(name, type.summary) for name, type in sorted(_library(before).nodes.items()))
    elif place.dest == "values":
        graph = _graph(before, parser)
        yield from _inputs(graph, before, last) if graph is not None else ()
    else:
        yield from (Candidate(file.stem) for file in sorted(bundled_workflows().glob("*.yaml")))
        yield Candidate(FILES)


def _positionals(before: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Words after the command that belong to no option."""
    found: list[str] = []
    takes_value = {name for a in parser._actions if a.option_strings and a.nargs != 0 for name in a.option_strings}
    words = iter(before)
    for word in words:
        if word in takes_value:
            next(words, None)
        elif not word.startswith("-"):
            found.append(word)
    return found[1:]


def _library(before: Sequence[str]) -> Library:
    return installed(tuple(Path(b) for a, b in pairwise(before) if a == "--library"))


def _graph(before: Sequence[str], parser: argparse.ArgumentParser) -> Graph | None:
    """The graph of the workflow on the command line; None if there is none, or it has errors."""
    given = _positionals(before, parser)
    try:
        return check(given[0], library=_library(before), fold_inputs=False).graph if given else None
    except (Problems, OSError):
        return None


def _inputs(graph: Graph, before: Sequence[str], last: str) -> Iterator[Candidate]:
    """`name=` for inputs without a value on the command line; behind `name=`, values."""
    name, equals, _ = last.partition("=")
    if equals:
        declared = graph.inputs.get(name)
        yield from _of_type(f"{name}=", declared.type) if declared is not None else ()
        return
    taken = {word.partition("=")[0] for word in before if "=" in word}
    yield from (Candidate(f"{n}=", d.about or str(d.type)) for n, d in graph.inputs.items() if n not in taken)


def _settings(graph: Graph, last: str, library: Library) -> Iterator[Candidate]:
    """`path=` for parameters that no edge sets, and for node types; behind `path=`, values."""
    for call in graph.calls():
        uses = f"{call.id}.{USES}="
        if last.startswith(uses):
            yield from (Candidate(f"{uses}{name}", type.summary) for name, type in _alike(call.type, library))
        else:
            yield Candidate(uses, f"another node type than {call.type.name}")
        for name, parameter in call.type.inputs.items():
            arg = call.args.get(name)
            if parameter.is_port or (arg is not None and not isinstance(arg.source, Const)):
                continue
            path = f"{call.id}.{name}="
            if last.startswith(path):
                yield from _of_type(path, parameter.type)
            else:
                yield Candidate(path, parameter.doc)


def _alike(type: NodeType, library: Library) -> Iterator[tuple[str, NodeType]]:
    """The other node types that have every output of a type."""
    wanted = {(output.name, str(output.type)) for output in type.outputs}
    for name, other in sorted(library.nodes.items()):
        if name != type.name and wanted <= {(output.name, str(output.type)) for output in other.outputs}:
            yield name, other


def _of_type(prefix: str, type: Type) -> Iterator[Candidate]:
    """Values of a type that has few."""
    choices: Sequence[object] = (True, False) if type.kind == "bool" else type.choices
    choices = [show(choice) if isinstance(choice, bool) else choice for choice in choices]
    yield from (Candidate(f"{prefix}{choice}") for choice in choices)
    if type.kind == "path":
        yield Candidate(FILES)
