"""The section about gates in the report of a run."""

from __future__ import annotations

from typing import Any

from sgd.nodes.cache.decisions_section import section


def decision(step: int, computed: bool, **more: Any) -> dict[str, Any]:
    known = {"node": "loop.predict", "gate": "gate", "component": "transformer", "branch": "positive"}
    return {**known, "step": step, "computed": computed, "distance": 0.5, "threshold": 0.2, "reason": "rule"} | more


def test_no_gate_makes_no_section() -> None:
    assert section({}) == []
    assert section({"gates": [], "gate_totals": []}) == []


def test_each_branch_and_clip_has_a_lane() -> None:
    rows = [decision(n, n == 0, branch=b, clip=c) for n in range(3) for b in ("positive", "negative") for c in (0, 1)]
    (found,) = section({"gates": rows, "gate_totals": [{"gate": "gate", "method": "teacache"}]})
    names = [lane.name for lane in found.lanes]
    assert names == [f"gate (teacache) · {b} · clip {c}" for b in ("positive", "negative") for c in (0, 1)]
    assert found.lanes[0].about == "1 computed, 2 reused (67%)"
    assert [(mark.step, mark.on) for mark in found.lanes[0].marks] == [(0, True), (1, False), (2, False)]


def test_each_run_of_an_inner_loop_has_a_lane() -> None:
    (found,) = section({"gates": [decision(n, True) for n in (0, 1, 2, 0, 1)]})
    assert [lane.name for lane in found.lanes] == ["gate · positive · run 1 of 2", "gate · positive · run 2 of 2"]
    assert [len(lane.marks) for lane in found.lanes] == [3, 2]


def test_the_compared_number_is_the_value_where_there_is_one() -> None:
    rows = [decision(0, True, distance=None), decision(1, True, value=0.7), decision(2, True, distance="nan")]
    (found,) = section({"gates": rows})
    values = [mark.value for mark in found.lanes[0].marks]
    assert values[:2] == [None, 0.7]
    assert values[2] is not None
    assert values[2] != values[2]
