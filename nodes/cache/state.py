"""The state of `denoiser.predict` in one run of a loop: its gates, and values of prompts. Torch-free at import.

State belongs to the run of the loop, the predict node, the component of the model, the guidance branch by name and the
clip by its number in the batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from ...graph.contract.node import Run, State, Unkept
from ...graph.contract.processes import Mesh
from ..models.ranks.branch_exchange import own_branches
from ..models.rebuilt.loop_values import LoopValues
from . import first_turn
from .engine import engine_snapshot
from .engine.decide import Decision
from .engine.engine_snapshot import EngineSnapshot, RowSnapshot
from .gate import Gate
from .loop_turn import Turn
from .resolved_gate import resolve
from .tuning.linear_guidance import require_tunable
from .tuning.planned_gate import UNCOVERED, with_plan
from .tuning.step_plan import StepPlan
from .tuning.tuned_table import KIND

if TYPE_CHECKING:
    from .cache_dit.library_loop import LibraryEngine, Taken
    from .calibration.measure import Meter, Metered
    from .engine.engine import Engine
    from .engine.row_cache import RowCache

    Working = Engine | LibraryEngine
    Memory = RowCache | Taken | RowSnapshot

BRANCHES = ("positive", "negative")
"""The branches of guidance, in the order of their ranks."""


class GateState(State):
    """The gates of one run of a loop, one for each transformer that the loop uses.

    Attributes:
        values: What the transformer in use computed from prompts.
    """

    def __init__(self) -> None:
        self.values = LoopValues()
        self.gates: dict[str, tuple[Gate, tuple[int, ...], Working | EngineSnapshot]] = {}
        self.meters: dict[str, Meter] = {}
        self.run: Run | None = None

    def at_work(self, gate: Gate | None, turn: Turn) -> Opened | Metered | None:
        """The meter, the plan of `sgd tune` or the gate that works at a step; None if every block is computed.

        Raises:
            NodeError: See `measure`, `follow` and `open`.
        """
        options = {} if turn.run.planning else turn.run.options
        if options.get("calibrate"):
            return self.measure(turn)
        if (plan := options.get("tune")) is not None:
            return self.follow(plan, turn)
        return self.open(gate, turn) if gate is not None and gate.active else None

    def open(self, gate: Gate, turn: Turn) -> Opened:
        """Return the gate for one step of the model's transformer; make its engine first if there is none yet.

        Raises:
            NodeError: If the gate cannot work with this model or schedule.
        """
        self.run = turn.run
        component, window = turn.component, turn.window
        held = self.gates.get(component)
        # A gate node in the loop makes a new gate at every step, so gates are compared by value.
        same = held is not None and held[:2] == (gate, window)
        engine = held[2] if held is not None else None
        if isinstance(engine, EngineSnapshot) and same:
            made = _engine(gate, turn)
            engine_snapshot.restore(made, engine)  # type: ignore[arg-type]  # only such engines have snapshots
            engine = made
        elif (
            engine is None
            or isinstance(engine, EngineSnapshot)
            or not same
            or engine.transformer is not turn.transformer
        ):
            self._close(component)
            engine = _engine(gate, turn)
        self.gates[component] = (gate, window, engine)
        return Opened(engine, gate.name, turn)

    def measure(self, turn: Turn) -> Metered:
        """Return a meter for one step of the model's transformer. Every block is computed, and no gate is used.

        Raises:
            NodeError: If the model cannot be measured (`first_turn.meter`).
        """
        from .calibration.measure import Metered

        if turn.component not in self.meters:
            self.meters[turn.component] = first_turn.meter(turn)
        return Metered(self.meters[turn.component], turn)

    def follow(self, plan: Mapping[str, Any], turn: Turn) -> Opened:
        """Return a gate that follows a plan of `sgd tune`, whatever gate the file has.

        Args:
            plan: The fields of a `StepPlan`.
            turn: One step of the model's transformer.

        Raises:
            NodeError: If the model or its guidance is not one for a tuned gate, or cannot be measured.
        """
        component = turn.component
        if component not in self.gates:
            require_tunable(turn)
            first_turn.report_facts(turn)
            gate = with_plan(Gate(KIND, signal="model", name="tune"), StepPlan(**plan))
            self.gates[component] = (gate, turn.window, _resolved_engine(gate, turn))
        engine = self.gates[component][2]
        assert not isinstance(engine, EngineSnapshot), "no such run is resumed"
        return Opened(engine, "tune", turn)

    def end(self) -> None:
        self.values.clear()
        for component in list(self.gates):
            self._close(component)

    def snapshot(self) -> Any:
        if self.meters:
            return Unkept("measurements are not kept")
        found = {}
        for component, (gate, window, engine) in self.gates.items():
            if engine.gate.kind == "library":
                return Unkept(f"gate {gate.name}: the cache-dit package keeps its memory to itself")
            kept = engine if isinstance(engine, EngineSnapshot) else engine_snapshot.snapshot(engine)  # type: ignore[arg-type]
            found[component] = (gate, window, kept)
        return found

    def restore(self, snapshot: Any, run: Run) -> None:
        names, self.run = own_branches(run, BRANCHES), run
        self.gates = {
            component: (gate, window, engine_snapshot.of_branches(kept, names))
            for component, (gate, window, kept) in snapshot.items()
        }

    @classmethod
    def is_divided(cls, snapshot: Any, mesh: Mesh) -> bool:
        return any(mesh.branches > 1 or kept.cut for _, _, kept in snapshot.values())

    @classmethod
    def merged(cls, parts: Sequence[Any], mesh: Mesh) -> Any:
        found: dict[str, Any] = {}
        held = [part or {} for part in parts]
        for component in dict.fromkeys(name for part in held for name in part):
            gate, window, _ = next(part[component] for part in held if component in part)
            ranks = [part[component][2] if component in part else None for part in held]
            found[component] = gate, window, engine_snapshot.whole(ranks, mesh)
        return found

    def _close(self, component: str) -> None:
        """Report the totals of a gate, and drop it."""
        held = self.gates.pop(component, None)
        if held is None:
            return
        gate, _, engine = held
        try:
            if self.run is not None and not self.run.planning:
                _total(gate, engine, component, self.run)
        finally:
            engine.close()


def _engine(gate: Gate, turn: Turn) -> Working:
    """Make the engine that computes or reuses the blocks of the model's transformer, for a gate."""
    place = first_turn.place_of(turn, gate.table)
    try:
        if gate.kind == KIND:
            require_tunable(turn)
        resolved = resolve(gate, place)
    except NodeError as problem:
        message = f"gate {gate.name}: {problem}"
        if len(turn.window) < turn.step.count:
            message += f" ({len(turn.window)} of {turn.step.count} steps are those of {place.component})"
        raise NodeError(message, help=problem.help) from problem
    return _resolved_engine(resolved, turn)


