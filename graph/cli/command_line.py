"""Functions that commands share: values from the command line, node libraries, messages on stderr."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compiler.compile import Checked, check
from ..contract.constants import INTERRUPTED, WRONG
from ..contract.diagnostics import render
from ..contract.errors import LibraryError, NodeError
from ..language.literals import Given
from ..language.registry import Library, installed
from .collector import collector_paused

if TYPE_CHECKING:
    from ..runtime.run import Result


def say(text: str) -> None:
    print(text, file=sys.stderr)


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
            raise NodeError(f"{name} is given twice")
        found[name] = Given(value, True, Path.cwd())
    return found


@collector_paused()
def checked(arguments: Namespace, complete: bool) -> tuple[Checked, Library] | int:
    """Check the workflow of a command with its values; diagnostics go to stderr."""
    try:
        library = load_library(arguments)
        inputs = given(arguments.values, "name=value")
        settings = given(arguments.set, "--set path=value")
    except (LibraryError, NodeError) as error:
        return wrong(str(error), getattr(error, "help", None))
    result = check(arguments.file, inputs, settings, library, complete)
    if result.diagnostics:
        say(render(result.diagnostics, result.sources))
    return WRONG if result.errors else (result, library)


def options(arguments: Namespace, library: Library, device: str) -> dict[str, Any]:
    """Values for `Run.options`: the options that libraries add, and the device."""
    added = [option for each in library.libraries.values() for option in each.options]
    return {option.key: option.value_in(arguments) for option in added} | {"device": device}


def interrupted(done: Result) -> int:
    """The exit code of an interrupted run. If a node still runs, this function ends the process with that code."""
    if done.stuck:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    return INTERRUPTED
