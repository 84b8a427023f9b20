"""The record of a run, written as `run.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from time import perf_counter
from typing import Any

from ..compiler.plan import Plan
from ..contract.events import CallInfo, Observer, PlanInfo
from ..contract.machine_limits import MachineLimits
from ..contract.node import Run
from ..contract.record_version import RECORD_VERSION
from ..store.keys import Place
from .clock import COMPILE, IMPORT, KERNELS, LOAD, Clock
from .limits_file import stored_or_none
from .node_rows import node_rows, other_rows
from .observers.device_times import DeviceTimes
from .observers.profile import Profile, Row
from .observers.timeline import Timeline, Turns
from .observers.unmeasured import Unmeasured
from .observers.work_count import WorkCount, counts_of
from .overlap.overlapped_time import OverlappedTime
from .record_marks import Begun, Mark
from .record_values import clean, plain_output
from .run_environment import environment


@dataclass
class Recorder(Observer):
    """Collects the record's entries, and holds the observers that measure.

    Attributes:
        clock: The clock of the run.
        measured: Whether time, memory and work of each node are measured.
        overlapped: The work of second threads; None without one.
        overlap_device: The device of second threads; empty if it is that of the run.
        begun: The items under way that the store will have, by path and turns.
        begun_before: Those that were under way where the run goes on, with the seconds that they had taken.
    """

    clock: Clock = field(default_factory=Clock)
    measured: bool = True
    timeline: Timeline = field(default_factory=Timeline)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    overlapped: OverlappedTime | None = None
    overlap_device: str = ""
    begun: dict[Place, Begun] = field(default_factory=dict)
    begun_before: dict[Place, tuple[float, Mark]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timeline.kept = self.measured
        device = DeviceTimes()  # one, so that it is read once
        self.profile = (Profile if self.measured else Unmeasured)(self.clock, self.timeline, device)
        self.turns = Turns(self.clock, self.timeline, device)
        self.work = WorkCount((), self.clock.now)
        self._known: MachineLimits | None = None
        self._read = False

    @property
    def observers(self) -> list[Observer]:
        """All observers of the record, in the order in which they hear of events."""
        return [self.turns, self.profile, *([self.work] if self.measured else []), self]

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        assert isinstance(plan, Plan)
        if not self.measured:
            return
        meters = [each.work_meter(run) for each in plan.libraries]
        self.work.meters = [meter for meter in meters if meter is not None]
        self.work.counts = counts_of(plan, run.options)

    def so_far(self) -> Callable[[], dict[str, Any]]:
        """Everything that is known now, for a run that is resumed after this; a function that makes plain data of it.

        Another thread may call the function while the run goes on.
        """
        calls = {id: row.calls + row.resumed_calls for id, row in self.profile.rows.items()}
        now, here = perf_counter(), self.mark()
        begun = [[*place, now - each.started, asdict(each.mark)] for place, each in self.begun.items()]

        def plain() -> dict[str, Any]:
            rows = {id: self.profile.rows[id] for id in calls}
            known = {
                id: {
                    "calls": calls[id],
                    **{name: getattr(row, name) for name in ("effect", "outputs", "reused", "saved_seconds")},
                    "detail": dict(row.detail),
                }
                for id, row in rows.items()
            }
            past = {kind: self.events[kind][:count] for kind, count in here.events.items()}
            warnings = self.warnings[: here.warnings]
            found: dict[str, Any] = clean(
                {"rows": known, "steps": self.turns.turns[: here.turns], "events": past}
                | {"warnings": warnings, "begun": begun}
            )
            return found

        return plain

    def resume(self, before: Mapping[str, Any], finished: Iterable[str]) -> None:
        """Take over what was known when the run was interrupted.

        Args:
            before: The data of `so_far`.
            finished: Paths of calls that ended after that, and are not called again.
        """
        for id, known in before.get("rows", {}).items():
            facts = {name: known[name] for name in ("effect", "detail", "outputs", "reused", "saved_seconds")}
            self.profile.rows[id] = Row(resumed_calls=known["calls"], **facts)
        for id in finished:
            self.profile.rows.setdefault(id, Row(effect=True)).resumed_calls += 1
        past = [{name: value for name, value in turn.items() if name != "start"} for turn in before.get("steps", ())]
        self.turns.turns += [turn | {"resumed": True} for turn in past]
        for kind, entries in before.get("events", {}).items():
            self.events[kind] = [entry | {"resumed": True} for entry in entries]
        self.warnings[:0] = before.get("warnings", ())  # before those of this process, so that marks hold
        for id, turns, seconds, mark in before.get("begun", ()):
            self.begun_before[id, tuple(turns)] = seconds, Mark(**mark)

    def begin(self, place: Place, started: float) -> None:
        """An item for the store begins, or goes on. `started`: now, as `perf_counter` gives it."""
        seconds, mark = self.begun_before.pop(place, (0.0, self.mark()))
        self.begun[place] = Begun(started - seconds, mark)

    def mark(self) -> Mark:
        """This moment, for `told_since`."""
        return Mark(len(self.turns.turns), {k: len(v) for k, v in self.events.items()}, len(self.warnings))

    def told_since(self, mark: Mark, id: str, calls: Iterable[str]) -> dict[str, Any]:
        """Everything that a call or loop told since a moment, as plain data. Paths in it are relative to its own.

        Args:
            mark: The moment.
            id: The path of the call or loop.
            calls: The paths of its calls.
        """
        rows = {each: self.profile.rows[each] for each in calls if each in self.profile.rows}
        told = {
            "rows": {
                each.removeprefix(id): {"detail": _own(row.detail), "outputs": row.outputs}
                for each, row in rows.items()
            },
            "steps": [
                {**_first(turn), "loop": turn["loop"].removeprefix(id)}
                for turn in self.turns.turns[mark.turns :]
                if turn["loop"].startswith(id)
            ],
            "events": {
                kind: [
                    {**_first(e), "node": e["node"].removeprefix(id)}
                    for e in entries[mark.events.get(kind, 0) :]
                    if e.get("node", "").startswith(id)
                ]
                for kind, entries in self.events.items()
            },
            "warnings": [w.removeprefix(id) for w in self.warnings[mark.warnings :] if w.startswith(id)],
        }
        found: dict[str, Any] = clean(told)
        return found

    def beside(self, plan: Plan, run: Run, clock: Clock, *, same_device: bool = True) -> Recorder:
        """A recorder for the calls of a second thread. It shares the rows of nodes; `insert` takes the rest."""
        other = Recorder(clock, self.measured, self.timeline)
        other.profile = self.profile.beside(clock, same_device)
        other.turns = Turns(clock, self.timeline, other.profile.device)
        other.run_started(plan, run)
        return other

    def insert(self, other: Recorder, mark: Mark) -> None:
        """Move the entries of another recorder to the place of a mark."""
        self.turns.turns[mark.turns : mark.turns] = other.turns.turns
        self.warnings[mark.warnings : mark.warnings] = other.warnings
        for kind, entries in other.events.items():
            at = mark.events.get(kind, 0)
            self.events.setdefault(kind, [])[at:at] = entries
        self.work.counted |= other.work.counted
        other.turns.turns.clear()
        other.warnings.clear()
        other.events.clear()

    def reuse(self, id: str, told: Mapping[str, Any]) -> None:
        """Take over what a stored result told when it was made: the data of `told_since`, and `seconds`."""
        for path, known in told["rows"].items():
            row = self.profile.rows.setdefault(id + path, Row())
            row.reused = True
            row.detail.update(known["detail"])
            row.outputs = row.outputs or known["outputs"]
        own = self.profile.rows.setdefault(id, Row())
        own.reused, own.saved_seconds = True, (own.saved_seconds or 0.0) + float(told["seconds"])
        for turn in told["steps"]:
            kept = {name: value for name, value in turn.items() if name != "start"}
            self.turns.turns.append(kept | {"loop": id + turn["loop"], "reused": True})
        for kind, entries in told["events"].items():
            for entry in entries:
                # An entry may have a number of its own in `reused`.
                flag = "reused" if entry.get("reused", True) is True else "stored"
                self.events.setdefault(kind, []).append(entry | {"node": id + entry["node"], flag: True})
        self.warnings += [id + warning for warning in told["warnings"]]

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        node = {"node": call.id} if call is not None else {}
        self.events.setdefault(kind, []).append({**node, **data})

    def heard(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Record an event of another process; `entry` has the form of the record."""
        self.events.setdefault(kind, []).append(dict(entry))

    def warned(self, call: CallInfo | None, message: str) -> None:
        self.warnings.append(f"{call.id}: {message}" if call is not None else message)

    def record(
        self, plan: Plan, run: Run, now: float, status: str, outputs: Mapping[str, Any], error: str | None
    ) -> dict[str, Any]:
        """The record.

        Args:
            plan: The plan.
            run: The run, as nodes see it.
            now: The end of the run, in seconds of the clock (`Clock.now`).
            status: `done`, `failed` or `interrupted`.
            outputs: The outputs of the workflow.
            error: The error of a failed run.
        """
        limits = self._limits(plan, run.device)
        found: dict[str, Any] = {
            "sgd": version("sgd"),
            "record": RECORD_VERSION,
            "workflow": {
                "name": plan.name,
                "file": plan.file.name if plan.file is not None else None,
                "sha256": plan.sha256,
            },
            "inputs": dict(plan.inputs),
            "set": dict(plan.settings),
            "environment": environment(run.device, [name for each in plan.loaded for name in each.packages]),
            "options": dict(run.options),
            "status": status,
            **self.times(plan, run.device, now),
            "peak_bytes": self.profile.peak_bytes,
            "edges": [{"from": source, "to": target} for source, target in plan.edges],
            "steps": self.turns.turns,
            "ceilings": asdict(limits) if limits is not None else None,
            "timeline": self.timeline.rows(self.clock.spans),
            "memory": self.profile.memory.rows(self.clock.started),
            "outputs": {name: plain_output(value, run) for name, value in outputs.items()},
            "warnings": [*plan.warnings, *self.warnings],
        }
        listed: dict[str, list[dict[str, Any]]] = {kind: [] for each in plan.loaded for kind in each.recorded_events}
        for kind, entries in (listed | self.events).items():
            # A kind of event must not replace a key of the record.
            found[f"{kind}s" if f"{kind}s" not in found else f"{kind}_events"] = entries
        if error is not None:
            found["error"] = error
        return clean(found)

    def times(self, plan: Plan, device: str, now: float) -> dict[str, Any]:
        """The keys of the record that hold the time until `now`."""
        clock, rows, limits = self.clock, self.profile.rows, self._limits(plan, device)
        nodes = node_rows(plan, rows, now, self.work, limits)
        others = other_rows(clock, rows, now, limits)
        known = sum(row.seconds for row in rows.values()) + sum(row["seconds"] for row in others)
        phases = {name.strip("()"): clock.spent.get(name, 0.0) for name in (IMPORT, COMPILE, KERNELS, LOAD)}
        phases["save"] = sum(row.seconds for row in rows.values() if row.effect)
        if self.overlapped is not None:
            known -= self.overlapped.seconds
            phases["save"] -= self.overlapped.saving
        phases["run"] = now - sum(phases.values())
        found: dict[str, Any] = {"seconds": now, "phases": phases, "unaccounted_seconds": now - known}
        if self.overlapped is not None:
            found["overlapped_seconds"] = self.overlapped.seconds
        if self.overlap_device:
            found["overlap_device"] = self.overlap_device
        cleaned: dict[str, Any] = clean(found | {"nodes": [*nodes, *others]})
        return cleaned

    def _limits(self, plan: Plan, device: str) -> MachineLimits | None:
        """The measured limits of the machine; read once."""
        if self.measured and not self._read:
            self._known, self._read = stored_or_none(device, plan.libraries), True
        return self._known


def _own(detail: Mapping[str, Any]) -> dict[str, Any]:
    """The details of a call without times of the run that made it."""
    return {name: value for name, value in detail.items() if name != "loaded"}


def _first(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as it was before a run was resumed."""
    return {name: value for name, value in entry.items() if name != "resumed"}