def _resolved_engine(resolved: Gate, turn: Turn) -> Working:
    component = first_turn.component_of(turn, resolved.signal)
    if resolved.kind == "library":
        from .cache_dit.library_loop import LibraryEngine

        return LibraryEngine(resolved, component, turn.branches_take_turns)
    from .engine.engine import Engine

    return Engine(resolved, component)


def _total(gate: Gate, engine: Working | EngineSnapshot, component: str, run: Run) -> None:
    """Report the totals of a gate; warn with the reason if it reused nothing."""
    ended = reused_any = False
    decisions: list[Decision] = []
    for branch, whose, cache in _each(engine, tuple(engine.branch_caches)):
        taken = cache.taken
        reused = sum(not decision.computed for decision in taken.values())
        run.event(
            "gate_total",
            gate=gate.name,
            method=gate.kind,
            component=component,
            branch=branch,
            computed=len(taken) - reused,
            reused=reused,
            ratio=reused / len(taken) if taken else 0.0,
            steps="".join(str(int(taken[index].computed)) for index in sorted(taken)),
            **{"stack": None, **whose},
        )
        ended = len(taken) == len(engine.indices[branch])
        reused_any = reused_any or bool(reused)
        decisions += taken.values()
    if ended and not reused_any and not engine.gate.off:
        run.warn(_idle(engine.gate, component, decisions))


