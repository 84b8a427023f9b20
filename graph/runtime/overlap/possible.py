"""Whether a run can have a second thread: the workflow, the other options, and the memory of the device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...compiler.ir import Call
from ...compiler.overlaps import Overlap, overlaps_of
from ...compiler.plan import Acquire, Plan
from ...contract import device as devices
from ...contract.errors import NodeError
from ...contract.text_tables import count
from ..estimate import estimate
from ..failure import NodeFailed
from ..profiling import Profiling

HEADROOM = 1.1
"""Factor on the bytes of a plan, which leave out the workspace of kernels. Tiling has the same factor."""


def overlaps_for(
    plan: Plan, profiling: Profiling, ranks: bool, device: str, other: str | None = None
) -> tuple[Overlap, ...]:
    """The overlaps of a run.

    Args:
        plan: The plan.
        profiling: The measurements of the run.
        ranks: Whether it is one of several processes.
        device: The device of the run.
        other: The device of the tails; None if it is that of the run.

    Raises:
        NodeError: If nothing can overlap, or the other device is not there.
    """
    if ranks:
        raise NodeError("--overlap runs in one process", help="leave out --overlap, or --processes and --parallel")
    if other is not None:
        devices.require_second_card(other, device)
    values = "--trace-values" if profiling.trace_values is not None else ""
    refused = values or (f"--profile {profiling.mode}" if profiling.mode in ("torch", "nvtx") else "")
    if refused:
        raise NodeError(f"{refused} follows one call at a time, and --overlap runs two", help=f"leave out {refused}")
    found, reasons = overlaps_of(plan)
    if not found:
        listed = "".join(f"\n  {reason}" for reason in reasons)
        raise NodeError(
            f"--overlap finds nothing that could run beside the next turn of a loop:{listed}",
            help="leave out --overlap: it needs a loop over a list that has a loop with `carry`, and nodes after that",
            code="unsupported",
        )
    return found


def misfit(
    plan: Plan, overlaps: Sequence[Overlap], device: str, options: Mapping[str, Any], other: str | None = None
) -> str:
    """A warning if the device has too little memory for a head and a tail at once; empty if both fit.

    Tails on another device must fit there; heads then need no more memory than without overlap. Nothing is checked on a
    CPU.
    """
    if not device.startswith("cuda"):
        return ""
    has = devices.memory_bytes(other or device)
    try:
        found = estimate(plan, options={**options, "device": device}, device=device, memory_bytes=has)
    except NodeFailed:
        return ""  # the run reports this error itself
    if other is not None:
        needs = max(bytes_apart(found, plan, overlap) for overlap in overlaps)
    else:
        needs = max(needed_bytes(found, overlap.head, overlap.calls) for overlap in overlaps)
    if has is None or HEADROOM * needs <= has:
        return ""
    if other is not None:
        return (
            f"--overlap-device {other}: the end of a turn needs {count(needs, 'B', 1024)}, and that device has "
            f"{count(has, 'B', 1024)}; the run goes on without overlap"
        )
    return (
        f"--overlap: a turn and the end of the turn before need {count(needs, 'B', 1024)} at once, and the device has "
        f"{count(has, 'B', 1024)}; the run goes on without it"
    )


def needed_bytes(estimate: Mapping[str, Any], head: Collection[Call], tail: Collection[Call]) -> int:
    """The bytes that two groups of calls need at once, at most. Components that both have in memory count once."""
    rows = {row["name"]: row for row in estimate["nodes"]}
    bytes_of = {(each["holder"], each["part"]): int(each.get("bytes", 0)) for each in estimate["components"]}

    def most(calls: Collection[Call]) -> tuple[int, set[tuple[str, str]]]:
        known = [rows[call.id] for call in calls if call.id in rows]
        parts = [{(str(holder), str(part)) for holder, part in row["components"]} for row in known]
        return max((int(row["peak_bytes"]) for row in known), default=0), set().union(*parts)

    (one, held), (other, also) = most(head), most(tail)
    return one + other - sum(bytes_of.get(part, 0) for part in held & also)


def bytes_apart(estimate: Mapping[str, Any], plan: Plan, overlap: Overlap) -> int:
    """The bytes that the tails of a loop need on a device of their own, at most.

    Components that only other calls need are not there. Values of the heads count, though not all of them go there.
    """
    own = {(step.holder.node, step.part) for step in (*overlap.own, *overlap.common)}
    all = {(step.holder.node, step.part) for step, _ in plan.walk() if isinstance(step, Acquire)}
    sizes = {(each["holder"], each["part"]): int(each.get("bytes", 0)) for each in estimate["components"]}
    tail = {call.id for call in overlap.calls}

    def needed(row: Mapping[str, Any]) -> int:
        elsewhere = {(holder, part) for holder, part in row["components"]} & (all - own)
        return int(row["peak_bytes"]) - sum(sizes.get(part, 0) for part in elsewhere)

    return max((needed(row) for row in estimate["nodes"] if row["name"] in tail), default=0)
