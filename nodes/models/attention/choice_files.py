"""What `auto` measured about attention backends: one file in the user's cache folder for each case. Torch-free."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....graph.contract.errors import UnreadableFile
from ....graph.contract.json_reader import read_json
from ....graph.contract.kernel_caches import KernelCache
from ....graph.contract.output_files import replace_text
from . import packages
from .backends import named

ATTENTION_CHOICES = KernelCache("attention choices", "attention")

MOST_BYTES = 1 << 16

Timings = Mapping[str, float | None]
"""Seconds of a call for each backend that was tried; None for one that failed or did not agree with the first."""


@dataclass(frozen=True)
class Case:
    """The facts on which a choice depends.

    Attributes:
        card: Name of the device.
        dtype: Name of the dtype.
        query: Shape of the queries, [B, tokens, heads, width].
        key: Shape of the keys.
        masked: Whether a call had a mask.
        normed: Whether the call names the norms of queries and keys, and a candidate uses them.
        candidates: Names of the backends, in diffusers or in `kernels`; the first is the reference.
        versions: Versions of torch and of the backends' packages, each as `package version`.
    """

    card: str
    dtype: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    masked: bool
    normed: bool
    candidates: tuple[str, ...]
    versions: tuple[str, ...]

    def same_machine(self, kept: Mapping[str, Any]) -> bool:
        """Whether facts from a file are of this card, dtype, candidates and versions, of any shape."""
        own = json.loads(json.dumps(asdict(self)))
        return all(kept.get(name) == own[name] for name in ("card", "dtype", "candidates", "versions"))


def versions(candidates: Iterable[str]) -> tuple[str, ...]:
    """The versions of torch, of diffusers, which calls the backends, and of the backends' packages."""
    wanted = {"torch": "torch", "diffusers": "diffusers"}
    for candidate in candidates:
        backend = named(candidate)
        if backend is not None and backend.package is not None:
            wanted[backend.package[0]] = backend.package[1]
    return tuple(f"{package} {packages.installed(package, module)}" for package, module in sorted(wanted.items()))


def read(case: Case) -> Timings:
    """The timings that were kept for a case; empty if there are none.

    Raises:
        UnreadableFile: If the file is damaged.
    """
    path = _path(case)
    if path is None or not path.exists():
        return {}
    value = read_json(path, most=MOST_BYTES)
    found = value.get("seconds") if isinstance(value, Mapping) else None
    if not _of(case, value) or not isinstance(found, Mapping) or not _are_timings(found, case.candidates):
        raise UnreadableFile(f"{path} does not hold timings of attention")
    return {name: None if seconds is None else float(seconds) for name, seconds in found.items()}


def write(case: Case, timings: Timings) -> None:
    """Keep timings. Where there is no cache folder, or it cannot be written, the next run measures again."""
    path = _path(case)
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            replace_text(path, json.dumps({"case": asdict(case), "seconds": dict(timings)}, indent=1) + "\n")


def count(case: Case) -> int:
    """How many shapes have a complete choice, on the card and with the versions of a case. Damaged files have none."""
    folder = ATTENTION_CHOICES.own()
    found = 0
    for path in sorted(folder.glob("*.json")) if folder is not None else ():
        with suppress(UnreadableFile):
            value = read_json(path, most=MOST_BYTES)
            kept = value.get("case") if isinstance(value, Mapping) else None
            timings = value.get("seconds") if isinstance(value, Mapping) else None
            if isinstance(kept, Mapping) and isinstance(timings, Mapping) and case.same_machine(kept):
                found += set(timings) == set(case.candidates)
    return found


def planned(dtype: str, candidates: Iterable[str], card: str | None) -> str:
    """The text of a plan about a choice that a run will make.

    Args:
        dtype: Name of the component's dtype.
        candidates: Names of the backends, in diffusers or in `kernels`.
        card: Name of this machine's GPU; None if torch finds none.
    """
    known = tuple(candidates)
    case = Case(card or "", dtype, (), (), False, False, known, versions(known))
    remembered = count(case) if card is not None else 0
    if not remembered:
        return "measured at the first call"
    return f"remembered for {remembered} size{'s' * (remembered != 1)} on this card; measured for others"


def _path(case: Case) -> Path | None:
    folder = ATTENTION_CHOICES.own()
    name = hashlib.sha256(json.dumps(asdict(case), sort_keys=True).encode()).hexdigest()[:32]
    return None if folder is None else folder / f"{name}.json"


def _of(case: Case, value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("case") == json.loads(json.dumps(asdict(case)))


def _are_timings(value: Mapping[str, Any], candidates: Iterable[str]) -> bool:
    """Whether the keys are candidates, with the reference measured, and the values are times."""
    first, *_ = known = tuple(candidates)
    right = all(s is None or (type(s) in (int, float) and math.isfinite(s) and s > 0) for s in value.values())
    return set(value) <= set(known) and value.get(first) is not None and right
