"""Estimate the cost of a plan. Its nodes run on meta tensors for two iterations of each loop, and a meter counts.

A node library counts operations and memory (`NodeLibrary.plan_meter`), and gives advice if a plan does not fit
(`NodeLibrary.memory_advice`). A run in several processes is traced once for each role (`ranks/roles.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from ..compiler.ir import Call
from ..compiler.plan import CallStep, Plan, after_effects
from ..contract.events import Observers
from ..contract.machine_limits import MachineLimits
from ..contract.processes import Mesh, Processes
from .context import Context
from .execute import Executor
from .library_contexts import around_run
from .plan_counter import Counter
from .ranks.placed_steps import PlacedSteps
from .ranks.roles import LoopBytes, Role, RoleCosts, roles_of, without_repeats
from .ranks.run_ranks import rank_library

TURNS = 2
ONE = Mesh()


def _nothing() -> dict[str, int]:
    return {"flops": 0, "peak_bytes": 0, "live_bytes": 0}


def estimate(
    plan: Plan,
    *,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    memory_bytes: int | None = None,
    limits: MachineLimits | None = None,
    mesh: Mesh = ONE,
) -> dict[str, Any]:
    """Estimate the cost of a plan on a device.

    Args:
        plan: The plan.
        options: Options of the run.
        device: `cpu` or `cuda`.
        memory_bytes: Memory of the device: of each GPU, or of the host for all processes.
        limits: Measured limits of the machine.
        mesh: The processes of the run.

    Returns:
        `nodes` in the order in which they run (calls, parameters and FLOPs over all iterations, peak bytes, outputs,
        `eight_bit_flops`: the FLOPs that a run may compute with numbers of 8 bits, and `least_seconds`: the time of the
        others at the rate that was measured for the dtype of most, None without it),
        `components`, `flops`, `peak_bytes`, `memory_bytes`, `fits`, `warnings`, and `help`: lines of advice if the plan
        does not fit. In several processes the numbers are those of rank 0, except that `peak_bytes` is the highest peak
        of any GPU, or the sum of all processes on a CPU. Then `parallel` is the mesh, and `roles` are `RoleCosts`.

    Raises:
        NodeFailed: If a node cannot do its work, before any weight is loaded.
    """
    known = {**(options or {}), "memory_bytes": memory_bytes}
    roles: list[RoleCosts] = []
    if mesh.size == 1:
        counter = _traced(plan, known)
    else:
        ranks, found = rank_library(plan).plan_ranks(mesh), []
        for role in roles_of(mesh):
            found.append(_traced(plan, known, ranks.processes(role.ranks[0])))
            roles.append(_costs(role, found[-1]))
        counter, roles = found[0], without_repeats(roles)
    peaks = [role.peak_bytes for role in roles for _ in role.ranks] or [counter.peak]
    peak = sum(peaks) if device == "cpu" else max(peaks)
    estimated: dict[str, Any] = {
        "workflow": plan.name,
        "device": device,
        "nodes": [_row(step.call, counter, limits) for step, _ in plan.walk() if isinstance(step, CallStep)],
        "components": [{"holder": holder, "part": part, **size} for (holder, part), size in counter.components.items()],
        "flops": sum(counter.flops(id) for id in counter.around),
        "eight_bit_flops": sum(counter.eight_bit_flops(id) for id in counter.around),
        "peak_bytes": peak,
        "memory_bytes": memory_bytes,
        "fits": peak <= memory_bytes if memory_bytes else None,
        "warnings": [*plan.warnings, *counter.warnings],
        "help": [],
    }
    if roles:
        estimated |= {"parallel": asdict(mesh), "roles": [asdict(role) for role in roles]}
    if estimated["fits"] is False:
        estimated["help"] = [line for library in plan.libraries for line in library.memory_advice(estimated)]
    return estimated


def _traced(plan: Plan, options: Mapping[str, Any], processes: Processes | None = None) -> Counter:
    """Run a plan's nodes on meta tensors, as one process or as one of several."""
    with ExitStack() as stack:
        context = Context(Path(gettempdir()), Observers([]), "meta", options, planning=True)
        stack.enter_context(around_run(plan, context))
        take: Callable[[], Mapping[str, Any]] = _nothing
        for library in plan.libraries:
            meter = library.plan_meter(context)
            if meter is not None:
                take = stack.enter_context(meter).take
        counter = context.observer = Counter(take)
        skip, wrap = after_effects(plan), None
        if processes is not None:
            context.processes = processes
            wrap = PlacedSteps(plan, context, processes)
            skip = skip.union(wrap.skipped)
        Executor(plan, context, counter, turns=TURNS, skip=skip, wrap=wrap).execute()
        counter.run_finished("done", None)
    return counter


def _costs(role: Role, counter: Counter) -> RoleCosts:
    """The costs of each rank of a role, from the trace of one rank."""
    steps = dict[str, LoopBytes]()
    for loop in [loop for loop in counter.turns if loop in counter.sent]:
        sent, turns = counter.sent_in(loop), counter.calls(loop)
        if sent and turns:
            steps[loop] = LoopBytes(turns, sent // turns)
    flops = sum(counter.flops(id) for id in counter.around)
    sent = sum(counter.sent_bytes(id) for id in counter.sent)
    return RoleCosts(role.ranks, role.branch, flops, counter.peak, sent, steps)


def _row(call: Call, counter: Counter, limits: MachineLimits | None) -> dict[str, Any]:
    row = counter.rows.get(call.id, {"peak_bytes": 0, "detail": {}, "outputs": []})
    ran = call.id in counter.around
    flops = counter.flops(call.id) if ran else 0
    eight_bit_flops = counter.eight_bit_flops(call.id) if ran else 0
    rate = limits.matrix.get(row.get("dtype") or "") if limits is not None else None
    own = [size["parameters"] for (holder, _), size in counter.components.items() if holder == call.id]
    return {
        "name": call.id,
        "type": call.type.name,
        "names": list(call.names),
        "calls": counter.calls(call.id) if ran else 0,
        "parameters": sum(own),
        "flops": flops,
        "eight_bit_flops": eight_bit_flops,
        "least_seconds": (flops - eight_bit_flops) / rate if rate else None,
        "peak_bytes": row["peak_bytes"],
        "components": [list(part) for part in row.get("components", ())],
        "detail": row["detail"],
        "outputs": row["outputs"],
    }
