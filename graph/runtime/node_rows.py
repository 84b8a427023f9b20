"""The rows of the record's `nodes`: everything in the file, and the time outside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..compiler.plan import Plan
from ..contract.machine_limits import MachineLimits, Work
from .clock import LOAD, OTHER, ROWS, Clock
from .observers.profile import Row
from .observers.work_count import WorkCount

NOT_COUNTED = WorkCount(())


def node_rows(
    plan: Plan,
    rows: Mapping[str, Row],
    seconds: float,
    counts: WorkCount = NOT_COUNTED,
    limits: MachineLimits | None = None,
) -> list[dict[str, Any]]:
    """A row for every node, loop and composite of the file; loops and composites sum the rows inside them.

    Args:
        plan: The plan.
        rows: The measurements, by call.
        seconds: Seconds of the run.
        counts: The work of the calls.
        limits: Measured limits of the machine.
    """
    merged = {name: call.id for call in plan.calls() for name in call.names if name != call.id}
    found = []
    for name, type in plan.names.items():
        row = rows.get(name)
        inside = {id: r for id, r in rows.items() if id.startswith(f"{name}.")}
        members = inside | ({name: row} if row is not None else {})
        total = sum(r.seconds for r in members.values())
        device = [r.device_seconds for r in members.values() if r.device_seconds is not None]
        peaks = [r.peak_bytes for r in members.values() if r.peak_bytes is not None]
        detail = dict(row.detail) if row is not None else {}
        if name in merged:
            detail["same_as"] = merged[name]
        work = _sum_of(members, counts)
        spent = sum(device) if device else total
        saves = row is not None and row.effect
        resumed = sum(r.resumed_calls for r in members.values())
        reused = any(r.reused for r in members.values())
        interrupted = any(r.interrupted for r in members.values())
        compared = limits if not saves and not interrupted else None
        saved = sum(r.saved_seconds or 0.0 for r in members.values())
        found.append(
            {
                "name": name,
                "type": type,
                "calls": sum(r.calls for r in members.values()),
                **({"resumed_calls": resumed} if resumed else {}),
                **({"interrupted": True} if interrupted else {}),
                **({"reused": True} if reused else {}),
                **({"saved_seconds": saved} if saved else {}),
                **({"overlapped": True} if any(r.overlapped for r in members.values()) else {}),
                "seconds": total,
                "device_seconds": sum(device) if device else None,
                "share": total / seconds if seconds > 0 else 0.0,
                "peak_bytes": max(peaks) if peaks else None,
                "flops": work.total if work is not None else None,
                "bytes": work.bytes if work is not None else None,
                **({"uncounted": True} if any(map(counts.put_off, members)) else {}),
                "ceiling": compared.ceiling(work, spent) if compared is not None else None,
                "detail": detail,
                "outputs": row.outputs if row is not None else [],
            }
        )
    return found


def _sum_of(members: Mapping[str, Row], counts: WorkCount) -> Work | None:
    """The work of all calls; None if it is not known for one of them, or if nothing was called."""
    total: Work | None = None
    for id, row in members.items():
        if row.calls:
            work = counts.of(id)
            if work is None:
                return None
            total = work if total is None else total + work
    return total


def other_rows(
    clock: Clock, rows: Mapping[str, Row], seconds: float, limits: MachineLimits | None = None
) -> list[dict[str, Any]]:
    """A row for each kind of time outside nodes."""
    found = []
    for name in ROWS:
        spent, detail, read, ceiling = clock.spent.get(name, 0.0), {}, None, None
        if name == OTHER:
            detail = clock.parts()
            spent += sum(detail.values())
        if name == LOAD:
            loaded = [(row.detail, part) for row in rows.values() for part in row.detail.get("loaded", ())]
            facts = [_known(known, part) for known, part in loaded]
            read = sum(int(each["bytes"]) for each in facts if "bytes" in each and not each.get("kept"))
            ceiling = limits.disk_ceiling(read, spent) if limits is not None else None
        found.append(
            {
                "name": name,
                "type": "",
                "calls": 0,
                "seconds": spent,
                "device_seconds": None,
                "share": spent / seconds if seconds > 0 else 0.0,
                "peak_bytes": None,
                "flops": None,
                "bytes": read or None,
                "ceiling": ceiling,
                "detail": detail,
                "outputs": [],
            }
        )
    return found


def _known(detail: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The facts of a component; none if the library reports no such facts."""
    facts = detail.get(part)
    return facts if isinstance(facts, Mapping) else {}
