"""Facts: their classes, their values for a call, and how often the functions that take them run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sgd
from helpers import toys
from sgd.graph.compiler.compile import check
from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.facts import UNKNOWN, Facts, NodeFacts, Unknown, require
from sgd.graph.contract.node import node
from sgd.graph.language.registry import Library


@dataclass(frozen=True)
class LetterFacts(Facts):
    pages: int | None = None
    stamp: str | None = None


@dataclass(frozen=True, kw_only=True)
class PostFacts(NodeFacts):
    thing: LetterFacts | None = None
    places: tuple[str, ...] | None = None
    weight: float | Unknown | None = UNKNOWN
    fast: bool | None = None


SEEN: list[PostFacts] = []
DESCRIBED: list[PostFacts] = []


def check_post(facts: PostFacts) -> Iterator[Diagnostic]:
    SEEN.append(facts)
    if facts.fast:
        yield Diagnostic("unsupported", "no fast post today", "fast", help="leave it out")


def describe_post(facts: PostFacts) -> LetterFacts:
    DESCRIBED.append(facts)
    return LetterFacts(pages=len(facts.places or ()))


@node("toy.post", check=check_post, describe=describe_post)
def post(
    places: list[str], *, thing: toys.Thing | None = None, weight: float | None = None, fast: bool = False
) -> toys.Thing:
    """Post a letter.

    Args:
        places: Where to.
        thing: The letter.
        weight: In grams.
        fast: Tomorrow.
    """
    require(check_post, PostFacts(places=tuple(places), weight=weight, fast=fast))
    return toys.Thing(float(len(places)))


@pytest.fixture
def library() -> Library:
    found = toys.library()
    found.nodes["toy.post"] = post.node
    SEEN.clear()
    DESCRIBED.clear()
    return found


def seen(library: Library, tmp_path, text: str) -> list[PostFacts]:
    file = tmp_path / "w.yaml"
    file.write_text(f"sgd: 1\n{text}")
    found = check(str(file), {}, {}, library, False)
    assert not found.errors, found.errors
    return SEEN


def test_a_single_value_is_a_list_of_one_and_none_is_not_unknown(library, tmp_path):
    text = "inputs: {g: {type: float}}\nnodes:\n"
    text += "  a: {uses: toy.post, with: {places: x}}\n  b: {uses: toy.post, with: {places: [x, y], weight: $g}}\n"
    one, two = seen(library, tmp_path, text + "outputs: {a: $a, b: $b}\n")
    assert (one.places, one.weight, one.fast, one.thing) == (("x",), None, False, None)
    assert (two.places, two.weight) == (("x", "y"), UNKNOWN)


def test_a_value_that_nothing_describes_is_blank_and_not_none(library, tmp_path):
    text = "nodes:\n  t: {uses: toy.number, with: {value: 1}}\n  a: {uses: toy.post, with: {places: x, thing: $t}}\n"
    (facts,) = seen(library, tmp_path, text + "outputs: {a: $a}\n")
    assert facts.thing == LetterFacts()


def test_facts_follow_an_edge(library, tmp_path):
    text = "nodes:\n  a: {uses: toy.post, with: {places: [x, y, z]}}\n"
    text += "  b: {uses: toy.post, with: {places: x, thing: $a}}\n"
    *_, last = seen(library, tmp_path, text + "outputs: {b: $b}\n")
    assert last.thing == LetterFacts(pages=3)


def test_functions_run_once_for_a_node_in_a_loop(library, tmp_path):
    text = """nodes:
  ticks: {uses: toy.ticks, with: {count: 50}}
  start: {uses: toy.number, with: {value: 1}}
  loop:
    for: {tick: $ticks}
    carry: {thing: $start}
    body:
      a: {uses: toy.post, with: {places: ["${index}"], thing: $thing}}
      b: {uses: toy.step, with: {tick: $tick, thing: $a}}
    yield: {thing: $b}
outputs: {thing: $loop.thing}
"""
    assert len(seen(library, tmp_path, text)) == 1
    assert len(DESCRIBED) == 1


def test_a_run_checks_equal_facts_once(library, tmp_path):
    SEEN.clear()
    for _ in range(5):
        post(["x"])
    assert len(SEEN) == 1
    with pytest.raises(NodeError, match="no fast post today") as error:
        post(["x"], fast=True)
    assert error.value.help == "leave it out"


def test_either_keeps_facts_that_both_share():
    one, two = LetterFacts(2, "red"), LetterFacts(2, "blue")
    assert one.either(two) == LetterFacts(2)
    assert one.either(Facts()) is None


@dataclass(frozen=True, kw_only=True)
class Misspelt(NodeFacts):
    colour: str | None = None


def takes_misspelt(facts: Misspelt) -> Iterator[Diagnostic]:
    yield from ()


def takes_nothing() -> Iterator[Diagnostic]:
    yield from ()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (takes_misspelt, "toy.paint: Misspelt lacks color and has colour, which the node does not"),
        (takes_nothing, "toy.paint: takes_nothing takes one argument `facts`"),
    ],
)
def test_facts_are_compared_with_the_signature(function, message):
    with pytest.raises(TypeError, match=message):

        @node("toy.paint", check=function)
        def paint(color: str) -> toys.Thing:
            """Paint."""
            return toys.Thing(0.0)


def test_functions_of_one_node_take_one_class():
    with pytest.raises(TypeError, match="take facts of one class"):

        @node("toy.paint", check=takes_misspelt, describe=describe_post)
        def paint(color: str) -> toys.Thing:
            """Paint."""
            return toys.Thing(0.0)


def test_errors_carry_diagnostics():
    problem = Diagnostic("unsupported", "it is too large", "size", help="take less")
    error = NodeError(problem, Diagnostic("bad-value", "and too heavy", "weight"))
    assert (str(error), error.help, error.diagnostic.parameter) == ("it is too large", "take less", "size")
    assert [d.code for d in error.diagnostics] == ["unsupported", "bad-value"]
    assert NodeError("plain", help="a way out").diagnostic == Diagnostic("bad-value", "plain", help="a way out")
    assert issubclass(sgd.Problems, type(error).__mro__[2])
