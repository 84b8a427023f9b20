"""Estimate the cost of a plan. Its nodes run on meta tensors for two iterations of each loop, and a meter counts.

A node library counts operations and memory (`NodeLibrary.plan_meter`), and gives advice if a plan does not fit
(`NodeLibrary.memory_advice`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from ..compiler.ir import Call
from ..compiler.plan import CallStep, Plan, after_effects
from ..contract.events import CallInfo, HolderInfo, LoopInfo, Observer, Observers
from ..contract.machine_limits import MachineLimits
from .context import Context
from .execute import Executor
from .library_contexts import around_run
from .observers.profile import described

TURNS = 2


class Counter(Observer):
    """Shapes, operations and memory per call, and sizes of components."""

    def __init__(self, take: Callable[[], Mapping[str, Any]]) -> None:
        self.take = take
        self.turns: dict[str, int] = {}
        self.around: dict[str, list[str]] = {}
        self.loops: list[str] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self.components: dict[tuple[str, str], dict[str, Any]] = {}
        self.held: dict[tuple[str, str], int] = {}
        self.warnings: list[str] = []
        self.peak = 0
        self.shares: dict[str, list[float]] = {}

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self.turns[loop.id] = turns
        self.loops.append(loop.id)

    def loop_finished(self, loop: LoopInfo) -> None:
        self.loops.pop()

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        self.held[holder.node, part] = self.held.get((holder.node, part), 0) + 1

    def part_released(self, holder: HolderInfo, part: str) -> None:
        self.held[holder.node, part] -= 1

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.peak = max(self.peak, self.take()["peak_bytes"])

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        taken = self.take()
        self.peak = max(self.peak, taken["peak_bytes"])
        row = self.rows.setdefault(call.id, {"flops": [], "peak_bytes": 0, "detail": {}, "outputs": []})
        self.around[call.id] = list(self.loops)
        row["flops"].append(taken["flops"])
        row["dtype"] = taken.get("dtype") or row.get("dtype")
        row["peak_bytes"] = max(row["peak_bytes"], taken["peak_bytes"])
        row["components"] = sorted(part for part, count in self.held.items() if count)
        row["outputs"] = [described(port, value) for port, value in outputs.items() if value is not None]

    def detail(self, call: CallInfo | None, values: Mapping[str, Any]) -> None:
        if call is None:
            return
        row = self.rows.setdefault(call.id, {"flops": [], "peak_bytes": 0, "detail": {}, "outputs": []})
        row["detail"].update(values)
        for name, value in values.items():
            if isinstance(value, Mapping) and "parameters" in value:
                self.components[call.id, name] = dict(value)

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        """Record the event `turns`: the share of a call's iterations that cost as much as the first.

        The other iterations cost as much as the second.
        """
        if kind == "turns" and call is not None:
            self.shares.setdefault(call.id, []).append(float(data["like_first"]))

    def warned(self, call: CallInfo | None, message: str) -> None:
        self.warnings.append(f"{call.id}: {message}" if call is not None else message)

    def calls(self, id: str) -> int:
        total = 1
        for loop in self.around[id]:
            total *= self.turns[loop]
        return total

    def flops(self, id: str) -> int:
        """FLOPs over all iterations of the loops.

        One iteration costs as much as the first, and all others as much as the second, unless an event `turns` gives
        other shares.
        """
        counted, calls = self.rows[id]["flops"], self.calls(id)
        if not counted:
            return 0
        shares = self.shares.get(id)
        first = calls * sum(shares) / len(shares) if shares else 1
        return int(counted[0] * first + counted[-1] * (calls - first))


def _nothing() -> dict[str, int]:
    return {"flops": 0, "peak_bytes": 0, "live_bytes": 0}


def estimate(
    plan: Plan,
    *,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    memory_bytes: int | None = None,
    limits: MachineLimits | None = None,
) -> dict[str, Any]:
    """Estimate the cost of a plan on a device.

    Returns:
        `nodes` in the order in which they run (calls, parameters and FLOPs over all iterations, peak bytes, outputs,
        and `least_seconds`: the time of the FLOPs at the rate that was measured for their dtype, None without it),
        `components`, `flops`, `peak_bytes`, `memory_bytes`, `fits`, `warnings`, and `help`: lines of advice if the plan
        does not fit.

    Raises:
        NodeFailed: If a node cannot do its work, before any weight is loaded.
    """
    with ExitStack() as stack:
        observers = Observers([])
        known = {**(options or {}), "memory_bytes": memory_bytes}
        context = Context(Path(gettempdir()), observers, "meta", known, planning=True)
        stack.enter_context(around_run(plan, context))
        take: Callable[[], Mapping[str, Any]] = _nothing
        for library in plan.libraries:
            meter = library.plan_meter(context)
            if meter is not None:
                take = stack.enter_context(meter).take
        counter = Counter(take)
        context.observer = counter
        Executor(plan, context, counter, turns=TURNS, skip=after_effects(plan)).execute()
    peak = counter.peak
    found: dict[str, Any] = {
        "workflow": plan.name,
        "device": device,
        "nodes": [_row(step.call, counter, limits) for step, _ in plan.walk() if isinstance(step, CallStep)],
        "components": [{"holder": holder, "part": part, **size} for (holder, part), size in counter.components.items()],
        "flops": sum(counter.flops(id) for id in counter.around),
        "peak_bytes": peak,
        "memory_bytes": memory_bytes,
        "fits": peak <= memory_bytes if memory_bytes else None,
        "warnings": [*plan.warnings, *counter.warnings],
        "help": [],
    }
    if found["fits"] is False:
        found["help"] = [line for library in plan.libraries for line in library.memory_advice(found)]
    return found


def _row(call: Call, counter: Counter, limits: MachineLimits | None) -> dict[str, Any]:
    row = counter.rows.get(call.id, {"peak_bytes": 0, "detail": {}, "outputs": []})
    ran = call.id in counter.around
    flops = counter.flops(call.id) if ran else 0
    rate = limits.matrix.get(row.get("dtype") or "") if limits is not None else None
    own = [size["parameters"] for (holder, _), size in counter.components.items() if holder == call.id]
    return {
        "name": call.id,
        "type": call.type.name,
        "names": list(call.names),
        "calls": counter.calls(call.id) if ran else 0,
        "parameters": sum(own),
        "flops": flops,
        "least_seconds": flops / rate if rate else None,
        "peak_bytes": row["peak_bytes"],
        "components": [list(part) for part in row.get("components", ())],
        "detail": row["detail"],
        "outputs": row["outputs"],
    }
