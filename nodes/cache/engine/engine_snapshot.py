"""The memory of an engine after a step, for a run that is resumed in another process. Tensors are held, not copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ....graph.contract.processes import Mesh
from ..gate import Gate
from .decide import Decider
from .divided_rows import OwnPart, WholeRows
from .kept_rows import KeptRow, Together
from .predictors import Taylor
from .row_cache import RowCache
from .row_snapshot import DECIDER, RowSnapshot

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class EngineSnapshot:
    """An `Engine` after a step. Until its component runs again, it takes the engine's place in the state.

    Attributes:
        gate: The resolved gate.
        indices: The steps at which each branch runs.
        branch_caches: The memory of each branch: for each clip, one for each stack.
        dtype: Name of the dtype of the model's output; None if no step of the whole model was computed yet.
        cut: The streams (`hidden`, `text`) of which these tensors hold only this process's part of the tokens.
    """

    transformer: ClassVar[None] = None

    gate: Gate
    indices: Mapping[str, tuple[int, ...]]
    branch_caches: Mapping[str, Sequence[Sequence[RowSnapshot]]]
    dtype: str | None
    cut: tuple[str, ...] = ()

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
        _cut(engine),
    )


def _cut(engine: Engine) -> tuple[str, ...]:
    """The streams that are cut: none where a gate compares whole outputs of the model."""
    component = engine.component
    if component.parts is None or engine.gated is None:
        return ()
    return ("hidden", "text") if component.family.sequence.text else ("hidden",)


def of_branches(kept: EngineSnapshot, names: Sequence[str]) -> EngineSnapshot:
    """The memory of some branches of guidance."""
    indices = {name: steps for name, steps in kept.indices.items() if name in names}
    caches = {name: clips for name, clips in kept.branch_caches.items() if name in names}
    return replace(kept, indices=indices, branch_caches=caches)


def whole(ranks: Sequence[EngineSnapshot | None], mesh: Mesh) -> EngineSnapshot:
    """Join the memories of all ranks, in order, into that of one process. None stands for a rank that has not run."""
    indices: dict[str, tuple[int, ...]] = {}
    caches: dict[str, Sequence[Sequence[RowSnapshot]]] = {}
    for first in range(0, mesh.size, mesh.sequence):
        branch = [rank for rank in ranks[first : first + mesh.sequence] if rank is not None]
        if not branch:
            continue
        rows = WholeRows(branch[0].cut)
        indices |= branch[0].indices
        for name in branch[0].branch_caches:
            clips = zip(*(rank.branch_caches[name] for rank in branch), strict=True)
            caches[name] = [[rows.of(row) for row in zip(*stacks, strict=True)] for stacks in clips]
    kept = [rank for rank in ranks if rank is not None]
    dtype = next((rank.dtype for rank in kept if rank.dtype is not None), None)
    return EngineSnapshot(kept[0].gate, indices, caches, dtype)


def restore(engine: Engine, kept: EngineSnapshot) -> None:
    """Give a new engine the memory of an earlier one of the same gate and component."""
    import torch

    if kept.dtype is not None:
        engine.whole.dtype = getattr(torch, kept.dtype)
    engine.indices.update(kept.indices)
    part = OwnPart(engine.component.parts, _cut(engine))
    for name, clips in kept.branch_caches.items():
        engine.branch_caches[name] = [[_cache(engine, name, row, part) for row in stacks] for stacks in clips]


def _cache(engine: Engine, branch: str, kept: RowSnapshot, part: OwnPart) -> RowCache:
    decider = Decider(engine.gate, engine.component.steps, branch)
    for name, value in zip(DECIDER, kept.decider, strict=True):
        setattr(decider, name, value)
    made = RowCache(decider, engine.ahead(branch).by_step(), Taylor(engine.gate.order), Taylor(engine.gate.order))
    own = part.of(kept)
    for taylor, (step, derivatives) in ((made.hidden, own.hidden), (made.text, own.text)):
        taylor.step, taylor.derivatives = step, list(derivatives)
    made.drift.before, made.drift.computed, made.drift.rate = kept.drift
    made.compared, made.taken, made.latest = own.compared, dict(kept.taken), kept.latest
    made.predictions = kept.predictions
    made.length = next((row.length for row in kept.hidden[1]), None)  # of the whole row
    return made
