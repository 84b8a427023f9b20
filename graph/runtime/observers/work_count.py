"""The work of every node: floating-point operations and bytes, counted in few calls and multiplied.

Counting slows a call down, so a node's first call is counted, and later calls that did the same work are only known to
have done so. Calls of one node may differ, if it skips a part of its work. The node library says which calls are alike
(`WorkMeter.kind`). After a call of a new kind, the next few calls are counted until one of them
is of that kind.

Counting and the other measurements cost at most `SHARE` of the time of a run together. A call whose count would cost
more is not counted; a later call, or a later run, goes on where its count was given up. Until then the work of its node
is not known: `put_off` says so.

A process counts the calls of a plan in its first run only: `Counts` keeps them for the next runs of that plan. The
counts are also remembered between processes (`kept_work`), by names that contain everything that decides the work.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from time import thread_time
from typing import Any

from ...contract.events import CallInfo, Observer
from ...contract.machine_limits import CallCount, Work, WorkMeter
from .. import kept_work

SHARE = 0.0095
"""The part of a run's time that measuring may take, with the search for what is remembered."""
OTHERS = 0.005
"""The part of the time since the first node that the other measurements take (tests/benchmarks/profile_cost.py)."""
LEAST_SECONDS = 0.001
"""Counting may cost this in any run."""
MOST_NEEDED = 0.004
"""Seconds. A count that was given up waits until it may take this long, at most; it goes on from what it knows."""
PARTS = "parts of "
"""Before the name of a call: the name of what is known of its parts."""
TRIES = 8
"""Calls that are counted, at most, after a call of a kind that was not counted."""
PLAIN = "()"
"""The kind of all calls of a node whose first call multiplied nothing."""


@dataclass
class Counts:
    """The work that earlier runs of one plan counted: by node and `WorkMeter.key`, for each kind of call.

    `plain` holds those whose first call multiplied nothing, `names` their names in other processes, and `parts` what
    is known of counts that were given up. `needs` are the seconds that the next count must be allowed to cost.
    """

    known: dict[Hashable, dict[str, Work]] = field(default_factory=dict)
    names: dict[Hashable, str | None] = field(default_factory=dict)
    parts: dict[Hashable, Mapping[str, Work]] = field(default_factory=dict)
    plain: set[Hashable] = field(default_factory=set)
    needs: dict[Hashable, float] = field(default_factory=dict)


_COUNTS: dict[Hashable, Counts] = {}


def counts_of(plan: object, options: Mapping[str, Any]) -> Counts:
    """The counts of a plan with these options of the run. They are forgotten with the plan."""
    key = id(plan), repr(sorted(options.items()))
    if key not in _COUNTS:
        _COUNTS[key] = Counts()
        weakref.finalize(plan, _COUNTS.pop, key, None)
    return _COUNTS[key]


@dataclass
class _Counted:
    meter: WorkMeter | None = None
    plain: bool = False
    """Whether the first call multiplied nothing: later calls are not looked at then."""
    key: Hashable = None
    tries: int = 1
    lasting: str | None = None
    """The name of the work in other processes."""
    added: bool = False
    """Whether a call was counted."""
    parts: Mapping[str, Work] = field(default_factory=dict)
    """The parts that a count found that was given up."""
    needs: float = 0.0
    """Seconds that the next count must be allowed to cost."""
    put_off: bool = False
    """Whether a call was not counted because of the cost."""
    known: dict[str, Work] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    failed: bool = False

    def total(self) -> Work | None:
        """The work of all calls; None if there were calls whose work is not known."""
        if self.failed or self.meter is None or any(kind not in self.known for kind in self.calls):
            return None
        work = Work()
        for kind, calls in self.calls.items():
            work = work + self.known[kind].times(calls)
        return work


