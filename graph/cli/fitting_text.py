"""Fitting a workflow to a memory, for `sgd plan` and `sgd init`: the edits as text to paste."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contract.cards import Card
from ..contract.constants import DOES_NOT_FIT
from ..contract.processes import Mesh
from ..contract.text_tables import count
from ..language.edit_file import LineChange, line_changes
from ..language.registry import Library
from ..runtime.fitting import Fitted, Fitting, example_values
from .command_line import added_options, given, options
from .other_machine import Machine
from .terminal import say

STEP = 1 << 30
"""`sgd init` names the least memory in whole steps of this many bytes."""


def with_floors(estimate: Mapping[str, Any], card: Card) -> dict[str, Any]:
    """The estimate with the card's name and compute capability, and the least seconds of each node.

    The least seconds are the node's FLOPs divided by the card's peak rates. Operations in 8 bits have their own rate.
    """
    found = {**estimate, "card": card.title, "capability": "{}.{}".format(*card.capability)}
    if card.tflops is None or card.eight_bit_tflops is None:
        return found
    rate, eight_bit_rate = card.tflops * 1e12, card.eight_bit_tflops * 1e12

    def least(costs: Mapping[str, Any]) -> float:
        narrow = costs["eight_bit_flops"]
        return float((costs["flops"] - narrow) / rate + narrow / eight_bit_rate)

    found["nodes"] = [{**row, "least_seconds": least(row)} for row in estimate["nodes"]]
    return {**found, "least_seconds": least(estimate)}


def edits_for_plan(
    file: Path, text: str, machine: Machine, arguments: Namespace, library: Library, mesh: Mesh
) -> tuple[Fitted, list[LineChange]]:
    """The edits of a file whose plan does not fit; no edits if none helps. `mesh`: the processes of the run."""
    assert machine.memory_bytes is not None
    inputs, settings = given(arguments.values, "name=value"), given(arguments.set, "--set path=value")
    chosen = options(arguments, library, machine.device)
    fitting = Fitting(file, library, machine.device, machine.memory_bytes, inputs, settings, chosen, mesh)
    fitted = fitting.fit(text, write_choices=False)
    return fitted, line_changes(text, fitted.text)


def paste(name: str, fitted: Fitted, changes: Sequence[LineChange]) -> Iterator[str]:
    """The lines that `sgd plan` prints for edits."""
    if not changes:
        yield "no edit of the file makes it fit; a smaller size, fewer frames or a smaller model do"
    else:
        peak = count(fitted.estimate["peak_bytes"], "B", 1024)
        verdict = "fits" if fitted.estimate["fits"] else "does not fit yet"
        yield f"with these edits of {name} the peak is {peak}, which {verdict}:"
        for change in changes:
            yield ""
            yield f"# {_place(change)}"
            yield from change.lines
    for reason in fitted.refused:
        yield f"not written: {reason}"


def as_json(fitted: Fitted, changes: Sequence[LineChange]) -> dict[str, Any]:
    """The key `edits` of `sgd plan --json`."""
    lines = [{"line": c.first, "count": c.count, "text": "\n".join(c.lines)} for c in changes]
    return {"peak_bytes": fitted.estimate["peak_bytes"], "fits": fitted.estimate["fits"], "lines": lines}


def _place(change: LineChange) -> str:
    if not change.count:
        return f"after line {change.first - 1}, add"
    last = change.first + change.count - 1
    lines = f"line {change.first}" if change.count == 1 else f"lines {change.first} to {last}"
    return f"in place of {lines}"


def fitted_text(file: Path, text: str, memory: int, library: Library) -> str | int:
    """The text of a new workflow, edited until its plan fits a GPU of this memory; the exit code if nothing fits.

    Inputs without a default are planned with example values.

    Raises:
        NodeError: If the workflow cannot be planned.
    """
    device = "cuda" if any(one.uses_gpu for one in library.libraries.values()) else "cpu"
    inputs = example_values(file, text, library)
    fitting = Fitting(file, library, device, memory, inputs, {}, added_options(Namespace(), library))
    fitted = fitting.fit(text, write_choices=True)
    if fitted.estimate["fits"]:
        return fitted.text
    least = fitting.least_memory(fitted)
    peak = count(fitted.estimate["peak_bytes"], "B", 1024)
    say(f"error: this workflow does not fit {count(memory, 'B', 1024)}: with all that saves memory it takes {peak}")
    if least is not None:
        say(f" = help: `--memory {-(-least // STEP)}GiB` fits; a smaller size or fewer frames take less")
    return DOES_NOT_FIT
