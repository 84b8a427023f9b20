"""The memory of one row of a batch after a step, for a run that is resumed. Tensors are held, not copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .decide import Decision
from .kept_rows import KeptRow

if TYPE_CHECKING:
    import torch

DECIDER = ("seen", "history", "run", "reused", "measured", "accumulated", "ratio")
"""The attributes of a `Decider` that change from step to step."""


@dataclass(frozen=True)
class RowSnapshot:
    """The state of the parts of a `RowCache` after a step."""

    taken: Mapping[int, Decision]
    latest: int
    decider: tuple[Any, ...]
    hidden: tuple[int, tuple[KeptRow, ...]]
    text: tuple[int, tuple[KeptRow, ...]]
    drift: tuple[Any, ...]
    compared: KeptRow | None
    predictions: tuple[torch.Tensor, ...]
