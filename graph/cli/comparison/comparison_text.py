"""A comparison as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...contract.text_tables import count, seconds
from ..fitted_tables import fitted, wrapped
from ..tables import indent
from .changed_facts import Change, ChangedFiles
from .compared_run import ComparedRun
from .comparison import Comparison
from .node_times import TimePair, change
from .output_pairs import OutputPair


def comparison_text(found: Comparison, width: int | None = None) -> str:
    """Two runs: what differs, the times of nodes, the likeness of outputs. `width`: columns of the terminal."""
    parts = [
        [f"A: {_run(found.before)}", f"B: {_run(found.after)}"],
        list(files_text(found.files)),
        *changed(kinds(found)),
        _times(found, width),
        ["outputs", *(f"  {line}" for line in outputs_text(found.outputs))],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def kinds(found: Comparison) -> dict[str, Sequence[Change]]:
    """The facts of two runs that differ, by title."""
    return {
        "inputs": found.inputs,
        "set": found.settings,
        "files that were read": found.used,
        "environment": found.environment,
    }


def _run(run: ComparedRun) -> str:
    record = run.record
    device = record.environment.get("device", "an unknown device")
    peak = f", peak {count(record.peak_bytes, 'B', 1024)}" if record.peak_bytes else ""
    return f"{run.name}: {record.workflow.name}, {record.status} in {seconds(record.seconds)} s on {device}{peak}"


def files_text(files: ChangedFiles) -> Iterator[str]:
    """The difference of workflow files: lines with + and -."""
    if files.equal and not files.files:
        return
    if files.note:
        yield f"files: {files.note}"
    for file in files.files:
        yield f"file {file.name}"
        yield from (f"  {line}" for line in file.lines)


def changed(kinds: Mapping[str, Sequence[Change]]) -> Iterator[list[str]]:
    """A paragraph for each kind of fact that differs. `kinds`: facts by title."""
    for title, facts in kinds.items():
        if facts:
            yield [title, *changes_text(facts)]


def changes_text(facts: Iterable[Change]) -> Iterator[str]:
    """A line for each fact."""
    yield from (f"  {each.name}: {each.before} -> {each.after}" for each in facts)


def _times(found: Comparison, width: int | None) -> list[str]:
    rows: list[Sequence[str]] = [["node", "A", "B", "change"]]
    rows += [[indent(pair.name), *_cells(pair)] for pair in found.nodes]
    rows += [["", "", "", ""], *([f"phase {pair.name}", *_cells(pair)] for pair in found.phases)]
    rows += [["run and save", *_cells(found.totals["run"])], ["whole", *_cells(found.totals["whole"])]]
    lines = fitted(rows, width, flexible="node", right=(1, 2, 3))
    devices = [pair.name for pair in found.nodes if pair.device]
    notes = ["The seconds of nodes are those of the device."] if devices else []
    notes += [f"Times cannot be compared: {note}." for note in found.time_notes]
    return [*lines, *([""] if notes else []), *(line for note in notes for line in wrapped(note, width, ""))]


def _cells(pair: TimePair) -> list[str]:
    return [seconds(pair.before), seconds(pair.after), change(pair.ratio)]


def outputs_text(pairs: Iterable[OutputPair]) -> Iterator[str]:
    """A line for each output, and a line for each note about its pixels."""
    for pair in pairs:
        yield f"{pair.name}: {pair.text()}"
        if pair.likeness is not None:
            yield from (f"  note: {note}" for note in pair.likeness.notes)
