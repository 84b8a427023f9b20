"""`sgd diff`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...compiler.compile import check, plan_of
from ...contract.constants import DONE, WRONG
from ...contract.device import choose_quickly
from ...contract.diagnostics import render
from ...contract.errors import LibraryError, NodeError, UnreadableFile
from ...contract.node_library import NodeLibrary
from ...language.registry import Library
from ..command_line import load_library, wrong
from ..common_arguments import library_files
from ..history.killed_run import error_without_record
from ..store_option import forecast_for, forecast_lines, store_option
from ..terminal import say, show, stdout_width

if TYPE_CHECKING:
    from ...store.forecast import Forecast
    from ..comparison.sides import Kind


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd diff`."""
    to.add_argument("before", metavar="A", help="a workflow, a run (its folder or run.json), a picture or a clip")
    to.add_argument("after", metavar="B", help="what to compare it with")
    to.add_argument("--json", action="store_true", help="print the differences as JSON on stdout")
    store_option(to)
    library_files(to)


def command(arguments: Namespace) -> int:
    """`sgd diff`."""
    from ..comparison.sides import kind_of_side

    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    names = (arguments.before, arguments.after)
    if killed := next(filter(None, map(error_without_record, names)), None):
        return wrong(str(killed), killed.help)
    kinds = [kind_of_side(name) for name in names]
    if "workflow" in kinds:  # the workflow of a run, a picture or a clip is in its recipe
        return _workflows(names, library, arguments, with_values=kinds != ["workflow", "workflow"])
    if arguments.store is not None:
        return wrong("--store is for workflows", "compare two workflows, or leave out --store")
    libraries = list(library.libraries.values())
    try:
        content, text = _runs(names, libraries) if kinds == ["run", "run"] else _media(names, kinds, libraries)
    except UnreadableFile as error:
        return wrong(str(error), error.help)
    _print(content, text, arguments.json)
    return DONE


def _print(content: Any, text: str, as_json: bool) -> None:
    shown = json.dumps(content, indent=1) if as_json else text
    if shown:
        show(shown)


def _workflows(names: Sequence[str], library: Library, arguments: Namespace, with_values: bool) -> int:
    """Compare graphs. `with_values`: one side is a run, so that the values of inputs are compared too."""
    from ..difference import difference, text

    results = [check(file, library=library, fold_inputs=False) for file in names]
    for result in results:
        if result.errors:
            say(render(result.errors, result.sources))
    before, after = (result.graph for result in results)
    if before is None or after is None:
        return WRONG
    found = difference(before, after)
    shown = text(found)
    if with_values:
        from ..comparison.changed_facts import changes
        from ..comparison.comparison_text import changes_text

        one, other = ({name: const.value for name, const in result.values.items()} for result in results)
        differing = changes(one, other)
        found["values"] = [asdict(each) for each in differing]
        shown = "\n".join(
            filter(None, (shown, *(["~ values of inputs", *changes_text(differing)] if differing else [])))
        )
    try:
        stored = _stored(names[1], library, arguments.store)
    except NodeError as error:
        return wrong(str(error), error.help)
    found["store"] = stored.json() if stored is not None else None
    if stored is not None and shown:
        first, *rest = forecast_lines(stored)
        shown = "\n".join((shown, f"B, {first}", *rest))
    _print(found, shown, arguments.json)
    return DONE


def _stored(file: str, library: Library, store: str | None) -> Forecast | None:
    """What a run of a workflow would take from the store; None if an input has no value, or there is no store."""
    result = check(file, library=library, complete=True)
    if result.errors:
        return None  # only an input without a value: all else was checked
    plan = plan_of(result, library)
    return forecast_for(store, plan, choose_quickly(plan.libraries), {})


def _runs(names: Sequence[str], libraries: Sequence[NodeLibrary]) -> tuple[Any, str]:
    from ..comparison.compare_command import compared
    from ..comparison.comparison_text import comparison_text

    found = compared(names, libraries)
    return found.json(), comparison_text(found, stdout_width())


def _media(names: Sequence[str], kinds: Sequence[Kind], libraries: Sequence[NodeLibrary]) -> tuple[Any, str]:
    from ..comparison.compare_command import Counting
    from ..comparison.media_pair import media_pair

    with Counting() as progress:
        found = media_pair(names, kinds, libraries, progress)
    return found.json(), found.text()
