"""Positions of ranks: a snapshot has a part of each rank, or there is none."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from sgd.graph.contract.processes import Mesh, Processes
from sgd.graph.resume.position import LoopLevel, Position
from sgd.graph.runtime.ranks.rank_positions import RankPositions


class Two(Processes):
    """One of two processes; the other one raises the flags `others`."""

    def __init__(self, rank: int, others: Sequence[bool]) -> None:
        self.rank, self.mesh, self.others = rank, Mesh(branches=2), others

    def any_of(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        return tuple(own or other for own, other in zip(flags, self.others, strict=True))


class Keeper:
    """Notes what it is asked for."""

    is_due = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.asked.append(name)


class Kept:
    """A state that is divided where there is something to keep."""

    @classmethod
    def is_divided(cls, snapshot: Any, mesh: Mesh) -> bool:
        return bool(snapshot)


def positions(rank: int, others: Sequence[bool]) -> tuple[RankPositions, Keeper]:
    keeper, plan = Keeper(), SimpleNamespace(walk=list)
    found = RankPositions(keeper, plan, Two(rank, others), {"loop"})  # type: ignore[arg-type]
    found._split = {"loop.predict": SimpleNamespace(states={"gate": Kept})}  # type: ignore[dict-item]
    return found, keeper


def reached(found: RankPositions, snapshot: Any) -> None:
    states = {("loop.predict", "gate"): snapshot}
    found.reached(Position((LoopLevel("loop", "loop", 1, 4, states, {}, {}),), {}, {}))


def test_no_snapshot_is_written_where_one_rank_alone_has_a_part() -> None:
    has, lacks = [False, False, True, False], [False, False, False, True]
    first, kept = positions(0, lacks)
    reached(first, {"a": 1})
    assert kept.asked == ["offer", "withdraw"]
    other, kept = positions(1, has)
    reached(other, {})
    assert kept.asked == ["withdraw"]
    reached(other, {})  # from now on, this rank writes a part too, with nothing in it
    assert kept.asked == ["withdraw", "offer", "take"]


def test_a_snapshot_of_parts_is_taken_where_all_have_one() -> None:
    for rank in (0, 1):
        found, kept = positions(rank, [False, False, True, False])
        reached(found, {"a": 1})
        assert kept.asked == ["offer", "take"]


def test_rank_0_alone_keeps_a_position_without_parts() -> None:
    for rank, asked in ((0, ["reached"]), (1, ["withdraw"])):
        found, kept = positions(rank, [False, False, False, True])
        reached(found, {})
        assert kept.asked == asked
