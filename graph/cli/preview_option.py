"""`sgd exec --preview N`."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.checks.descriptions import makers, placed
from ..compiler.ir import Call
from ..compiler.known_arguments import facts_of
from ..compiler.passes.prune import live
from ..compiler.plan import CallStep, Plan
from ..contract.constants import WRONG
from ..contract.diagnostics import Diagnostic, render
from ..contract.previews import Previews
from .command_line import wrong
from .terminal import say
from .terminal_pictures import protocol

if TYPE_CHECKING:
    from ..compiler.compile import Checked
    from ..runtime.observers.preview_files import PreviewFiles
    from ..runtime.observers.progress import Progress


def preview_option(to: ArgumentParser) -> None:
    """`--preview`."""
    to.add_argument(
        "--preview",
        type=_turns,
        metavar="N",
        help="every N steps, write a small picture of what a loop is making, into the folder previews of the run",
    )


def _turns(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise ArgumentTypeError(f"{text!r} is no number of steps; give 1 or more")
    return number


def preview_files(every: int, plan: Plan, checked: Checked, progress: Progress | None) -> PreviewFiles | int:
    """The observer that writes the previews of a run; the exit code if the workflow has none, once that was told.

    Args:
        every: The number of turns.
        plan: The plan of the run.
        checked: The check of its file.
        progress: The display; pictures appear in it if the terminal shows them.
    """
    previews = [library.previews() for library in plan.libraries]
    problems = _problems(checked, previews)
    if problems:
        say(render(problems, checked.sources))
        return WRONG
    makes = {type for one in previews for type in one.makes}
    if not any(isinstance(step, CallStep) and around and step.call.type.name in makes for step, around in plan.walk()):
        help = f"previews are made by {', '.join(sorted(makes))} in a loop" if makes else "leave out --preview"
        return wrong("--preview: nothing in this workflow makes previews", help)
    from ..runtime.observers.preview_files import PreviewFiles

    return PreviewFiles(every, previews, shown_in(progress))


def _problems(checked: Checked, previews: Sequence[Previews]) -> list[Diagnostic]:
    """The reasons, known before the run, why its calls make no previews."""
    graph = checked.graph
    assert graph is not None
    running = live(graph)
    made = makers(graph)
    found = []
    for call, _ in graph.walk():
        if not isinstance(call, Call) or call.id not in running or call.type.facts is None:
            continue
        for one in previews:
            if call.type.name in one.hears:
                problem = one.problem(call.type.name, facts_of(call, checked.known))
                found += [placed(problem, call, made)] if problem is not None else []
    return found


def shown_in(progress: Progress | None) -> Callable[[Path, bytes], None] | None:
    """Shows pictures above the display; None if the terminal shows none."""
    sequence = protocol(os.environ) if progress is not None and progress.enabled else None
    if progress is None or sequence is None:
        return None

    def show(file: Path, png: bytes) -> None:
        progress.picture(sequence(png))

    return show
