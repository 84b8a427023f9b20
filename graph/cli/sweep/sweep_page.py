"""The page of a sweep: the scatter with the front, a table of settings and one of runs, and a grid of outputs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from ...contract.text_tables import seconds, shortened
from ..report import page as shell
from ..report.media_files import Media, MediaFile
from ..report.page import Panel, Section
from ..report.sortable_table import Cell, Column, table
from ..tables import each as entries
from .measured_runs import Measured
from .scatter import scatter
from .settings_summary import Setting
from .sweep_file import Sweep
from .sweep_table import decibels, similarity, steps

piece = partial(shell.piece, template="sweep")
LONGEST = 200
"""Characters of a value in the page."""


@dataclass(frozen=True)
class Filter:
    """A varied name and its values, for a list of choices."""

    name: str
    values: Sequence[str]


@dataclass(frozen=True)
class Card:
    """A run in the grid.

    Attributes:
        number: Its number.
        label: Its values in one line, for readers who do not see the picture.
        places: For each filter, the place of the run's value in it.
        values: Names and values.
        status: See `Measured`.
        facts: Its numbers in one line.
        media: Its first picture or clip; None if it has none.
        empty: The text in place of a picture.
        links: Its further files.
        error: Why it failed.
    """

    number: int
    label: str
    places: str
    values: Sequence[tuple[str, str]]
    status: str
    facts: str
    media: MediaFile | None
    empty: str
    links: Sequence[MediaFile]
    error: str


def sweep_page(
    sweep: Sweep, found: Sequence[Measured], settings: Sequence[Setting], folder: Path
) -> tuple[str, list[str]]:
    """The page of a sweep.

    Args:
        sweep: The sweep.
        found: Its combinations with their numbers.
        settings: Its settings; empty without a reference.
        folder: Its folder, in which the page will lie.

    Returns:
        Its HTML, and warnings for the user.
    """
    media = Media(folder)
    sections = [*_settings(sweep, settings), _runs(sweep, found), _grid(sweep, found, folder, media)]
    panel = Panel(sweep.name, sections, _head(sweep, found, settings), label=f"{len(found)} runs")
    return shell.page(f"{shortened(sweep.name, 80)} · sgd sweep", [panel]), media.notes


def _head(sweep: Sweep, found: Sequence[Measured], settings: Sequence[Setting]) -> Markup:
    done = [each for each in found if each.status == "done"]
    numbers = [("runs", f"{len(done)}" if len(done) == len(found) else f"{len(done)} of {len(found)}")]
    numbers += [("settings", str(len(settings)))] if settings else []
    best = [each for each in settings if each.front and not each.is_reference]
    numbers += [("on the front", str(len(best)))] if settings else []
    numbers += [("all runs", f"{seconds(sum(each.seconds or 0.0 for each in done))} s")]
    varied = [(each.name, ", ".join(shortened(value, 60) for value in each.values)) for each in sweep.varied]
    reference = [(each.name, shortened(each.value, 60)) for each in sweep.reference]
    return piece("head", numbers=numbers, varied=varied, reference=reference, command=_command(sweep))


def _command(sweep: Sweep) -> str:
    words = ["sgd", "sweep", sweep.file]
    words += [f"{name}={value}" for name, value in sweep.inputs.items()]
    for name, value in sweep.settings.items():
        words += ["--set", f"{name}={value}"]
    for each in sweep.varied:
        if each.whole_nodes:
            words += [word for value in each.values for word in ("--vary", f"{each.name}={value}")]
        else:
            plain = all(value and not set(value) & set(",[]{}@:\"'\n") and value == value.strip()
                        for value in each.values)  # fmt: skip
            listed = ",".join(each.values) if plain else f"[{', '.join(_quoted(value) for value in each.values)}]"
            words += ["--vary", f"{each.name}={listed}"]
    for fixed in sweep.reference:
        words += ["--reference", f"{fixed.name}={fixed.value}"]
    words += ["--output", sweep.output] if sweep.output is not None else []
    words += [word for file in sweep.libraries for word in ("--library", file)]
    words += ["--device", sweep.device] if sweep.device != "auto" else []
    words += ["--jobs", str(sweep.jobs)] if sweep.jobs > 1 else []
    words += ["--store", sweep.store] if sweep.store is not None else []
    return shlex.join(words)


def _quoted(value: str) -> str:
    return value if value.startswith("[") else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _settings(sweep: Sweep, settings: Sequence[Setting]) -> Iterator[Section]:
    if not settings:
        return
    places = {each.name: (number, each.values) for number, each in enumerate(sweep.varied)}
    choose = {
        number: " ".join(f"{places[name][0]}:{places[name][1].index(value)}" for name, value in each.values.items())
        for number, each in enumerate(settings)
    }
    drawing = scatter(settings, choose)
    body = piece("scatter", plot=drawing) if drawing is not None else Markup()
    names = list(settings[0].values)
    loops = any(each.loop_seconds is not None for each in settings)
    columns = [
        *(Column(name) for name in names),
        Column("front", about="no other setting is both as fast and as much like the reference"),
        Column("runs", number=True),
        *([Column("loop s", number=True, about="median seconds of the loops")] if loops else []),
        Column("whole s", number=True, about="median seconds of the whole run; shared work counts once"),
        Column("share", number=True, about="of the reference's seconds, pair by pair"),
        Column("steps", number=True, about="median of computed steps"),
        Column("PSNR", number=True, about="median in dB"),
        Column("worst PSNR", number=True),
        Column("SSIM", number=True, about="median"),
        Column("worst SSIM", number=True),
    ]
    rows = [
        [
            *(Cell(shortened(value, LONGEST), mono=True) for value in each.values.values()),
            Cell("reference" if each.is_reference else "yes" if each.front else ""),
            Cell(str(each.runs) if each.runs == each.of else f"{each.runs} of {each.of}", each.runs),
            *([Cell(seconds(each.loop_seconds), each.loop_seconds)] if loops else []),
            Cell(seconds(each.seconds), each.seconds),
            Cell("-" if each.share is None else f"{each.share:.2f}", each.share),
            Cell(steps(each.steps, each.turns), each.steps),
            Cell(decibels(each.psnr), each.psnr),
            Cell(decibels(each.worst_psnr), each.worst_psnr),
            Cell(similarity(each.ssim), each.ssim),
            Cell(similarity(each.worst_ssim), each.worst_ssim),
        ]
        for each in settings
    ]
    title = "Time and likeness" if drawing is not None else "Settings"
    about = "Medians over everything that does not vary in the reference. Choose a point to see its outputs."
    yield Section("settings", title, body + table("Numbers of each setting", columns, rows), about)


def _runs(sweep: Sweep, found: Sequence[Measured]) -> Section:
    names = [each.name for each in sweep.varied]
    compared = any(each.alike is not None for each in found)
    columns = [
        Column("run", number=True),
        *(Column(name) for name in names),
        Column("loop s", number=True, about="seconds of the loops"),
        Column("whole s", number=True, about="seconds of the whole run; shared work counts once"),
        Column("steps", number=True, about="computed steps"),
        *([Column("PSNR", number=True), Column("SSIM", number=True)] if compared else []),
        Column("status"),
    ]
    rows = [
        [
            Cell(str(each.combination.number), each.combination.number),
            *(Cell(shortened(each.combination.values[name], LONGEST), mono=True) for name in names),
            Cell(seconds(each.loop_seconds), each.loop_seconds),
            Cell(seconds(each.seconds), each.seconds),
            Cell(steps(each.steps, each.turns), each.steps),
            *(_alike(each) if compared else []),
            Cell("reference" if each.is_reference else f"{each.status}, reused" if each.reused else each.status),
        ]
        for each in found
    ]
    return Section("runs", "Runs", table("Numbers of each run", columns, rows), "Each run warmed up beforehand.")


def _alike(each: Measured) -> list[Cell]:
    if each.alike is None or each.is_reference:
        return [Cell("-"), Cell("-")]
    alike = each.alike
    return [Cell(decibels(alike.psnr), alike.psnr), Cell(similarity(alike.ssim), alike.ssim)]


def _grid(sweep: Sweep, found: Sequence[Measured], folder: Path, media: Media) -> Section:
    filters = [Filter(each.name, [shortened(value, 60) for value in each.values]) for each in sweep.varied]
    cards = [_card(sweep, each, folder, media) for each in found]
    return Section("outputs", "Outputs", piece("grid", filters=filters, cards=cards), "The first output of each run.")


def _card(sweep: Sweep, each: Measured, folder: Path, media: Media) -> Card:
    values = each.combination.values
    paths = [path for value in (each.outputs or {}).values() for path in entries(value) if isinstance(path, str)]
    run = folder / each.combination.folder
    first, rest = _first(run, paths, media)
    places = " ".join(str(one.values.index(values[one.name])) for one in sweep.varied)
    facts = [f"{seconds(each.compared_seconds)} s"] if each.compared_seconds is not None else []
    facts += [f"{steps(each.steps, each.turns)} steps"] if each.steps is not None else []
    if each.is_reference:
        facts.append("reference")
    elif each.alike is not None:
        facts.append("equal" if each.alike.psnr == float("inf") else f"{decibels(each.alike.psnr)} dB")
    empty = each.status if each.status != "done" else "no picture or clip"
    return Card(
        each.combination.number,
        each.combination.label(),
        places,
        [(name, shortened(value, LONGEST)) for name, value in values.items()],
        each.status,
        ", ".join(facts),
        first,
        first.note if first is not None and first.note else empty,
        [file for file in ([first] if first is not None else []) + rest if file.link],
        shortened(each.error, 600),
    )


def _first(run: Path, paths: Sequence[str], media: Media) -> tuple[MediaFile | None, list[MediaFile]]:
    """The first picture or clip, which stands in the page, and links to the other files."""
    from ..report.media_files import CLIPS, PICTURES

    shown = next((path for path in paths if Path(path).suffix.lower() in PICTURES | CLIPS), None)
    first = media.file(run, shown, shown) if shown is not None else None
    links = Media(media.beside, left=0)  # of these files only the address is taken
    rest = [
        links.file(run, path, path) for path in paths if path != shown and len(path) < 300 and (run / path).is_file()
    ]
    return first, rest
