"""The limits of a workflow's `expect`, compared with the record of a run that is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..compiler.plan import Expected, ExpectedPsnr
from ..contract import interrupts
from ..contract.errors import NodeError
from ..contract.likeness import Likeness
from ..contract.node_library import NodeLibrary
from .recorded_outputs import UnknownOutput, output_files

GIB = 1 << 30
LIMITS = {"seconds": "at most {:g} s", "peak_gib": "at most {:g} GiB", "psnr": "at least {:g} dB"}
VALUES = {"seconds": "{:.2f} s", "peak_gib": "{:.2f} GiB", "psnr": "{:.2f} dB"}


class Stopped(Exception):
    """An interrupt came while files were compared."""


Told = Callable[[str, int], None]
"""Receives the name of an output and the number of its frames that were compared."""


def judged(
    expected: Expected, record: Mapping[str, Any], folder: Path, libraries: Iterable[NodeLibrary], tell: Told
) -> list[Any]:
    """The key `expectations` of a record: a row for each limit.

    A row has `name` (`seconds`, `peak_gib` or `psnr`), `limit`, `value` (null if it is not known, and `inf` for the
    PSNR of equal pixels, as the record writes numbers that are not finite), `met`, and `problem` where the value does
    not tell why the limit is not met. A limit that cannot be compared is not met.

    Args:
        expected: The limits.
        record: The record without this key.
        folder: The output folder.
        libraries: The loaded node libraries, which compare the output with the reference.
        tell: Called before the comparison of an output, and after each of its frames.
    """
    rows = []
    if expected.seconds is not None:
        rows.append(_most("seconds", expected.seconds, record["seconds"]))
    if expected.peak_gib is not None:
        peak = record["peak_bytes"]
        rows.append(_most("peak_gib", expected.peak_gib, None if peak is None else peak / GIB))
    if expected.psnr is not None:
        rows.append(_alike(expected.psnr, record, folder, libraries, tell))
    return rows


def _most(name: str, limit: float, value: float | None) -> dict[str, Any]:
    row = {"name": name, "limit": limit, "value": value, "met": value is not None and value <= limit}
    return row if value is not None else {**row, "problem": "it was not measured on this device"}


def _alike(
    limit: ExpectedPsnr, record: Mapping[str, Any], folder: Path, libraries: Iterable[NodeLibrary], tell: Told
) -> Any:
    row = {"name": "psnr", "limit": limit.least, "value": None, "met": False}
    row |= {"output": limit.output, "reference": limit.written}
    try:
        files = output_files(record, folder, limit.output)
        if len(files) != 1:
            raise UnknownOutput(f"output `{limit.output}` has {len(files)} files, and the reference is one")
        tell(limit.output, 0)
        found = _likeness(limit.reference, files[0], libraries, partial(tell, limit.output))
    except (UnknownOutput, NodeError, OSError) as error:
        return {**row, "problem": str(error)}
    except Stopped:
        return {**row, "problem": "interrupted before the files were compared"}
    except Exception as error:  # of a node library: the run itself is done, and its result must not be lost
        return {**row, "problem": f"the comparison failed: {type(error).__name__}: {error}"}
    if found is None:
        return {**row, "problem": f"{files[0].name} and {limit.written} are not two pictures or clips"}
    value = str(found.psnr) if found.psnr == math.inf else found.psnr
    if found.problem is not None:
        return {**row, "value": value, "problem": f"the output has another size than the reference: {found.problem}"}
    return {**row, "value": value, "met": found.psnr is not None and found.psnr >= limit.least}


def _likeness(
    reference: Path, output: Path, libraries: Iterable[NodeLibrary], tell: Callable[[int], None]
) -> Likeness | None:
    def progress(frames: int) -> None:
        tell(frames)
        if interrupts.pending():
            raise Stopped

    return next((found for each in libraries if (found := each.likeness(reference, output, progress))), None)


def line(row: Mapping[str, Any]) -> str:
    """One row as text: `seconds: 71.20 s (at most 60 s)`."""
    name = row["name"] if row["name"] != "psnr" else f"psnr of `{row['output']}`"
    value = row["value"]
    if value is None:
        shown = "unknown"
    else:
        shown = "equal to the reference" if value == "inf" else VALUES[row["name"]].format(value)
    problem = f"; {row['problem']}" if "problem" in row else ""
    return f"{name}: {shown} ({LIMITS[row['name']].format(row['limit'])}){problem}"