class WorkCount(Observer):
    """Counts the work of the calls that a meter of a node library takes.

    Args:
        meters: The meters of the libraries.
        elapsed: Gives the seconds of the run until now; None if counting may cost whatever it does.
    """

    def __init__(self, meters: Sequence[WorkMeter], elapsed: Callable[[], float] | None = None) -> None:
        self.meters = meters
        self.elapsed, self.spent = elapsed, 0.0
        self._before: float | None = None
        self._kept = kept_work.KeptWork()
        self.counts = Counts()
        self.counted: dict[str, _Counted] = {}
        self._open: WorkMeter | None = None
        self._events: list[Mapping[str, Any]] = []

    def of(self, id: str) -> Work | None:
        """The work of all calls of a node; None if it is not known."""
        found = self.counted.get(id)
        return found.total() if found is not None else None

    def put_off(self, id: str) -> bool:
        """Whether the work of a node is not known because counting it would have cost too much of the run."""
        found = self.counted.get(id)
        return found is not None and found.put_off and not found.failed and found.total() is None

    def _allowed(self) -> float:
        """Seconds that counting may still cost."""
        if self.elapsed is None:
            return float("inf")
        now = self.elapsed()
        if self._before is None:
            self._before = now
        return max(SHARE * now - OTHERS * (now - self._before), LEAST_SECONDS) - self.spent

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        found = self.counted.get(call.id)
        if found is None:
            meter = next((each for each in self.meters if each.takes(call, arguments)), None)
            found = self.counted[call.id] = _Counted(meter)
            if meter is not None:
                began = thread_time()
                self._remember(found, call, arguments, (call.id, meter.key(arguments)))
                self.spent += thread_time() - began
        if found.meter is None or found.plain:
            return
        self._events = []
        if found.tries and found.meter.takes(call, arguments):
            allowed = self._allowed()
            if allowed <= found.needs:
                found.put_off = True
                self.counts.needs[found.key] = found.needs / 2  # else a node that runs early would never be counted
                return
            found.tries -= 1
            self._open, began = found.meter, thread_time()
            self._open.begin(allowed, found.parts)
            self.spent += thread_time() - began

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        found = self.counted[call.id]
        if found.meter is None:
            return
        if found.plain:
            found.calls[PLAIN] = found.calls.get(PLAIN, 0) + 1
            return
        count = self._end()
        work = count.work if count is not None else None
        if count is not None and work is None:
            found.put_off = True
            found.parts = self.counts.parts[found.key] = count.parts
            found.needs = self.counts.needs[found.key] = max(found.needs, min(2 * count.seconds, MOST_NEEDED))
            found.tries += 1
        found.added = found.added or work is not None
        if work is not None and not found.calls and not work.total:
            found.plain = True
            found.known[PLAIN], found.calls[PLAIN] = work, 1
            self.counts.plain.add(found.key)
            return
        kind = repr(found.meter.kind(outputs, self._events))
        found.calls[kind] = found.calls.get(kind, 0) + 1
        if work is not None:
            found.known[kind] = work
        if all(each in found.known for each in found.calls):
            found.tries = 0
        elif kind not in found.known and found.calls[kind] == 1:
            found.tries = TRIES

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        self._end()
        found = self.counted.get(call.id)
        if found is not None:
            found.failed = True

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        self._events.append(data)

    def run_finished(self, status: str, error: BaseException | None) -> None:
        """Remember what was counted."""
        works: dict[str, Mapping[str, Work]] = {}
        for each in self.counted.values():
            if each.lasting is not None:
                if each.added and each.known:
                    works[each.lasting] = each.known
                if each.parts and (each.put_off or each.added):
                    works[PARTS + each.lasting] = {} if each.known else each.parts
        if works:
            kept_work.remember(works)

    def _remember(self, found: _Counted, call: CallInfo, arguments: Mapping[str, Any], key: Hashable) -> None:
        """Take the counts of earlier runs, and add to them."""
        assert found.meter is not None
        found.key = key
        counts = self.counts
        found.known = counts.known.setdefault(key, {})
        if not found.known and key not in counts.names:
            counts.names[key] = name = found.meter.lasting(call, arguments)
            if name is not None:
                found.known.update(self._kept.of(name))
                counts.parts[key] = {} if found.known else self._kept.of(PARTS + name)
        found.lasting, found.parts = counts.names.get(key), counts.parts.get(key, {})
        found.needs = counts.needs.get(key, 0.0)
        if PLAIN in found.known:
            self.counts.plain.add(key)
        found.plain = key in self.counts.plain
        if found.known:
            found.tries = 0

    def _end(self) -> CallCount | None:
        meter, self._open = self._open, None
        if meter is None:
            return None
        count = meter.end()
        self.spent += count.seconds
        return count
