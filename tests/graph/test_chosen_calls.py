"""The calls that `--profile-nodes` and `--profile-steps` choose."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sgd.graph.contract.errors import NodeError
from sgd.graph.runtime.observers.chosen_calls import ChosenCalls, Steps, matches


def named(*paths: str) -> Any:
    return SimpleNamespace(id=paths[0], names=paths)


BOUND = st.none() | st.integers(0, 40)


@given(BOUND, BOUND, st.none() | st.integers(1, 5))
def test_a_range_is_a_slice_of_python(first: int | None, stop: int | None, by: int | None) -> None:
    text = f"{'' if first is None else first}:{'' if stop is None else stop}" + ("" if by is None else f":{by}")
    expected = list(range(50))[slice(first, stop, by)]
    if not expected:
        with pytest.raises(NodeError, match="chooses no step"):
            Steps.of(text)
        return
    assert [turn for turn in range(50) if turn in Steps.of(text)] == expected


def test_single_steps_and_several() -> None:
    assert [turn for turn in range(12) if turn in Steps.of("5")] == [5]
    assert [turn for turn in range(12) if turn in Steps.of("0, 5:8,10:")] == [0, 5, 6, 7, 10, 11]


@pytest.mark.parametrize("text", ["", "a", "-1", "1:2:3:4", "0:3,", "1.5", "0x3", "²", "1" * 4000, ":::", "0:9:0"])
def test_other_texts_are_errors(text: str) -> None:
    with pytest.raises(NodeError, match="--profile-steps"):
        Steps.of(text)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("*", True),
        ("denoise.loop.predict", True),
        ("denoise", True),
        ("denoise.loop", True),
        ("*.predict", True),
        ("d?noise*", True),
        ("other", True),
        ("[de]*.loop", True),
        ("predict", False),
        ("Denoise", False),
        ("denoise.loo", False),
    ],
)
def test_a_pattern_takes_paths_and_what_stands_around_them(pattern: str, chosen: bool) -> None:
    assert matches(pattern, named("denoise.loop.predict", "other.predict")) is chosen


def test_a_call_is_in_the_step_of_its_innermost_loop() -> None:
    chosen = ChosenCalls("*", Steps.of("1"))
    outer, inner = SimpleNamespace(id="o"), SimpleNamespace(id="o.i")
    call = named("o.i.x")
    assert chosen.holds(call)  # outside of loops there are no steps
    chosen.loop_started(outer)
    found = []
    for turn in range(2):
        chosen.turn_started(outer, turn)
        found.append(chosen.holds(call))
        chosen.loop_started(inner)
        for step in range(3):
            chosen.turn_started(inner, step)
            found.append(chosen.holds(call))
        chosen.loop_finished()
    assert found == [False, False, True, False, True, False, True, False]
    chosen.loop_finished()
    assert not chosen.turns
    assert chosen.problem() == ""


def test_steps_that_no_loop_has_are_a_problem() -> None:
    chosen, loop = ChosenCalls("*", Steps.of("9:12")), SimpleNamespace(id="loop")
    assert chosen.problem() == "", "there is no loop"
    chosen.loop_started(loop)
    for turn in range(4):
        chosen.turn_started(loop, turn)
    chosen.loop_finished()
    assert chosen.problem() == "--profile-steps chooses no turn: the loops have turns from 0 to 3"
