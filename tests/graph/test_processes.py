"""Runs in several processes, without any: arrangements, the calls of each rank, faults and stalls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers import rank_toys
from sgd.graph.cli.commands import show_plan
from sgd.graph.cli.main import main
from sgd.graph.cli.ranks import rank_options
from sgd.graph.cli.ranks.rank_options import require_all_cards
from sgd.graph.compiler.checks.process_mesh import Asked
from sgd.graph.compiler.compile import Checked, check, plan_of
from sgd.graph.contract import device
from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.errors import DoesNotFit, NodeError
from sgd.graph.contract.events import Observer
from sgd.graph.contract.node import node
from sgd.graph.contract.processes import Mesh, Place, Processes, mesh_of, read_mesh
from sgd.graph.contract.rank_start import RankPlace, rank_place
from sgd.graph.language.registry import Library, installed
from sgd.graph.runtime.clock import Clock
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.ranks.lost_rank import lost_rank
from sgd.graph.runtime.ranks.placed_steps import PlacedSteps
from sgd.graph.runtime.ranks.rank_beat import Beat
from sgd.graph.runtime.ranks.rank_events import RankEvents, hear_last
from sgd.graph.runtime.ranks.rank_fault import Fault, ended, posted
from sgd.graph.runtime.ranks.rank_position import RankPosition
from sgd.graph.runtime.ranks.rank_warnings import RankWarnings, others_warnings
from sgd.graph.runtime.ranks.roles import roles_of
from sgd.graph.runtime.ranks.run_ranks import RunRanks, fingerprint
from sgd.graph.runtime.ranks.stall import StallJudge
from sgd.nodes.models.ranks import starting

TEXT = """
sgd: 1
name: toys
inputs:
  fault: {enum: [none, raise, memory, exit, kill, stop, hang, drift], default: none}
  turns: {type: "list[int]", default: [0, 1, 2, 3]}
nodes:
  start: {uses: toy.start, with: {value: 1.0, rank: 1}}
  once: {uses: toy.once, with: {number: $start}}
  loop:
    for: {turn: $turns}
    carry: {state: $once}
    body:
      together: {uses: toy.together, with: {number: $state, turn: $turn, fault: $fault}}
    yield: {state: $together}
  after: {uses: toy.once, with: {number: $loop}}
  file: {uses: toy.write, with: {number: $after, path: number.txt}}
  second: {uses: toy.write, with: {number: $file, path: second.txt}}
