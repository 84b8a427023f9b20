"""A comparison as a page: outputs with a line between them, times side by side, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...contract.text_tables import count, seconds, shortened
from ..report import page as shell
from ..report.media_files import Media, MediaFile
from ..report.page import Panel, Section
from ..report.sortable_table import Cell, Column, table
from .compared_run import ComparedRun
from .comparison import Comparison
from .comparison_text import kinds
from .limits import Limits
from .node_times import NodePair, TimePair, change
from .output_pairs import OutputPair

piece = partial(shell.piece, template="comparison")
MOST_LINES = 2000
"""Lines of a difference of files in the page."""


@dataclass(frozen=True)
class Side:
    """A run in the head of the page."""

    letter: str
    name: str
    about: str


@dataclass(frozen=True)
class Number:
    """A number of both runs in the head of the page."""

    name: str
    before: str
    after: str
    change: str = ""


@dataclass(frozen=True)
class ShownOutput:
    """An output in the page. `slides` tells whether both files stand in the page and can be laid over each other."""

    name: str
    text: str
    before: MediaFile | None = None
    after: MediaFile | None = None
    equal: bool = False
    slides: bool = False
    frames: int | None = None
    worst: int | None = None
    notes: Sequence[str] = ()


def comparison_page(found: Comparison, limits: Limits, broken: Sequence[str], beside: Path) -> tuple[str, list[str]]:
    """The page of a comparison.

    Args:
        found: The comparison.
        limits: The limits of the command line.
        broken: A sentence for each limit that is not kept.
        beside: The folder of the page.

    Returns:
        Its HTML, and warnings for the user.
    """
    media = Media(beside)
    sections = [
        _outputs(found, media),
        _times(found),
        _differences(found),
        *_warnings(found),
    ]
    names = dict.fromkeys(run.record.workflow.name for run in (found.before, found.after))
    title = " and ".join(names)
    panel = Panel(title, sections, _head(found, limits, broken), label="two runs compared")
    return shell.page(f"{shortened(title, 80)} · sgd report", [panel]), media.notes


def _head(found: Comparison, limits: Limits, broken: Sequence[str]) -> Markup:
    sides = [Side(letter, run.name, _about(run)) for letter, run in (("A", found.before), ("B", found.after))]
    numbers = [
        Number(title, f"{seconds(pair.before)} s", f"{seconds(pair.after)} s", _change(pair))
        for title, pair in (("run and save", found.totals["run"]), ("whole time", found.totals["whole"]))
    ]
    one, other = found.before.record.peak_bytes, found.after.record.peak_bytes
    if one and other:
        peaks = TimePair("peak", one, other)
        numbers.append(Number("peak memory", count(one, "B", 1024), count(other, "B", 1024), _change(peaks)))
    alike = [pair.likeness.psnr for pair in found.outputs if pair.likeness is not None]
    least = min((value for value in alike if value is not None), default=None)
    if least is not None and least != float("inf"):
        numbers.append(Number("lowest PSNR", "", f"{least:.2f} dB"))
    return piece("head", sides=sides, numbers=numbers, broken=broken, limits=_limits(limits))


def _about(run: ComparedRun) -> str:
    device = run.record.environment.get("device", "")
    return f"{run.record.workflow.name}, {run.record.status}" + (f", on {device}" if device else "")


def _limits(limits: Limits) -> str:
    parts = [f"at most {limits.slower * 100:g} % slower"] if limits.slower is not None else []
    parts += [f"at least {limits.psnr:g} dB PSNR"] if limits.psnr is not None else []
    return ", ".join(parts)


def _outputs(found: Comparison, media: Media) -> Section:
    shown = [_output(pair, found, media) for pair in found.outputs]
    return Section("outputs", "Outputs", piece("sliders", outputs=shown), "A is the first run, B the second.")


def _output(pair: OutputPair, found: Comparison, media: Media) -> ShownOutput:
    if pair.before is None or pair.after is None:
        return ShownOutput(pair.name, pair.text())
    before = _file(pair.before, found.before, media)
    after = _file(pair.after, found.after, media) if not pair.equal else None
    alike = pair.likeness
    slides = after is not None and bool(before.data and after.data) and before.kind == after.kind
    return ShownOutput(
        pair.name,
        pair.text(),
        before,
        after,
        equal=bool(pair.equal),
        slides=slides,
        frames=min(alike.frames) if alike is not None else None,
        worst=alike.worst_frame if alike is not None and min(alike.frames) > 1 else None,
        notes=alike.notes if alike is not None else (),
    )


def _file(path: Path, run: ComparedRun, media: Media) -> MediaFile:
    return media.file(run.folder, path.name, str(path.relative_to(run.folder.resolve())))


def _times(found: Comparison) -> Section:
    device = any(pair.device for pair in found.nodes)
    columns = [
        Column("node"),
        Column("A", number=True, about="seconds"),
        Column("B", number=True, about="seconds"),
        Column("change", number=True, about="B against A"),
        Column("difference", number=True, about="seconds of B less those of A"),
        Column("calls", number=True, about="of A and of B, if they differ"),
        Column("type"),
    ]
    largest = max((abs(_difference(pair) or 0.0) for pair in found.nodes), default=0.0)
    rows = [_row(pair, largest) for pair in found.nodes]
    body = table("Seconds of each node in both runs", columns, rows)
    phases = [
        [Cell(pair.name, mono=True), *_cells(pair)]
        for pair in (*found.phases, TimePair("whole", found.before.record.seconds, found.after.record.seconds))
    ]
    body += piece("subheading", title="Phases")
    body += table("Seconds of each phase in both runs", [Column("phase"), *columns[1:4]], phases, sortable=False)
    about = "Seconds on the device, where both runs have them." if device else "Seconds."
    about += "".join(f" Times cannot be compared: {note}." for note in found.time_notes)
    return Section("times", "Times", body, about)


def _row(pair: NodePair, largest: float) -> list[Cell]:
    depth = pair.name.count(".")
    one, other = pair.calls
    calls = str(other) if one == other else f"{one}, {other}"
    difference = _difference(pair)
    bar = abs(difference) / largest if difference is not None and largest > 0 else None
    if difference is None:
        text = "-"
    else:
        text = f"{'+' if difference > 0 else '−'}{seconds(abs(difference))}" if abs(difference) >= 0.00005 else "0"
    return [
        Cell(pair.name.rsplit(".", 1)[-1], depth=min(depth, 6), mono=True),
        *_cells(pair),
        Cell(text, order=difference, bar=bar),
        Cell(calls, order=other),
        Cell(pair.type),
    ]


def _cells(pair: TimePair) -> list[Cell]:
    return [
        Cell(seconds(pair.before), order=pair.before),
        Cell(seconds(pair.after), order=pair.after),
        Cell(_change(pair), order=pair.ratio),
    ]


def _change(pair: TimePair) -> str:
    """The change with a minus sign instead of a hyphen."""
    return change(pair.ratio).replace("-", "−") if pair.ratio is not None else "-"


def _difference(pair: TimePair) -> float | None:
    return None if pair.before is None or pair.after is None else pair.after - pair.before


def _differences(found: Comparison) -> Section:
    body = Markup()
    if found.files.note:
        body += piece("note", text=f"{found.files.note[0].upper()}{found.files.note[1:]}.")
    for file in found.files.files:
        left = len(file.lines) - MOST_LINES
        lines = [shortened(line, MOST_LINES) for line in file.lines[:MOST_LINES]]
        body += piece("file", title=file.name, lines=lines)
        body += piece("note", text=f"{left} more lines are left out.") if left > 0 else ""
    for title, rows in kinds(found).items():
        body += piece("changes", title=title.capitalize(), rows=rows) if rows else ""
    about = "" if body else "The workflow, its inputs and the environment are equal."
    return Section("differences", "Differences", body, about)


def _warnings(found: Comparison) -> Iterator[Section]:
    """Warnings that one of the runs has alone."""
    one, other = (list(dict.fromkeys(run.record.warnings)) for run in (found.before, found.after))
    rows: list[Any] = [("A", text) for text in one if text not in other]
    rows += [("B", text) for text in other if text not in one]
    if rows:
        yield Section("warnings", "Warnings", piece("warnings", rows=rows), "Warnings of one run alone.")
