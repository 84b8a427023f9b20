"""The limits of `sgd report --compare`: how much slower the second run may be, and how like the first its outputs."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...contract.text_tables import seconds
from .node_times import NodePair, TimePair, change

if TYPE_CHECKING:
    from .comparison import Comparison

SHARE = 0.1
"""The least share of the first run's time from which on the limit of `--fail-over` holds for a single node."""

PERCENT = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?%")


@dataclass(frozen=True)
class Limits:
    """Limits of a comparison; None for no limit.

    Attributes:
        slower: The most by which the second run may be slower: 0.05 for 5 %.
        psnr: The least PSNR of each output, in dB.
    """

    slower: float | None = None
    psnr: float | None = None


def percentage(text: str) -> float:
    """The value of `--fail-over`: 0.05 for `5%`."""
    found = PERCENT.fullmatch(text.strip())
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no percentage: write it like 5%")
    return float(found[1]) / 100


def decibel(text: str) -> float:
    """The value of `--min-psnr`: 40.0 for `40`."""
    try:
        value = float(text.strip().removesuffix("dB"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is no PSNR: write a number of dB above 0, like 40")
    return value


def broken(found: Comparison, limits: Limits) -> list[str]:
    """A sentence for each limit that the second run does not keep."""
    lines: list[str] = []
    if limits.slower is not None:
        lines += _slower(found, limits.slower)
    if limits.psnr is not None:
        lines += _unlike(found, limits.psnr)
    return lines


def _slower(found: Comparison, limit: float) -> Iterator[str]:
    states = [(side, run.record.status) for side, run in (("first", found.before), ("second", found.after))]
    unfinished = [f"the {side} run is {status}" for side, status in states if status != "done"]
    if unfinished:
        yield f"times cannot be compared: {' and '.join(unfinished)}"
        return
    for note in found.time_notes:
        yield f"times cannot be compared: {note}"
        return
    run = found.totals["run"]
    if run.before is None or run.before <= 0:
        yield "times cannot be compared: the first run has no time of running nodes"
        return
    if _over(run, limit):
        yield _sentence("running nodes and saving files", run, limit)
    for pair in found.nodes:
        if pair.leaf and _large(pair, run.before) and _over(pair, limit):
            yield _sentence(pair.name, pair, limit)


def _large(pair: NodePair, whole: float) -> bool:
    return not pair.name.startswith("(") and pair.before is not None and pair.before >= SHARE * whole


def _over(pair: TimePair, limit: float) -> bool:
    return pair.ratio is not None and pair.ratio > 1 + limit


def _sentence(name: str, pair: TimePair, limit: float) -> str:
    took = f"{seconds(pair.after)} s instead of {seconds(pair.before)} s"
    return f"{name} took {took}, {change(pair.ratio)}; the limit is +{limit * 100:g} %"


def _unlike(found: Comparison, limit: float) -> Iterator[str]:
    compared = [pair for pair in found.outputs if pair.before is not None or pair.likeness is not None or pair.problem]
    if not compared:
        yield "no output can be compared: neither run has a picture or a clip"
    for pair in compared:
        if pair.equal:
            continue
        if pair.problem:
            yield f"output {pair.name} cannot be compared: {pair.problem}"
        elif pair.likeness is None:
            yield f"output {pair.name} cannot be compared: it is no picture or clip, and its bytes differ"
        elif pair.likeness.problem is not None:
            yield f"output {pair.name} has another size: {pair.likeness.problem}"
        elif pair.likeness.psnr is None or pair.likeness.psnr < limit:
            yield f"output {pair.name} has {pair.likeness.text()}; the limit is a PSNR of {limit:g} dB"
