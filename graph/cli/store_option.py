"""`--store` and `SGD_STORE`: the store of a command line."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.errors import NodeError
from ..contract.processes import ONE_PROCESS, Mesh
from ..contract.text_tables import seconds
from .command_line import told_elsewhere
from .terminal import say

if TYPE_CHECKING:
    from ..compiler.plan import Plan
    from ..runtime.profiling import Profiling
    from ..store.forecast import Forecast

VARIABLE = "SGD_STORE"
OFF = "off"


def store_option(to: ArgumentParser) -> None:
    """Add the option to a parser."""
    to.add_argument(
        "--store",
        metavar="DIR|off",
        help=f"the folder of stored results, or off (default: {VARIABLE}, else a folder in the user's cache)",
    )


def store_folder(named: str | None) -> Path | None:
    """The folder of stored results; None for `off`, or if the user has no cache folder.

    Args:
        named: The value of `--store`.

    Raises:
        NodeError: If the value is empty.
    """
    from ..store.entries import default_folder

    if named == "":
        raise NodeError("--store is empty", help="name a folder, or write `--store off`")
    text = named or os.environ.get(VARIABLE)
    if text == OFF:
        return None
    return Path(text) if text else default_folder()


def _usable(folder: Path) -> Path | None:
    """The default folder; None, with a warning, if it cannot be a store. The run goes on without it."""
    from ..store.entries import FolderStore

    try:
        FolderStore(folder)
    except NodeError as error:
        if not told_elsewhere():
            say(f"warning: results are not stored: {error}")
        return None
    return folder


def store_for_run(arguments: Namespace, plan: Plan, profile: Profiling) -> Path | None:
    """The store of `sgd exec`. A run that measures or shows every node has none.

    Raises:
        NodeError: If the command line asks for both.
    """
    folder = store_folder(arguments.store)
    why = _measured(plan)
    if profile.needs_every_node:
        why = "--profile torch, --profile nvtx, --trace and --trace-values"
    elif arguments.preview:
        why = "--preview"
    if folder is None:
        return None
    if why is None:
        return folder if arguments.store or os.environ.get(VARIABLE) else _usable(folder)
    if arguments.store is not None:
        raise NodeError(f"{why} need a run in which nothing is reused", help="leave out --store")
    return None


def store_again(named: str | None, profile: Profiling) -> Path | None:
    """The store of a run that goes on; None, with a warning, if it cannot be one any more.

    Args:
        named: The folder of the store that the run had; None if it had none.
        profile: The measurements of the rest. Those of every node have no store.
    """
    return None if named is None or profile.needs_every_node else _usable(Path(named))


def _measured(plan: Plan) -> str | None:
    """What a workflow measures, so that its runs have no store; None if it measures nothing."""
    limited = plan.expected is not None and plan.expected.measures
    return "the limits of time and memory in `expect`" if limited else None


def forecast_for(
    named: str | None, plan: Plan, device: str, options: Mapping[str, Any], mesh: Mesh = ONE_PROCESS.mesh
) -> Forecast | None:
    """What `sgd exec` would take from the store for a plan; None if it would have no store, or an empty one.

    Args:
        named: The value of `--store`.
        plan: The plan.
        device: The device of the run.
        options: Values of the options of node libraries.
        mesh: How the processes of the run are arranged.

    Raises:
        NodeError: If the folder cannot be a store, or was named for a run that has none.
    """
    from ..runtime.stored_plan import stored_forecast

    folder, why = store_folder(named), _measured(plan)
    if why is not None and named not in (None, OFF):
        raise NodeError(f"{why} need a run in which nothing is reused", help="leave out --store")
    if why is not None:
        return None
    try:
        return stored_forecast(plan, folder, device, options, mesh)
    except NodeError as error:
        if named or os.environ.get(VARIABLE):
            raise
        say(f"warning: stored results are not known: {error}")
        return None


def forecast_lines(found: Forecast) -> list[str]:
    """A forecast as lines of text."""
    lines = []
    for text, title in (("runs", "would run"), ("reused", "would be reused"), ("?", "not known")):
        names = found.named(text)
        if names:
            lines.append(f"  {title}: {', '.join(names)}")
    saved = f", which took {seconds(found.saved_seconds)} s to make" if found.those("reused") else ""
    head = f"stored results in {found.folder}: {len(found.those('reused'))} of {len(found.nodes)} nodes{saved}"
    if found.unhashed is not None:
        lines.append(f"  {found.unhashed} was not hashed yet; `sgd exec` hashes it, and then this is known")
    return [head, *lines]