outputs: {file: $file, second: $second}
"""


class Words(dict[str, str]):
    """A board in memory."""

    def post(self, name: str, text: str) -> None:
        self[name] = text

    def first(self, name: str, text: str) -> str:
        return self.setdefault(name, text)

    def read(self, name: str) -> str | None:
        return self.get(name)


class Rank(Processes):
    """A rank that hears nothing from others."""

    def __init__(self, rank: int, mesh: Mesh) -> None:
        self.rank, self.mesh = rank, mesh


@pytest.fixture(scope="module")
def library() -> Library:
    return installed((Path(rank_toys.__file__),))


def checked(folder: Path, library: Library, text: str = TEXT, **asked: Any) -> Checked:
    file = folder / "toys.yaml"
    file.write_text(text)
    return check(file, library=library, asked=Asked(**asked) if asked else None)


def messages(found: Checked) -> list[str]:
    assert all(d.code in ("unsupported", "bad-value") for d in found.diagnostics)
    return [f"{d.severity}: {d.message}" for d in found.diagnostics]


def test_a_mesh_is_branches_by_ulysses_by_ring() -> None:
    mesh = read_mesh("branches=2,ulysses=3,ring=2")
    assert mesh == Mesh(2, 3, 2) == mesh_of({"branches": 2, "ulysses": 3, "ring": 2})
    assert (mesh.size, mesh.sequence, str(mesh)) == (12, 6, "branches=2,ulysses=3,ring=2")
    assert [mesh.place(rank) for rank in (0, 1, 2, 6, 11)] == [
        Place(0, 0, 0),
        Place(0, 0, 1),
        Place(0, 1, 0),
        Place(1, 0, 0),
        Place(1, 2, 1),
    ]
    assert mesh.ranks("branches", 7) == (1, 7)
    assert mesh.ranks("ulysses", 7) == (7, 9, 11)
    assert mesh.ranks("ring", 7) == (6, 7)
    assert mesh.ranks("sequence", 7) == (6, 7, 8, 9, 10, 11)
    assert mesh.ranks("all", 7) == tuple(range(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("branches", "`branches` is no axis with a size"),
        ("", "an axis is missing"),
        ("branches=2,", "an axis is missing"),
        ("rings=2", "`rings` is no axis: the axes are branches, ulysses, ring"),
        ("ulysses=0", "`ulysses` takes a whole number from 1, not 0"),
        ("branches=3", "`branches` is 1 or 2, not 3"),
        ("ring=2,ring=2", "`ring` stands twice"),
    ],
)
def test_a_mesh_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(NodeError, match=message.replace("(", r"\(")):
        read_mesh(text)


@pytest.mark.parametrize("options", [{"processes": "Once"}, {"processes": "split", "effect": True}])
def test_a_node_with_a_wrong_placement_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"toy\.wrong: .*processes="):

        @node("toy.wrong", **options)
        def wrong(*, number: int) -> int:
            return number


def test_ring_takes_the_ranks_beyond_the_number_of_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sgd chooses the arrangement with the fewest ranks along `ring` among those that a node accepts."""

    def check_mesh(facts: Any, mesh: Mesh) -> list[Diagnostic]:
        return [Diagnostic("unsupported", "too few heads")] if mesh.ulysses > 12 or mesh.branches > 2 else []

    toys = installed((Path(rank_toys.__file__),))
    monkeypatch.setitem(toys.nodes, "toy.together", replace(toys.nodes["toy.together"], check_mesh=check_mesh))
    found = {count: checked(tmp_path, toys, processes=count).mesh for count in (24, 64, 7, 13, 26)}
    assert found == {24: Mesh(2, 12), 64: Mesh(2, 8, 4), 7: Mesh(1, 7), 13: Mesh(1, 1, 13), 26: Mesh(2, 1, 13)}


def test_a_host_with_fewer_cards_than_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"auto": "cuda", "cuda": "cuda", "cpu": "cpu"}
    monkeypatch.setattr(rank_options, "choose", lambda device, _: chosen[device])
    place = RankPlace(0, 4, 0, on_host=4, cards=2)
    with pytest.raises(NodeError, match="4 processes need 4 GPUs, and this machine has 2"):
        require_all_cards("auto", 4, place)
    require_all_cards("cpu", 4, place)
    monkeypatch.setitem(chosen, "auto", "cpu")
    require_all_cards("auto", 4, place)  # a run without a library that uses GPUs
    for enough in (replace(place, cards=4), replace(place, cards=None), replace(place, on_host=2)):
        require_all_cards("cuda", 4, enough)


