"""The keeper of a rank: which of its positions it writes, and when the arrays in them are copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.machines import call, graph, plan_of
from sgd.graph.compiler.ir import Ref
from sgd.graph.contract.array_storage import StoredArray
from sgd.graph.resume import snapshot_file
from sgd.graph.resume.keeper import Facts, Keeper
from sgd.graph.resume.position import LoopLevel, Position
from sgd.graph.resume.snapshot_file import Snapshot
from sgd.graph.resume.snapshot_folder import SnapshotFolder


class Marked:
    """An array of which the copy says the moment that it was given."""


class Storage:
    """Counts the moments."""

    def __init__(self) -> None:
        self.moments = 0

    def holds(self, value: Any) -> bool:
        return isinstance(value, Marked)

    def finite(self, value: Any) -> bool:
        return True

    def moment(self) -> int:
        self.moments += 1
        return self.moments

    def stored(self, value: Any, moment: Any = None) -> StoredArray:
        return StoredArray("U8", (1,), bytes([moment or 0]), {})

    def restored(self, stored: StoredArray) -> Any:
        return stored.data[0]


def position(turn: int) -> Position:
    return Position((LoopLevel("l", 0, turn, 9),), {}, {Ref("a", "value"): Marked()})


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    storage = Storage()
    facts = Facts(record=lambda: dict, choices=dict, warn=lambda _: None)
    (tmp_path / ".resume").mkdir()
    plan = plan_of(graph(call("a", "m.machine"), out="$a:machine"))
    return Keeper(SnapshotFolder(tmp_path), plan, lambda: [storage], 1e6, facts)


def written(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The files: the turn, and the bytes of the array."""
    found = {}
    for path in (folder / ".resume").glob("snapshot*"):
        snapshot: Snapshot = snapshot_file.read(path)
        found[path.name] = snapshot.content["levels"][0]["turn"], bytes(snapshot.arrays[0][1].data)
    return found


def test_a_run_that_ends_writes_what_all_ranks_may_have_reached(keeper: Keeper, tmp_path: Path) -> None:
    keeper.offer(position(1), 1, 2)
    keeper.take(agreed=False)
    keeper.offer(position(2), 2, 2)
    keeper.take(agreed=False)
    # Others may not be here, or may have gone on from here and have forgotten turn 2.
    keeper.offer(position(3), 3, 2)
    keeper.close(done=False)
    assert written(tmp_path) == {
        "snapshot-000002-0of2.safetensors": (2, b"\2"),
        "snapshot-000003-0of2.safetensors": (3, b"\3"),
    }


def test_a_whole_snapshot_stays_while_later_ones_lack_parts(tmp_path: Path) -> None:
    folder, content = SnapshotFolder(tmp_path), Snapshot({}, [])
    (tmp_path / ".resume").mkdir()
    for number in (1, 2):
        for rank in (1, 0):
            folder.add(content, number, rank, 2)
    for number in (3, 4, 5):
        folder.add(content, number, 0, 2)
    assert sorted(path.name[9:-12] for path in (tmp_path / ".resume").glob("snapshot*")) == [
        "000002-0of2",
        "000002-1of2",
        "000004-0of2",
        "000005-0of2",
    ]
    found = [each if isinstance(each, str) else len(each.parts) for _, each in folder.snapshots()]
    assert [str(each).endswith("lacks the part of rank 1") for each in found] == [True, True, False]
    assert found[2] == 1
    assert folder.last() == 5
    folder.add(content, 6, 1, 2)
    folder.add(content, 6, 0, 2)
    folder.add(content, 7, 0, 2)
    assert sorted({path.name[9:15] for path in (tmp_path / ".resume").glob("snapshot*")}) == ["000006", "000007"]
