"""The memory of an engine after a step, for a run that is resumed in another process. Tensors are held, not copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..gate import Gate
from .decide import Decider, Decision
from .kept_rows import KeptRow, Together
from .predictors import Taylor
from .row_cache import RowCache

if TYPE_CHECKING:
    import torch

    from .engine import Engine

DECIDER = ("seen", "history", "run", "reused", "measured", "accumulated", "ratio")
"""The attributes of a `Decider` that change from step to step."""


@dataclass(frozen=True)
class RowSnapshot:
    """A `RowCache` after a step: the state of its parts."""

    taken: Mapping[int, Decision]
    latest: int
    decider: tuple[Any, ...]
    hidden: tuple[int, tuple[KeptRow, ...]]
    text: tuple[int, tuple[KeptRow, ...]]
    drift: tuple[Any, ...]
    compared: KeptRow | None
    predictions: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class EngineSnapshot:
    """An `Engine` after a step. Until its component runs again, it takes the engine's place in the state.

    Attributes:
        gate: The resolved gate.
        indices: The steps at which each branch runs.
        branch_caches: The memory of each branch: for each clip, one for each stack.
        dtype: Name of the dtype of the model's output; None if no step of the whole model was computed yet.
    """

    transformer: ClassVar[None] = None

    gate: Gate
    indices: Mapping[str, tuple[int, ...]]
    branch_caches: Mapping[str, Sequence[Sequence[RowSnapshot]]]
    dtype: str | None

    def close(self) -> None:
        """There is nothing to return."""


def snapshot(engine: Engine) -> EngineSnapshot:
    """The memory of an engine. The engine replaces the tensors in it later, and does not write into them."""
    homes: dict[int, Together] = {}

    def held(row: KeptRow) -> KeptRow:
        home = homes.setdefault(id(row.home), Together(row.shared))
        return KeptRow(home, row.at, row.length)

    def expansion(taylor: Taylor) -> tuple[int, tuple[KeptRow, ...]]:
        return taylor.step, tuple(map(held, taylor.derivatives))

    def row(cache: RowCache) -> RowSnapshot:
        drift = cache.drift
        return RowSnapshot(
            dict(cache.taken),
            cache.latest,
            tuple(getattr(cache.decider, name) for name in DECIDER),
            expansion(cache.hidden),
            expansion(cache.text),
            (drift.before, drift.computed, drift.rate),
            None if cache.compared is None else held(cache.compared),
            cache.predictions,
        )

    dtype = engine.whole.dtype
    return EngineSnapshot(
        engine.gate,
        {name: tuple(steps) for name, steps in engine.indices.items()},
        {name: [list(map(row, stacks)) for stacks in clips] for name, clips in engine.branch_caches.items()},
        None if dtype is None else str(dtype).removeprefix("torch."),
    )


def restore(engine: Engine, kept: EngineSnapshot) -> None:
    """Give a new engine the memory of an earlier one of the same gate and component."""
    import torch

    if kept.dtype is not None:
        engine.whole.dtype = getattr(torch, kept.dtype)
    engine.indices.update(kept.indices)
    for name, clips in kept.branch_caches.items():
        engine.branch_caches[name] = [[_cache(engine, name, row) for row in stacks] for stacks in clips]


def _cache(engine: Engine, branch: str, kept: RowSnapshot) -> RowCache:
    decider = Decider(engine.gate, engine.component.steps, branch)
    for name, value in zip(DECIDER, kept.decider, strict=True):
        setattr(decider, name, value)
    made = RowCache(decider, engine.ahead(branch).by_step(), Taylor(engine.gate.order), Taylor(engine.gate.order))
    for taylor, (step, derivatives) in ((made.hidden, kept.hidden), (made.text, kept.text)):
        taylor.step, taylor.derivatives = step, list(derivatives)
    made.drift.before, made.drift.computed, made.drift.rate = kept.drift
    made.compared, made.taken, made.latest = kept.compared, dict(kept.taken), kept.latest
    made.predictions, made.length = kept.predictions, made.hidden.length
    return made
