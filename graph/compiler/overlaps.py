"""The calls of a plan that can run beside the next turn of a loop over a list (`sgd exec --overlap`).

Turns of a mapping loop need nothing of each other. The head of a turn is its part up to its last loop with `carry`.
The tail is the calls after the head: the rest of the body, or else the next loop over the results. The tail of one
turn can run while the head of the next turn runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from .ir import Call, Const, Loop, Ref, edges, leaves, output_ports, used
from .plan import Acquire, CallStep, LoopStep, Plan, Release, Step


@dataclass(frozen=True, eq=False)
class Overlap:
    """A mapping loop, and the steps that run beside its later turns.

    Attributes:
        loop: The loop; it stands outside of all loops.
        tail: The last calls of its body; or one step, the loop that goes over its results.
        acquires: Components that the tail needs, and that the plan acquires after the loop.
        own: The acquisitions of the plan that only calls of the tail need.
        common: The acquisitions that both the tail and other calls need, with only the calls of the tail as readers.
    """

    loop: LoopStep
    tail: tuple[Step, ...]
    acquires: tuple[Acquire, ...] = ()
    own: tuple[Acquire, ...] = ()
    common: tuple[Acquire, ...] = ()

    @property
    def follower(self) -> LoopStep | None:
        """The loop whose turns are the tails; None if they are in the body."""
        last = self.tail[0]
        return last if isinstance(last, LoopStep) else None

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """The calls of the tail."""
        return tuple(_calls(self.tail))

    @property
    def head(self) -> tuple[Call, ...]:
        """The calls of the loop that are not in the tail."""
        tail = {call.id for call in self.calls}
        return tuple(call for call in _calls(self.loop.body) if call.id not in tail)


def overlaps_of(plan: Plan) -> tuple[tuple[Overlap, ...], list[str]]:
    """The loops of a plan whose tails can run beside their heads, and the reasons why others cannot, in words."""
    found: list[Overlap] = []
    reasons: list[str] = []
    for number, step in enumerate(plan.steps):
        if not isinstance(step, LoopStep) or not step.loop.mapping or not _carries(step.body):
            continue
        made = _overlap(plan, number, step)
        if isinstance(made, str):
            reasons.append(f"{step.loop.id}: {made}")
        else:
            found.append(made)
    if not found and not reasons:
        reasons.append("no loop over a list has a loop with `carry` in it")
    return tuple(found), reasons


def _overlap(plan: Plan, number: int, step: LoopStep) -> Overlap | str:
    """The overlap of a loop, or the reason why there is none."""
    last = max(n for n, each in enumerate(step.body) if isinstance(each, LoopStep) and _carries((each,)))
    tail = step.body[last + 1 :]
    if any(isinstance(each, CallStep) for each in tail):
        overlap = Overlap(step, tail)
        problem = _body_problem(overlap)
    else:
        after = _follower(plan, number, step)
        if isinstance(after, str):
            return after
        between = plan.steps[number + 1 : after]
        follower = plan.steps[after]
        assert isinstance(follower, LoopStep)
        overlap = Overlap(step, (follower,), tuple(each for each in between if isinstance(each, Acquire)))
        problem = _follower_problem(step, follower, between)
    return problem or _call_problem(overlap) or _with_components(overlap, plan)


def _follower(plan: Plan, number: int, step: LoopStep) -> int | str:
    """The number of the first step that loops over the results of a loop, or the reason why there is none."""
    for after, each in enumerate(plan.steps[number + 1 :], number + 1):
        if isinstance(each, LoopStep) and any(_is_of(arg.source, step.loop) for arg in each.loop.over.values()):
            if not each.loop.mapping or _carries(each.body):
                return f"{each.loop.id}, which goes over its results, carries values from turn to turn"
            return after
    return "nothing follows the last loop with `carry` in it, and no loop goes over its results"


def _body_problem(overlap: Overlap) -> str:
    """The reason why the last steps of a body cannot run beside the next turn; empty if they can."""
    other = next((each for each in overlap.tail if not isinstance(each, CallStep)), None)
    if isinstance(other, LoopStep):
        return f"{other.loop.id} is a loop behind the last loop with `carry`"
    if other is not None or any(isinstance(each, Acquire | Release) for each in overlap.loop.body):
        return "each turn loads components of its own"
    made = {call.id for call in overlap.calls}
    for name, arg in overlap.loop.loop.body.outputs.items():
        if not isinstance(arg.source, Ref) and any(isinstance(e, Ref) and e.node in made for e in edges([arg])):
            return f"`{name}` of its `yield` is a list of results"
    return ""


def _follower_problem(step: LoopStep, follower: LoopStep, between: Sequence[Step]) -> str:
    """The reason why a loop over the results cannot run beside the loop that makes them; empty if it can."""
    id = follower.loop.id
    if any(isinstance(each, Acquire | Release) for each in _inside(follower.body)):
        return f"each turn of {id} loads components of its own"
    read = [leaf for item in follower.loop.body.items.values() for leaf in used(item)]
    read += [leaf for arg in follower.loop.body.outputs.values() for leaf in leaves(arg.source)]
    others = [leaf for a in follower.loop.over.values() if not _is_of(a.source, step.loop) for leaf in leaves(a.source)]
    if any(_is_of(leaf, step.loop) for leaf in (*read, *others)):
        return f"{id} reads all results of {step.loop.id} at once"
    late = {Ref(node.id, port) for each in between for node in _made_by(each) for port in output_ports(node)}
    needed = next((leaf for leaf in (*read, *others) if isinstance(leaf, Ref) and leaf in late), None)
    return f"{id} reads {needed.node}, which runs after {step.loop.id}" if needed is not None else ""


def _call_problem(overlap: Overlap) -> str:
    """The reason why calls would give other results with an overlap than without; empty if there is none."""
    state = next((call for call in overlap.calls if call.type.states), None)
    if state is not None:
        return f"{state.id} ({state.type.name}) keeps a state"
    for call in overlap.head:
        for name, arg in call.args.items():
            if call.type.inputs[name].path == "read" and not isinstance(arg.source, Const):
                return f"{call.id} reads another file in each turn, so a recipe could name files of later turns"
    return ""


def _with_components(overlap: Overlap, plan: Plan) -> Overlap:
    """An overlap with the components that its tail needs. The plan acquires them outside of loops."""
    tail = {call.id for call in overlap.calls}
    needed = [step for step in plan.steps if isinstance(step, Acquire) and not tail.isdisjoint(step.readers)]
    own = tuple(step for step in needed if tail.issuperset(step.readers))
    common = tuple(
        replace(step, readers=tuple(id for id in step.readers if id in tail)) for step in needed if step not in own
    )
    return replace(overlap, own=own, common=common)


def _is_of(source: object, loop: Loop) -> bool:
    return isinstance(source, Ref) and source.node == loop.id


def _carries(steps: Sequence[Step]) -> bool:
    """Whether one of the loops in some steps carries values from turn to turn."""
    return any(isinstance(each, LoopStep) and not each.loop.mapping for each in _inside(steps))


def _inside(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        if isinstance(step, LoopStep):
            yield from _inside(step.body)


def _calls(steps: Sequence[Step]) -> Iterator[Call]:
    return (step.call for step in _inside(steps) if isinstance(step, CallStep))


def _made_by(step: Step) -> tuple[Call | Loop, ...]:
    return (step.call,) if isinstance(step, CallStep) else (step.loop,) if isinstance(step, LoopStep) else ()
