"""Type variables: what a node type declares as `T` takes a literal, an input or an edge, of one type everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import toys
from sgd.graph.compiler.compile import check, compile
from sgd.graph.language.literals import Given
from sgd.graph.runtime.run import run

HEAD = """
sgd: 1
name: choice
inputs:
  high: {type: float, default: 4.0}
  low: {type: int, default: 3}
  mode: {type: str, default: fast}
nodes:
  choose: {uses: toy.choose, with: {above: ABOVE, below: BELOW, high: HIGH}}
"""
RATIO = HEAD + "  use: {uses: toy.plain, with: {ratio: $choose}}\noutputs: {it: $use}\n"


def write(tmp_path: Path, text: str, above: str, below: str, high: bool = True) -> Path:
    file = tmp_path / "choice.yaml"
    text = text.replace("ABOVE", above).replace("BELOW", below).replace("HIGH", str(high).lower())
    file.write_text(text)
    return file


def ratio_of(file: Path, tmp_path: Path, **settings: Any) -> Any:
    """The values that the node behind the choice got."""
    toys.plain.seen.clear()  # type: ignore[attr-defined]
    done = run(compile(file, set=settings, library=toys.library()), out=tmp_path / "out", overwrite=True)
    assert done.status == "done"
    (seen,) = toys.plain.seen  # type: ignore[attr-defined]
    return seen["ratio"]


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [("4.0", "3.0", (4.0, 3.0)), ("4", "3.5", (4, 3.5)), ("$high", "$low", (4.0, 3)), ("$high", "0.5", (4.0, 0.5))],
    ids=["numbers", "int and float", "inputs", "input and number"],
)
def test_plain_values_may_stand_for_a_type_variable(
    tmp_path: Path, above: str, below: str, expected: tuple[float, float]
) -> None:
    for high, value in zip((True, False), expected, strict=True):
        file = write(tmp_path, RATIO, above, below, high)
        assert check(file, library=toys.library()).errors == []
        assert ratio_of(file, tmp_path) == value


def test_a_parameter_of_a_type_variable_can_be_set_by_path(tmp_path: Path) -> None:
    file = write(tmp_path, RATIO, "4.0", "3.0")
    assert ratio_of(file, tmp_path, **{"choose.above": 7.5}) == 7.5
    here = {"choose.above": Given("6.5", True, tmp_path)}
    checked = check(file, settings=here, library=toys.library())
    assert checked.errors == []
    assert checked.settings["choose.above"] == 6.5


def test_a_literal_binds_the_type_of_the_output(tmp_path: Path) -> None:
    file = write(tmp_path, RATIO, "fast", "slow")
    (error,) = check(file, library=toys.library()).errors
    assert error.code == "type-mismatch"
    assert "`ratio` of toy.plain takes float, but `$choose` is str" in error.message


@pytest.mark.parametrize(
    ("above", "below", "message"),
    [
        ("4.0", "fast", "`below` of toy.choose takes float, but `fast` is str"),
        ("4.0", "$mode", "`below` of toy.choose takes float, but `$mode` is str"),
        ("true", "3", "`below` of toy.choose takes bool, but `3` is int"),
        ("$high", "$thing", "`below` of toy.choose takes float, but `$thing` is Thing"),
    ],
)
def test_two_types_for_one_variable_are_an_error(tmp_path: Path, above: str, below: str, message: str) -> None:
    text = HEAD + "  thing: {uses: toy.number}\noutputs: {it: $choose, thing: $thing}\n"
    (error,) = check(write(tmp_path, text, above, below), library=toys.library()).errors
    assert (error.code, error.message) == ("type-mismatch", message)


def test_a_choice_between_literals_in_a_loop(tmp_path: Path) -> None:
    file = tmp_path / "loop.yaml"
    file.write_text(
        """
sgd: 1
name: loop
inputs: {by: {type: float, default: 2.5}}
nodes:
  ticks: {uses: toy.ticks, with: {count: 4}}
  start: {uses: toy.number, with: {value: 1}}
  loop:
    for: {tick: $ticks}
    carry: {thing: $start}
    body:
      pick: {uses: toy.choose, with: {above: $by, below: 100}}
      step: {uses: toy.step, with: {tick: $tick, thing: $thing, by: $pick}}
    yield: {thing: $step}
outputs: {it: $loop}
"""
    )
    done = run(compile(file, library=toys.library()), out=tmp_path / "out")
    assert done.outputs["it"].value == 11.0
