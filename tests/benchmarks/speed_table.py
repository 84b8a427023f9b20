"""The results of `speed.py` as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.kernels import lines
from benchmarks.speed_results import Measured, Way
from benchmarks.speed_rows import Row

PEERS = "diffusers, s", "others, s"
H200 = "H200"
"""In the name of a card: its seconds are given as ratios to the floor."""


def targets_of(row: Row, found: Measured) -> Mapping[str, float]:
    """Seconds that each way may take; for a row with a share, of what diffusers took."""
    theirs = found.ways.get("diffusers")
    if row.share and theirs is not None and theirs.median is not None:
        return {"exact": row.share * theirs.median}
    return row.targets


def missed(row: Row, found: Measured) -> list[str]:
    """The ways that take longer than their target."""
    wanted = targets_of(row, found)
    return [way for way, most in wanted.items() if (took := _median(found, way)) is not None and took > most]


def table(rows: Sequence[Row], results: Mapping[str, Measured]) -> Iterator[str]:
    """Times beside floors, targets and diffusers; then first calls, peaks, errors and cards; then kernels."""
    if any(not found.machine.product for found in results.values()):
        yield "Tiny models on a CPU were measured: their times mean nothing."
        yield ""
    yield from _heads("work", "way", "s (least to most)", "floor, s", "× floor", "target, s", "time ÷ target", *PEERS)
    measured = [(row, results[row.name]) for row in rows if row.name in results and not results[row.name].failed]
    for row, found in measured:
        for way in shown(row, found):
            yield _times(row, found, way)
    yield ""
    errors = "error to eager", "error to float32"
    yield from _heads("work", "way", "first call, s", "peak, GiB", *errors, "choices", "clock, power")
    for row, found in measured:
        for way, each in found.ways.items():
            if each.seconds:
                yield _facts(row, way, each, found)
    yield ""
    yield from _cards(measured)
    yield ""
    yield from _not_measured(rows, results)
    yield from _kernels(measured)


def _heads(*titles: str) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{' --- |' * len(titles)}"


def shown(row: Row, found: Measured) -> list[str]:
    """The ways with a line of their own in the first table."""
    wanted = dict.fromkeys([*targets_of(row, found), *(way for way in ("exact", "fast") if way in found.ways)])
    return list(wanted)


def _median(found: Measured, way: str) -> float | None:
    return found.ways[way].median if way in found.ways else None


def _times(row: Row, found: Measured, way: str) -> str:
    took, theirs, eager = (_median(found, name) for name in (way, "diffusers", "eager"))
    floor, most = row.floor, targets_of(row, found).get(way)
    ratio_only = H200 in found.machine.card and floor is not None
    best = theirs or eager

    def cell(seconds: float | None) -> str:
        if seconds is None:
            return ""
        return f"{seconds / floor:.2f} × floor" if ratio_only and floor else f"{seconds:.3g}"

    if took is None:
        reason = found.ways[way].failed if way in found.ways else "not measured"
        return f"| {row.title} | {way} | {reason.replace('|', ' ')} | | | {cell(most)} | | {cell(best)} | {row.peer} |"
    values = found.ways[way].seconds
    spread = f"{cell(took)} ({cell(min(values))} to {cell(max(values))})"
    near = "" if most is None else f"{took / most:.3f}" if took > most else f"{took / most:.3f}, reached"
    return (
        f"| {row.title} | {way} | {spread} | {'' if floor is None else f'{floor:.3g}'} | "
        f"{'' if floor is None else f'{took / floor:.2f}'} | {cell(most)} | {near} | {cell(best)} | {row.peer} |"
    )


def _facts(row: Row, way: str, each: Way, found: Measured) -> str:
    names = ("dtype", "attention", "step", "rebuilt_blocks", "quantized_layers", "not_faster", "guidance")
    choices = "; ".join(f"{name} {each.details[name]}" for name in names if name in each.details)
    against = f"{found.errors[way]:.2e}" if way in found.errors else ""
    peak = f"{each.peak / 2**30:.1f}" if each.peak else ""
    return (
        f"| {row.title} | {way} | {each.first:.1f} | {peak} | {each.error:.2e} | {against} | "
        f"{choices.replace('|', ' ')} | {each.state} |"
    )


def _cards(measured: Sequence[tuple[Row, Measured]]) -> Iterator[str]:
    """The machines, with the rows that each measured, and the notes of rows."""
    cards: dict[str, list[str]] = {}
    for row, found in measured:
        card = replace(found.machine, product=round(found.machine.product, -1))
        cards.setdefault(f"{found.date}: {card.text()}", []).append(row.name)
    for text, names in cards.items():
        yield f"- {text}. Rows: {', '.join(names)}."
    for row, found in measured:
        for note in found.notes:
            yield f"- {row.title}: {note}."


def _not_measured(rows: Sequence[Row], results: Mapping[str, Measured]) -> Iterator[str]:
    lacking = [row.title for row in rows if row.name not in results]
    if lacking:
        yield f"Not run: {'; '.join(lacking)}."
    for row in rows:
        if row.name in results and results[row.name].failed:
            yield f"Failed: {row.title}: {results[row.name].failed}"


def _kernels(measured: Sequence[tuple[Row, Measured]]) -> Iterator[str]:
    for row, found in measured:
        for way, each in found.ways.items():
            if each.kernels and each.median is not None:
                yield from ("", f"### {row.title}, {way}", "")
                yield from lines(each.kernels, each.median)