def _each(engine: Working | EngineSnapshot, branches: Sequence[str]) -> Iterator[tuple[str, dict[str, int], Memory]]:
    """The memory of each branch, clip and stack. Clips and stacks have numbers if there are several."""
    found: Mapping[str, Sequence[Sequence[Memory]]] = engine.branch_caches
    for branch in branches:
        clips = found.get(branch, [])
        for clip, stacks in enumerate(clips):
            for stack, cache in enumerate(stacks):
                whose = {"clip": clip} if len(clips) > 1 else {}
                yield branch, whose | ({"stack": stack} if len(stacks) > 1 else {}), cache


class Opened:
    """A gate at one step: the engine that evaluates branches, and the report of its decisions."""

    def __init__(self, engine: Working, name: str, turn: Turn) -> None:
        self.engine, self.name, self.turn, self.index, self.run = engine, name, turn, turn.index, turn.run

    def report(self, branches: Sequence[str]) -> None:
        """Report the decisions about branches to the observers, after they were evaluated."""
        engine = self.engine
        if self.run.planning:
            for branch in branches:
                self._say(branch)
            return
        for branch, whose, cache in _each(engine, branches):
            decision = cache.taken.get(self.index)
            if decision is None:
                continue
            value = {} if decision.value == decision.distance else {"value": decision.value}
            self.run.event(
                "gate",
                gate=self.name,
                component=self.turn.component,
                step=self.turn.step.index,
                branch=branch,
                computed=decision.computed,
                distance=decision.distance,
                threshold=engine.gate.threshold,
                reason=decision.reason,
                **whose,
                **value,
            )

    def _say(self, branch: str) -> None:
        """Report the decisions about a branch to the plan, as far as they are known."""
        engine = self.engine
        digits = engine.digits(branch)
        suffix = "" if branch == "positive" else f"_{branch}"
        self.run.detail(**{"gate": engine.gate.kind, f"computed{suffix}": digits})
        share = 1.0 if "?" in digits or engine.gate.kind == "library" else digits.count("1") / len(digits)
        self.run.event("turns", like_first=share)


def _idle(gate: Gate, component: str, decisions: Sequence[Decision]) -> str:
    """Write the warning for a gate that reused nothing, with the reason and a threshold that would reuse steps."""
    if (uncovered := gate.options.get(UNCOVERED)) is not None:
        more = "tune it for this number too, with `sgd tune`"
        return f"the gate {gate.name} ({gate.kind}) computes every step of {component}: {uncovered}; {more}"
    measured = [d.value for d in decisions if d.reason == "rule" and d.value is not None]
    ruled = [value for value in measured if isfinite(value)]
    head = f"the gate {gate.name} ({gate.kind}) reused nothing of {component}"
    if measured and not ruled:
        return f"{head}: no measured change is a finite number, so numbers overflow in the model"
    if ruled:
        # Slightly more than the smallest, so that the comparison also holds for the rounded number.
        least = max(min(ruled), 0.0) * 1.001
        return f"{head}: the threshold is {gate.threshold:g}, and the smallest that would reuse a step is {least:.4g}"
    reasons = sorted({decision.reason for decision in decisions})
    return f"{head}: every step was computed because of {', '.join(reasons)}; {json.dumps(_limits(gate))}"


def _limits(gate: Gate) -> dict[str, Any]:
    limits = gate.limits
    found = {
        "warmup_steps": limits.warmup_steps,
        "max_consecutive": limits.max_consecutive,
        "max_reused": limits.max_reused,
        "threshold": gate.threshold,
    }
    return {name: value for name, value in found.items() if value is not None}
