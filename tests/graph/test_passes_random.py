"""Whatever the graph, the passes change nothing that can be seen: outputs, what is in memory, what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import networkx as nx
import pytest
from helpers import machines
from helpers.graphs import graphs
from helpers.machines import LOG, compiled, execute, levels, naive, numbers_of, plan_of
from hypothesis import HealthCheck, given, settings
from sgd.graph.compiler.ir import Graph, Index, Loop, Var, dependencies, verify
from sgd.graph.runtime.execute import Executor

several = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@several
@given(graphs())
def test_executor_equals_naive_evaluation(graph: Graph) -> None:
    verify(graph, "making it")
    assert numbers_of(execute(plan_of(graph))) == naive(graph)


@pytest.mark.parametrize("passes", [(), ("prune",), ("hoist",), ("merge",), ("hoist", "merge")])
@settings(several, max_examples=100)
@given(graph=graphs())
def test_each_pass_alone_leaves_outputs_as_they_are(passes: tuple[str, ...], graph: Graph) -> None:
    assert numbers_of(execute(plan_of(graph, passes))) == naive(graph)


@several
@given(graphs())
def test_order_respects_every_edge(graph: Graph) -> None:
    ordered, _ = compiled(graph)
    for level in levels(ordered):
        place = {id: n for n, id in enumerate(level.items)}
        assert all(place[a] < place[b] for a, b in dependencies(level).edges)
        assert nx.is_directed_acyclic_graph(dependencies(level))


@settings(several, max_examples=100)
@given(graphs(components=True))
def test_compiling_twice_gives_the_same_plan(graph: Graph) -> None:
    assert str(plan_of(graph)) == str(plan_of(graph))


class Watched(dict):
    """An environment that writes down what is set, read and dropped, by the place in `LOG`."""

    def __init__(self) -> None:
        super().__init__()
        self.lives: list[list[Any]] = []
        self._open: dict[Any, list[Any]] = {}

    def __setitem__(self, key: Any, value: Any) -> None:
        self._drop(key)
        self._open[key] = [key, len(LOG), len(LOG), None]
        self.lives.append(self._open[key])
        super().__setitem__(key, value)

    def __getitem__(self, key: Any) -> Any:
        self._open[key][2] = len(LOG)
        return super().__getitem__(key)

    def pop(self, key: Any, *default: Any) -> Any:
        self._drop(key)
        return super().pop(key, *default)

    def clear(self) -> None:
        for key in list(self._open):
            self._drop(key)
        super().clear()

    def _drop(self, key: Any) -> None:
        if key in self._open:
            self._open.pop(key)[3] = len(LOG)


class WatchedExecutor(Executor):
    """Runs in a watched environment."""

    watched: Watched

    def steps(self, steps: Any, environment: Any, states: Any) -> None:
        if steps is not self.plan.steps:
            return super().steps(steps, environment, states)
        self.watched = Watched()
        super().steps(steps, self.watched, states)
        # The others are read as the workflow's outputs.
        environment.update(dict(self.watched))
        for life in self.watched._open.values():
            life[2] = life[3] = len(LOG)
        return None


def spans(log: list[tuple[str, ...]]) -> list[tuple[int, int]]:
    """Where every run of a loop begins and ends in the log."""
    found, begun = [], []
    for place, entry in enumerate(log):
        if entry[0] == "loop":
            begun.append(place)
        elif entry[0] == "looped":
            found.append((begun.pop(), place))
    return found


@several
@given(graphs())
def test_a_value_goes_right_after_its_last_reader(graph: Graph) -> None:
    plan = plan_of(graph)
    LOG.clear()
    watch = machines.Watch()
    executor = WatchedExecutor(plan, machines.Context(machines.Path("."), watch), watch)
    executor.execute()
    runs = spans(LOG)
    for key, made, read, dropped in executor.watched.lives:
        if isinstance(key, Index) or (isinstance(key, Var) and read == made):
            continue  # a number; a loop variable that nothing reads
        # A loop that began after the value was made and in which it is read may read it in its next turn.
        loops = [end for begin, end in runs if made <= begin < read <= end]
        last = max([read, *(end + 1 for end in loops)])
        after = LOG[last:dropped]
        assert all(entry[0] not in ("started", "loop") for entry in after[1:]), (key, made, read, dropped)
        if read == made:  # nothing read it: it is not there when the next node runs
            assert sum(entry[0] == "started" for entry in after) <= 1


@several
@given(graphs(components=True))
def test_components_are_in_memory_exactly_while_they_are_needed(graph: Graph) -> None:
    expected = naive(graph)
    assert numbers_of(execute(plan_of(graph))) == expected
    log = list(LOG)
    held: dict[tuple[str, ...], int] = {}
    ends = dict(spans(log))
    begins = {end: begin for begin, end in ends.items()}
    for place, entry in enumerate(log):
        what, *part = entry
        if what == "acquire":
            held[tuple(part)] = held.get(tuple(part), 0) + 1
            begin = next(n for n in range(place, len(log)) if log[n][0] in ("started", "loop"))
            assert ("read", *part) in log[begin : ends.get(begin, _finish(log, begin)) + 1], "brought in too early"
        elif what == "release":
            held[tuple(part)] -= 1
            end = next(n for n in range(place, -1, -1) if log[n][0] in ("finished", "looped"))
            assert ("read", *part) in log[begins.get(end, _start(log, end)) : end + 1], "let go too late"
        elif what == "read":
            assert held.get(tuple(part), 0) > 0
    assert not any(held.values())


def _finish(log: list[tuple[str, ...]], begin: int) -> int:
    return next(n for n in range(begin, len(log)) if log[n][0] == "finished")


def _start(log: list[tuple[str, ...]], end: int) -> int:
    return next(n for n in range(end, -1, -1) if log[n][0] == "started")


@settings(several, max_examples=80)
@given(graphs(components=True))
def test_nothing_is_held_after_a_failure_at_any_node(graph: Graph) -> None:
    plan = plan_of(graph)
    execute(plan)
    starts = [n for n, entry in enumerate(e for e in LOG if e[0] == "started")]
    for fail_at in starts[:: max(1, len(starts) // 4)]:
        stop = machines.StopAfter(fail_at)
        with suppress(machines.Interrupted):  # the last node is the end of the run
            execute(plan, observer=stop, stop=stop.asked)
        balance: dict[tuple[str, ...], int] = {}
        for what, *part in LOG:
            if what in ("acquire", "release"):
                balance[tuple(part)] = balance.get(tuple(part), 0) + (1 if what == "acquire" else -1)
        assert not any(balance.values())
        assert sum(e == ("begin",) for e in LOG) == sum(e == ("end",) for e in LOG)


def loops_of(graph: Graph) -> Iterator[Loop]:
    return (item for item, _ in graph.walk() if isinstance(item, Loop))


@several
@given(graphs(state=False))
def test_without_state_a_loop_keeps_only_calls_that_depend_on_its_turn(graph: Graph) -> None:
    hoisted, _ = compiled(graph)
    for loop in loops_of(hoisted):
        order = dependencies(loop.body)
        changing = {
            id
            for id, item in loop.body.items.items()
            if any(getattr(leaf, "loop", None) == loop.id for leaf in machines.used(item))
        }
        for id in loop.body.items:
            assert changing & ({id} | nx.ancestors(order, id)), f"{id} could run before {loop.id}"


@several
@given(graphs(state=False))
def test_no_two_equal_nodes_are_left_at_one_level(graph: Graph) -> None:
    merged, _ = compiled(graph)
    for level in levels(merged):
        calls = [i for i in level.items.values() if not isinstance(i, Loop)]
        same = [(i.type.name, sorted((n, repr(a.source)) for n, a in i.args.items())) for i in calls]
        assert len(same) == len({repr(s) for s in same})
