"""The finished runs of `sgd tune`, kept in a file until the table is written. Torch-free.

The file holds the runs of several tunings, so that tuning for other steps or prompts loses none of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

NEAR = 1e-3
"""Relative difference of two norms of one velocity: devices round differently, and other seeds or texts differ more."""


@dataclass
class FinishedRuns:
    """The results of the finished runs of one tuning, as JSON.

    Attributes:
        key: Facts that decide the results.
        norms: The norm of the velocity of each step in the first run. It tells apart what the key does not name.
        grams: The Gram matrix of each measured prompt.
        gains: For a step, the growth of an error in its input, for each probed prompt.
        psnr: For a mask, the PSNR of each prompt that was chosen with.
    """

    key: Mapping[str, Any]
    norms: Sequence[float]
    grams: dict[str, list[list[float]]] = field(default_factory=dict)
    gains: dict[str, dict[str, float]] = field(default_factory=dict)
    psnr: dict[str, dict[str, float]] = field(default_factory=dict)

    def same(self, other: FinishedRuns) -> bool:
        """Whether the runs are of the same tuning."""
        return (
            self.key == other.key
            and len(self.norms) == len(other.norms)
            and all(isclose(one, two, rel_tol=NEAR) for one, two in zip(self.norms, other.norms, strict=True))
        )


class FinishedFile:
    """The file of finished runs.

    Args:
        path: The file. It need not exist.

    Attributes:
        problem: The reason why a file that exists cannot be used; None if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self.others: list[FinishedRuns] = []

    def of(self, tuning: FinishedRuns) -> FinishedRuns:
        """The finished runs of a tuning; `tuning` itself if there are none."""
        try:
            found = [FinishedRuns(**each) for each in json.loads(self.path.read_text())["tunings"]]
        except FileNotFoundError:
            return tuning
        except (OSError, ValueError, TypeError, KeyError) as error:
            self.problem = getattr(error, "strerror", None) or "it is damaged"
            return tuning
        own = [each for each in found if each.same(tuning)]
        self.others = [each for each in found if not each.same(tuning)]
        return own[0] if own else tuning

    def content(self, tuning: FinishedRuns | None) -> dict[str, Any]:
        """The content of the file, with or without a tuning."""
        return {"tunings": [asdict(each) for each in (*self.others, *([tuning] if tuning is not None else []))]}
