"""Functions that commands share: values from the command line, node libraries, messages on stderr."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compiler.compile import Checked, check
from ..contract import interrupts
from ..contract.collector import collector_paused
from ..contract.constants import INTERRUPTED, WRONG
from ..contract.diagnostics import render
from ..contract.errors import LibraryError, NodeError
from ..contract.rank_start import rank_place
from ..language.literals import Given
from ..language.registry import Library, installed
from .history.killed_run import error_without_record
from .ranks.rank_options import asked_of
from .terminal import flush, say

if TYPE_CHECKING:
    from ..runtime.run_result import Result

RECIPE_PATHS = "paths in a recipe are relative to the current folder: run this where the workflow ran"


def say_failure(error: BaseException | None, arguments: Namespace) -> None:
    """Print the error of a run or a plan, and its calls if the command line asks for them."""
    from ..runtime.author_frames import origin, traceback_text

    say(f"error: {str(error) or type(error).__name__}")
    cause = origin(error)
    if error is None or cause is None:
        return
    if arguments.traceback:
        say(f"\n{traceback_text(error)}\n")
    elif cause is error or cause is error.__cause__:
        say(" = help: `--traceback` prints the calls that led to it")


def wrong(message: str, help: str | None = None) -> int:
    say(f"error: {message}" + (f"\n = help: {help}" if help else ""))
    return WRONG


def load_library(arguments: Namespace) -> Library:
    """The installed node types and those of `--library` files."""
    library = installed(tuple(Path(f) for f in arguments.library))
    for warning in library.warnings:
        say(f"warning: {warning}")
    return library


def given(pairs: Iterable[str], what: str) -> dict[str, Given]:
    """Parse `name=value` pairs. `what` names their form, for the error.

    Raises:
        NodeError: For a pair without `=`, or a name given twice.
    """
    found: dict[str, Given] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise NodeError(f"{pair!r} is not {what}", help=f"write {what}")
        if name in found:
            first = f"{name}={found[name].value}"
            raise NodeError(f"`{name}` is given twice: {first} and {pair}", help="leave one of them out")
        found[name] = Given(value, True, Path.cwd())
    return found


@collector_paused()
def checked(
    arguments: Namespace, complete: bool, running: bool = False, told: Callable[[Checked], None] | None = None
) -> tuple[Checked, Library] | int:
    """Check the workflow of a command with its values; diagnostics go to stderr.

    Args:
        arguments: The command line.
        complete: Report inputs that have neither a value nor a default.
        running: Whether the workflow will run, so that the files that it reads are checked too.
        told: Receives the result, also if there are errors.
    """
    try:
        library = load_library(arguments)
        inputs = given(arguments.values, "name=value")
        settings = given(arguments.set, "--set path=value")
        asked = asked_of(arguments)
    except (LibraryError, NodeError) as error:
        return wrong(str(error), getattr(error, "help", None))
    if killed := error_without_record(arguments.file):
        return wrong(str(killed), killed.help)
    known = added_options(arguments, library) if running else None
    result = check(arguments.file, inputs, settings, library, complete, options=known, asked=asked)
    if result.diagnostics and (result.errors or not (running and told_elsewhere())):
        say(render(result.diagnostics, result.sources))
    if result.found is not None and _refuses_a_value(result):
        say(f"help: {RECIPE_PATHS}")
    if told is not None:
        told(result)
    return WRONG if result.errors else (result, library)


def _refuses_a_value(result: Checked) -> bool:
    """Whether a value in the file is wrong. The values of a recipe were right where it ran, except for paths."""
    return any(error.code == "bad-value" and error.span is not None for error in result.errors)


def told_elsewhere() -> bool:
    """Whether another process prints the warnings about the workflow, since this one is one of several."""
    place = rank_place()
    return place is not None and (place.starter is not None or place.rank > 0)


def options(arguments: Namespace, library: Library, device: str) -> dict[str, Any]:
    """Values for `Run.options`: the options that libraries add, and the device."""
    return added_options(arguments, library) | {"device": device}


def added_options(arguments: Namespace, library: Library) -> dict[str, Any]:
    """Values of the options that libraries add."""
    added = [option for each in library.libraries.values() for option in each.options]
    return {option.key: option.value_in(arguments) for option in added}


def interrupted(done: Result) -> int:
    """The exit code of a run that was interrupted, once the user was told. Does not return if the run goes on."""
    interrupts.reported()
    if done.stuck:
        flush()
        interrupts.end()
    return INTERRUPTED
