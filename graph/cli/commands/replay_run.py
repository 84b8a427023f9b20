"""`sgd replay`."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.compile import check, plan_of
from ...compiler.frontend.recipe_source import recipe_at
from ...contract.constants import DOES_NOT_FIT, DONE, FAILED, WRONG
from ...contract.diagnostics import render
from ...contract.errors import LibraryError, NodeError, Problems
from ...contract.interrupts import held, pending
from ...contract.node_library import NodeLibrary
from ..command_line import RECIPE_PATHS, added_options, interrupted, load_library, say_failure, wrong
from ..common_arguments import device, library_files, output_folder, result_as_json
from ..history.killed_run import error_without_record
from ..terminal import say, show

if TYPE_CHECKING:
    from ...compiler.frontend.recipe_source import Found
    from ...language.registry import Library
    from ..replayed_outputs import Replayed


def add_arguments(to: ArgumentParser, libraries: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd replay`. Options that decide the result come from the recipe."""
    to.add_argument("run", metavar="RUN", help="the folder of a run, its run.json, or a picture or clip that it wrote")
    library_files(to)
    device(to)
    result_as_json(to)
    output_folder(to)
    to.add_argument("--quiet", action="store_true", help="no progress; only the result")
    to.add_argument(
        "--min-psnr",
        metavar="DB",
        type=_decibels,
        help="be content with outputs whose pixels are alike with this PSNR, instead of equal",
    )
    for option in (option for library in libraries for option in library.options):
        if "exec" in option.commands and not option.decides:
            with suppress(Exception):  # the first to have a name keeps it
                option.add_to(to)


def _decibels(text: str) -> float:
    try:
        value = float(text.removesuffix("dB").strip())
    except ValueError:
        value = -1.0
    if not 0 < value < 1000:
        raise ArgumentTypeError(f"{text!r} is not a number of decibels above 0")
    return value


def command(arguments: Namespace) -> int:
    """`sgd replay`. Exits with 0 if every output is equal, and with 1 if one is not."""
    if arguments.out == "":
        return wrong("--out is empty", "name a folder, or leave out --out")
    try:
        library = load_library(arguments)
        found = recipe_at(arguments.run, library.libraries.values())
    except Problems as problems:
        say(render(problems.diagnostics, {}))
        return WRONG
    except LibraryError as error:
        return wrong(str(error), error.help)
    if found is None:
        if killed := error_without_record(arguments.run):
            return wrong(str(killed), killed.help)
        return wrong(f"{arguments.run} is no run", "name the folder of a run, its run.json, or a picture or clip of it")
    status = (found.record or {}).get("status", "done")
    if status != "done":
        return wrong(f"{found.place}: the run {_ended(status)}, so it has no result to compare with",
                     f"`sgd exec {arguments.run}` runs its workflow again")  # fmt: skip
    decided = {option.key for each in library.libraries.values() for option in each.options if option.decides}
    options = added_options(arguments, library)
    options |= {name: value for name, value in found.recipe.options.items() if name in decided}
    result = check(arguments.run, library=library, complete=True, options=options)
    if result.diagnostics:
        say(render(result.diagnostics, result.sources))
    if result.errors:
        say(f"help: {RECIPE_PATHS}")
        return WRONG
    try:
        return _again(found, plan_of(result, library), library, options, arguments)
    except NodeError as error:
        return wrong(str(error), error.help)


def _ended(status: Any) -> str:
    return "failed" if status == "failed" else "was interrupted"


def _again(found: Found, plan: Any, library: Library, options: dict[str, Any], arguments: Namespace) -> int:
    from ...contract.device import choose
    from ...runtime.context import RECORD
    from ...runtime.failure import does_not_fit
    from ...runtime.observers.progress import Progress
    from ...runtime.run import run
    from ..replayed_outputs import has_no_recipes, replayed_clip, replayed_run

    # A run on the CPU is repeated there, also where there is a GPU.
    wanted = "cpu" if arguments.device == "auto" and found.recipe.device == "cpu" else arguments.device
    device = choose(wanted, plan.libraries)
    libraries = list(library.libraries.values())
    plain = found.record is not None and has_no_recipes(found.record, found.path.parent, libraries)
    with held():
        with redirect_stdout(sys.stderr):  # text that nodes print is not part of the result
            done = run(
                plan,
                out=arguments.out,
                device=device,
                options={**options, "device": device},
                overwrite=arguments.overwrite,
                metadata=not plain,
                observers=[] if arguments.quiet else [Progress()],
            )
        if done.status == "interrupted" or pending():
            say("interrupted; nothing was compared")
            return interrupted(done)
    if done.status == "failed":
        say_failure(done.error, arguments)
        return DOES_NOT_FIT if does_not_fit(done.error, plan.loaded) else FAILED
    if found.record is not None:
        outputs = replayed_run(found.record, found.path.parent, done, libraries)
    else:
        outputs = replayed_clip(found.path, done, libraries)
    if not outputs:
        return wrong(f"{found.place}: the run has no outputs to compare")
    changes = _changes(found, done.record)
    enough = all(each.at_least(arguments.min_psnr) for each in outputs)
    if arguments.json:
        content = {
            "equal": all(each.equal for each in outputs),
            "outputs": [each.json() for each in outputs],
            "differences": changes,
            "folder": str(done.folder),
        }
        print(json.dumps(content, indent=1))
    else:
        _tell(outputs, changes, enough)
        show(f"record: {done.folder / RECORD}")
    return DONE if enough else FAILED


def _changes(found: Found, record: Any) -> list[str]:
    """The differences between the recipe and that of the replay, in words."""
    from ...language.recipe import differences, recipe_of

    return differences(found.recipe, recipe_of(record["recipe"], "the replay")) if "recipe" in record else []


def _tell(outputs: Sequence[Replayed], changes: Sequence[str], enough: bool) -> None:
    from ...contract.text_tables import columns

    for line in columns([[each.name, Path(each.after or each.before).name, each.verdict] for each in outputs]):
        show(line)
    for change in changes:
        show(f"differs: {change}")
    if all(each.equal for each in outputs):
        show("equal: the run was made again" + (", though not everything is as it was" if changes else ""))
    elif not changes and any(each.both and not each.equal for each in outputs):
        show("nothing that the recipe names differs; another processor, driver or number of threads can change bits")
    if enough and not all(each.equal for each in outputs):
        show("near enough: every output is within --min-psnr")
    elif not enough:
        show("not equal")