def test_cards_that_ranks_share_are_those_that_they_may_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "CARDS", tmp_path)
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.shared_cards() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert device.shared_cards() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device.shared_cards() is None, "a launcher may have chosen it for this rank"


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [starting._environments(n, 1)[0]["OMP_NUM_THREADS"] for n in (1, 3, 16)] == ["8", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert starting._environments(3, 1)[2]["OMP_NUM_THREADS"] == "5"


def test_the_place_of_a_rank_comes_from_the_launcher() -> None:
    given = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert rank_place(given) == RankPlace(3, 4, 1, None)
    assert rank_place(given | {"SGD_STARTED_BY": "12"}) == RankPlace(3, 4, 1, 12)
    assert rank_place(given | {"LOCAL_WORLD_SIZE": "2"}) == RankPlace(3, 4, 1, None, 2)
    assert rank_place({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) is None


def test_the_command_line_wins_over_the_file_and_a_choice_is_made_without_both(
    tmp_path: Path, library: Library
) -> None:
    file = TEXT + "run: {parallel: {branches: 2, ulysses: 2}}\n"
    assert checked(tmp_path, library, file, processes=None).mesh == Mesh(2, 2)
    assert checked(tmp_path, library, file, processes=2, mesh=Mesh(ulysses=2)).mesh == Mesh(1, 2)
    assert checked(tmp_path, library, processes=4).mesh == Mesh(2, 2)
    assert checked(tmp_path, library, processes=3).mesh == Mesh(1, 3)
    assert checked(tmp_path, library, processes=1).mesh == Mesh()
    assert checked(tmp_path, library, file, processes=2).mesh == Mesh(2)
    assert checked(tmp_path, library, file, processes=1).mesh == Mesh()
    assert messages(checked(tmp_path, library, file, processes=2, mesh=Mesh(2, 2))) == [
        "error: branches=2,ulysses=2 is for 4 processes, not for 2"
    ]
    assert messages(checked(tmp_path, library, file)) == [
        "warning: this runs in one process; `run` of the file asks for branches=2,ulysses=2"
    ]


def test_impossible_arrangements_are_reported_where_they_stand(tmp_path: Path, library: Library) -> None:
    found = checked(tmp_path, library, mesh=Mesh(ring=2))
    assert messages(found) == ["error: a toy has no ring"]
    assert found.diagnostics[0].span is not None
    assert found.diagnostics[0].span.line == 14
    file = TEXT + "run: {parallel: {rings: 2}}\n"
    assert messages(checked(tmp_path, library, file, processes=2)) == [
        "error: `parallel`: `rings` is no axis: the axes are branches, ulysses, ring"
    ]
    one = "sgd: 1\nnodes: {a: {uses: toy.start}}\noutputs: {a: $a}\n"
    assert messages(checked(tmp_path, library, one, processes=2)) == [
        "error: no node of this workflow can be computed by several processes"
    ]


def test_a_split_node_after_an_effect_is_an_error(tmp_path: Path, library: Library) -> None:
    text = TEXT.replace("outputs:", "  late: {uses: toy.together, with: {number: $file, turn: 0}}\noutputs:")
    text = text.replace("second: $second}", "second: $second, late: $late}")
    problem = "toy.together reads the result of a node that writes files, which only one process runs"
    assert messages(checked(tmp_path, library, text, processes=2)) == [f"error: {problem}"]
    assert messages(checked(tmp_path, library, text, processes=1)) == []


def test_each_rank_runs_its_calls(tmp_path: Path, library: Library) -> None:
    plan = plan_of(checked(tmp_path, library, processes=2), library)
    steps = [PlacedSteps(plan, Context(tmp_path, Observer()), Rank(rank, Mesh(2))) for rank in (0, 1)]
    assert set(steps[0].skipped) == set()
    assert set(steps[1].skipped) == {"after", "file", "second"}
    assert steps[0].once == steps[1].once == {"once"}


def test_another_plan_or_mesh_has_another_fingerprint(tmp_path: Path, library: Library) -> None:
    plans = [plan_of(checked(tmp_path, library, text), library) for text in (TEXT, TEXT, TEXT.replace("1.0", "2.0"))]
    prints = [fingerprint(plan, Mesh(2)) for plan in plans]
    assert prints[0] == prints[1] != prints[2]
    assert fingerprint(plans[0], Mesh(1, 2)) != prints[0]


def test_ranks_compare_their_devices_before_they_join(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(checked(tmp_path, library, processes=2), library)
    board = Words()
    monkeypatch.setattr(RunRanks, "_watch", lambda _: None)
    joins: list[int] = []

    def joined() -> Processes:
        joins.append(1)
        raise NodeError("a double joins nobody")

    def join(rank: int, device: str, card: str) -> str:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", card)
        ranks = RunRanks(plan, RankPlace(rank, 2, rank), Mesh(2), device, Clock())
        ranks.library = cast(Any, SimpleNamespace(join_ranks=lambda *_: SimpleNamespace(board=board, join=joined)))
        with pytest.raises(NodeError) as error:
            ranks.join(Context(tmp_path, Observer()))
        return str(error.value)

    assert join(0, "cuda", "0") == "a double joins nobody"
    assert join(1, "cpu", "") == "this process runs on cpu, and rank 0 on cuda"
    assert join(1, "cuda", "0") == "this process and rank 0 take one GPU, CUDA_VISIBLE_DEVICES=0"
    assert len(joins) == 1
    assert join(2, "cuda", "1") == "a double joins nobody"
    monkeypatch.setenv("GROUP_RANK", "1")  # another host
    assert join(3, "cuda", "0") == "a double joins nobody"


def test_the_first_fault_stays() -> None:
    board = Words()
    assert posted(board) is None
    first = Fault(1, "rank 1: it broke", "mend it", memory=True)
    assert first.post(board) == first
    assert Fault(0, "rank 0: lost the others").post(board) == first == posted(board)
    assert isinstance(first.error(), DoesNotFit)
    assert str(first.error()) == "rank 1: it broke\n = help: mend it"


def test_a_rank_that_told_nothing_has_a_fault_from_its_exit_code() -> None:
    def place(rank: int) -> str:
        return f"in node {rank}"

    assert ended(1, -9, place).message == "rank 1 was killed by signal 9 (SIGKILL) in node 1"
    assert ended(2, 7, place).message == "rank 2 ended with exit code 7 in node 2"
    assert ended(0, 3, place).message == "rank 0 was interrupted in node 0"


class Gone(Words):
    """A board whose process has gone."""

    def read(self, name: str) -> str | None:
        raise OSError("Failed to recv, got 0 bytes")


def test_ranks_that_could_not_join_name_the_process_that_has_gone(tmp_path: Path, library: Library) -> None:
    plan = plan_of(checked(tmp_path, library, processes=2), library)
    ranks = RunRanks(plan, RankPlace(0, 2, 0, starter=os.getpid()), Mesh(2), "cpu", Clock())
    ranks.joined = cast(Any, SimpleNamespace(board=Gone(), is_lost=lambda error: isinstance(error, ConnectionError)))
    error = NodeError("the other processes did not come: Failed to recv, got 0 bytes")
    error.__cause__ = ConnectionError("Failed to recv, got 0 bytes")
    gone = "the process that started the ranks has gone, so the run ends"
    assert str(ranks.judged(error, memory=False)) == gone
    with pytest.raises(NodeError, match=gone):  # its parent is another one
        ranks.join(Context(tmp_path, Observer()))


def beats(*given: tuple[int, int, bool, float]) -> dict[int, Beat]:
    """A beat of each rank: its serial, its count, whether it waits, its limit."""
    return {
        rank: Beat(serial=serial, count=count, node=f"n{rank}", limit=limit, waits=waits)
        for rank, (serial, count, waits, limit) in enumerate(given)
    }


def test_a_rank_that_holds_up_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = StallJudge(2, 0.0, limit=30.0)
    judge.see(beats((1, 5, False, 30.0), (1, 5, True, 30.0)), 1.0)
    judge.see(beats((2, 5, False, 30.0), (2, 5, True, 30.0)), 30.0)
    assert judge.stalled(30.9) is None
    judge.see(beats((3, 5, False, 30.0), (3, 5, True, 30.0)), 32.0)
    fault = judge.stalled(32.0)
    assert fault is not None
    assert fault.message == "rank 0 does not go on: no progress for 31 s in n0"
    assert fault.help == "SGD_STALL_SECONDS=60 allows more; a node that works for long can call `run.progress`"


def test_slow_ranks_that_hold_up_nobody_go_on() -> None:
    judge = StallJudge(2, 0.0, limit=30.0)
    for second in range(0, 500, 10):
        judge.see(beats((second, 5, False, 30.0), (second, 5, False, 30.0)), float(second))
        assert judge.stalled(float(second)) is None


def test_loading_has_a_limit_of_its_own_and_a_rank_that_is_over_counts_no_more() -> None:
    judge = StallJudge(2, 0.0, limit=30.0)
    for second in range(0, 300, 10):
        judge.see(beats((second, 5, False, 300.0), (second, 9, True, 30.0)), float(second))
        assert judge.stalled(float(second)) is None
    judge = StallJudge(2, 0.0, limit=30.0)
    judge.see({0: Beat(serial=1, over=True), 1: Beat(serial=1, count=1, limit=30.0)}, 0.0)
    judge.see({1: Beat(serial=2, count=2, limit=30.0)}, 100.0)
    assert judge.stalled(100.0) is None


@pytest.mark.parametrize(("limit", "allowed"), [(30.0, {"start": 30.0, "after": 600.0}), (700.0, {"after": 700.0})])
def test_a_node_of_rank_0_alone_has_the_limit_of_files(
    tmp_path: Path, library: Library, limit: float, allowed: dict[str, float]
) -> None:
    text = TEXT.replace("after: {uses: toy.once, with: {", "after: {uses: toy.wait, with: {seconds: 0.0, ")
    plan = plan_of(checked(tmp_path, library, text, processes=2), library)
    placed = PlacedSteps(plan, Context(tmp_path, Observer()), Rank(0, Mesh(2)))
    position = RankPosition(Clock(), limit)
    position.first_only = placed.first_only
    calls = {call.id: call for call in plan.calls()}
    for name, seconds in allowed.items():
        position.node_started(calls[name], {})
        assert position.limit == seconds
        position.node_finished(calls[name], 0.0, {})
        assert position.limit == limit


@pytest.mark.parametrize("text", ["soon", "0", "-3", "inf", "nan"])
def test_a_limit_that_is_no_number_of_seconds_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGD_STALL_SECONDS", text)
    with pytest.raises(NodeError, match=f"SGD_STALL_SECONDS={text} is no number of seconds above 0"):
        StallJudge(2, 0.0)
    monkeypatch.setenv("SGD_STALL_SECONDS", "2.5")
    assert StallJudge(2, 0.0).limit == 2.5


def test_ranks_that_all_wait_and_a_rank_that_is_silent_are_stalled() -> None:
    judge = StallJudge(2, 0.0, limit=30.0)
    for second in (1.0, 20.0, 40.0):
        judge.see(beats((int(second), 7, True, 30.0), (int(second), 5, True, 30.0)), second)
    fault = judge.stalled(40.0)
    assert fault is not None
    assert fault.rank == 1
    assert fault.help == "SGD_STALL_SECONDS=60 allows more"
    judge = StallJudge(2, 0.0, limit=30.0)
    for second in (1.0, 20.0, 40.0):
        judge.see(beats((1, 7, False, 600.0), (int(second), int(second), False, 30.0)), second)
    fault = judge.stalled(40.0)
    assert fault is not None
    assert fault.message == "rank 0 has said nothing for 39 s; it was in n0"
    assert fault.help == "SGD_STALL_SECONDS=60 allows more"


def test_warnings_of_other_ranks_name_their_ranks() -> None:
    board, call = Words(), cast(Any, SimpleNamespace(id="loop.together"))
    ranks = [RankWarnings() for _ in range(3)]
    for rank, warnings in enumerate(ranks):
        warnings.warned(None, "all have one card")
        warnings.post(board, rank)
        for message in ("a toy is loose", "a toy squeaks")[:rank]:
            warnings.warned(call, message)
        warnings.post(board, rank)
    told = ["rank 1, 2: loop.together: a toy is loose", "rank 2: loop.together: a toy squeaks"]
    assert others_warnings(board, 3, ranks[0].messages) == told
    assert others_warnings(board, 3, [*ranks[0].messages, *told]) == []


def test_the_rank_with_the_fewest_exchanges_is_behind() -> None:
    """Rank 0 counts more events, such as those of files."""
    judge = StallJudge(2, 0.0, limit=30.0)
    for second in (1, 20, 40):
        ranks = {0: Beat(second, count=9, exchanges=4), 1: Beat(second, count=7, exchanges=5)}
        judge.see({rank: replace(beat, waits=True, limit=30.0) for rank, beat in ranks.items()}, float(second))
    fault = judge.stalled(40.0)
    assert fault is not None
    assert fault.rank == 0


class Two(Rank):
    """One of two ranks, which sends by way of a list."""

    def __init__(self, rank: int, mesh: Mesh, sent: list[Any]) -> None:
        super().__init__(rank, mesh)
        self.sent = sent

    def broadcast(self, value: Any, source: int = 0) -> Any:
        if self.rank == source:
            self.sent.append(value)
        return self.sent.pop(0) if self.rank != source else value


def test_events_of_other_branches_stand_in_the_order_of_turns() -> None:
    board, mesh = Words(), Mesh(2)
    sent: list[Any] = []
    heard: list[tuple[str, Any]] = []
    ranks = [(RankEvents(), Two(rank, mesh, sent)) for rank in (0, 1)]

    def hear(kind: str, entry: Mapping[str, Any]) -> None:
        heard.append((kind, entry))

    for turn in range(3):
        for rank, (events, processes) in reversed(list(enumerate(ranks))):
            if rank == 0 or turn != 1:
                events.event(None, "decision", {"turn": turn, "rank": rank, "change": float("inf")})
            if turn < 2:
                events.tell(processes, hear if rank == 0 else None)
    assert heard == [("decision", {"turn": 0, "rank": 1, "change": "inf"})]
    ranks[1][0].post(board, 1)  # the last turn, which did not end
    hear_last(board, mesh, hear)
    assert [(kind, entry["turn"]) for kind, entry in heard] == [("decision", 0), ("decision", 2)]


def test_each_rank_is_traced_and_many_ranks_by_role() -> None:
    assert [role.ranks for role in roles_of(Mesh(2, 2))] == [(0,), (1,), (2,), (3,)]
    many = roles_of(Mesh(2, 4, 2))
    assert [(role.ranks, role.branch) for role in many] == [
        ((0,), 0),
        (tuple(range(1, 8)), 0),
        (tuple(range(8, 16)), 1),
    ]
    assert [(role.ranks, role.branch) for role in roles_of(Mesh(ulysses=9))] == [
        ((0,), None),
        (tuple(range(1, 9)), None),
    ]


def plan_of_toys(folder: Path, *words: str) -> int:
    (folder / "toys.yaml").write_text(TEXT)
    return main(["plan", str(folder / "toys.yaml"), "--library", rank_toys.__file__, "--device", "cpu", *words])


def test_a_plan_shows_each_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_of_toys(tmp_path, "--processes", "4", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["parallel"] == {"branches": 2, "ulysses": 2, "ring": 1}
    assert [(role["ranks"], role["branch"]) for role in planned["roles"]] == [([0, 1], 0), ([2, 3], 1)]
    outputs = {row["name"]: row["calls"] for row in planned["nodes"]}
    assert outputs == {"start": 1, "once": 1, "loop.together": 4, "after": 1, "file": 1, "second": 1}
    assert plan_of_toys(tmp_path, "--parallel", "ulysses=9") == 0
    told = capsys.readouterr().out
    assert "processes: 9 (ulysses=9), from --parallel\n" in told
    assert "1 to 8" not in told, "toys send no tensors, so all ranks are alike"
    assert "0 to 8  all" in told
    assert "total FLOP" not in told


@pytest.mark.parametrize(
    ("words", "origin"), [((), "file"), (("--processes", "4"), "file"), (("--processes", "3"), "choice")]
)
def test_a_plan_names_the_origin_of_an_arrangement(
    words: tuple[str, ...], origin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toys.yaml").write_text(TEXT + "run: {parallel: {ulysses: 4}}\n")
    options = ("--library", rank_toys.__file__, "--device", "cpu", "--json")
    assert main(["plan", str(tmp_path / "toys.yaml"), *options, *words]) == 0
    assert json.loads(capsys.readouterr().out)["parallel_from"] == origin


def test_an_impossible_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (("--parallel", "ring=2"), "error[unsupported]: a toy has no ring"),
        (
            ("--processes", "3", "--parallel", "ulysses=2"),
            "ulysses=2 is for 2 processes, not for 3",
        ),
        (("--parallel", "rings=2"), "error: --parallel: `rings` is no axis"),
    ):
        assert plan_of_toys(tmp_path, *words) == 2
        assert message in capsys.readouterr().err


def test_a_plan_for_more_processes_than_cards_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show_plan, "cards", lambda device: 1)
    assert plan_of_toys(tmp_path, "--processes", "2", "--json") == 0
    message = "2 processes need 2 GPUs, and this machine has 1: give --processes 1"
    assert json.loads(capsys.readouterr().out)["warnings"] == [message]


def test_a_rank_that_ended_without_a_word_is_found() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    here = {"node": "loop.together (toy.together)", "turn": "3/4 of loop", "process": os.getpid()}
    gone = here | {"process": process.pid}
    for no_fault in (here, gone | {"over": True}, gone | {"host": "1"}):
        board = Words()
        Beat(**cast(Any, no_fault)).post(board, 1)
        assert lost_rank(board, 3) is None
        assert posted(board) is None
    Beat(**cast(Any, gone)).post(board, 2)
    fault = lost_rank(board, 3)
    assert fault == posted(board)
    assert fault is not None
    assert fault.message == "rank 2 ended without a word in loop.together (toy.together) (turn 3/4 of loop)"
