"""The record of a run whose jobs ran on several workers: sums over the jobs, and a row for each job and worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...compiler.checks.separate_turns import SeparateTurns
from ...compiler.ir import Ref
from ...compiler.plan import Plan
from .dealing import HiredWorker
from .job_result import JobResult

ADDED = ("calls", "seconds", "device_seconds", "flops", "bytes")
"""Numbers of a row that are summed over jobs. `flops` and `bytes` are null if a job that called the node lacks them."""
KNOWN = ("steps", "timeline", "memory", "nodes", "warnings", "edges", "outputs")
"""Lists of the record that hold no events of nodes."""


def outputs_of(plan: Plan, turns: SeparateTurns, results: Mapping[int, JobResult]) -> dict[str, Any]:
    """The outputs of a run whose jobs are all done: lists of what the jobs returned, or values that all have alike."""
    records = [results[job].record or {} for job in sorted(results)]
    found: dict[str, Any] = {}
    for name, arg in plan.outputs.items():
        values = [record["outputs"][name] for record in records]
        of_loop = isinstance(arg.source, Ref) and arg.source.node in turns.loops
        found[name] = [each for value in values for each in value] if of_loop else values[0]
    return found


def joined_record(record: dict[str, Any], turns: SeparateTurns, results: Mapping[int, JobResult]) -> dict[str, Any]:
    """Put the records of the jobs into the record of the run.

    Args:
        record: The record of the run, in which no node has run.
        turns: The jobs.
        results: The results of those that have ended.
    """
    told = {job: results[job].record for job in sorted(results)}
    parts = {job: part for job, part in told.items() if part is not None}
    if not parts:
        return record
    first = next(iter(parts.values()))
    record["nodes"] = _rows(record["nodes"], [part["nodes"] for part in parts.values()])
    record["environment"] = first["environment"]
    record["unaccounted_seconds"] = None
    record["peak_bytes"] = max((p for part in parts.values() if (p := part["peak_bytes"]) is not None), default=None)
    record["steps"] = [_turn(step, job, turns) for job, part in parts.items() for step in part["steps"]]
    for kind, entries in first.items():
        if isinstance(entries, list) and kind not in KNOWN:
            record[kind] = [each | {"job": job} for job, part in parts.items() for each in part.get(kind, ())]
    record["warnings"] += [
        warning for warning in _each(part["warnings"] for part in parts.values()) if warning not in record["warnings"]
    ]
    recipes = [part["recipe"] for part in parts.values() if "recipe" in part]
    if recipes:
        record["recipe"] = _recipe(recipes)
    return record


def job_rows(results: Mapping[int, JobResult], count: int) -> list[dict[str, Any]]:
    """A row for each job."""
    return [_job(job, results.get(job)) for job in range(count)]


def worker_rows(workers: Iterable[HiredWorker]) -> list[dict[str, Any]]:
    """A row for each worker."""
    return [
        {
            "worker": each.number,
            "host": each.started.host if each.started is not None else "",
            "jobs": each.jobs,
            "seconds": each.seconds,
            "left": each.left,
        }
        for each in workers
    ]


def _job(job: int, result: JobResult | None) -> dict[str, Any]:
    if result is None:
        return {"job": job, "status": "interrupted", "worker": None, "attempts": 0, "seconds": None}
    found: dict[str, Any] = {
        "job": job,
        "status": result.status,
        "worker": result.worker or None,
        "attempts": result.attempts,
        "seconds": result.seconds,
    }
    if result.error:
        found["error"] = result.error
    elif result.record is not None:
        found["outputs"] = result.record["outputs"]
    return found


def _rows(empty: Sequence[Mapping[str, Any]], parts: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of nodes. `share` is that of the seconds of all workers."""
    by_name: dict[str, list[Mapping[str, Any]]] = {row["name"]: [] for row in empty}
    for part in parts:
        for row in part:
            by_name.setdefault(row["name"], []).append(row)
    found = [_row(rows) for rows in by_name.values() if rows]
    whole = sum(row["seconds"] or 0.0 for row in found if "." not in row["name"])
    for row in found:
        row["share"] = (row["seconds"] or 0.0) / whole if whole else 0.0
    return found


def _row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = next((row for row in reversed(rows) if row["calls"]), rows[-1])
    found = dict(last) | {"ceiling": None}
    for key in ADDED:
        values = [row[key] for row in rows if row["calls"] or not row["type"]] or [row[key] for row in rows]
        known = [value for value in values if value is not None]
        partly = key in ("flops", "bytes") and len(known) < len(values) and bool(last["type"])
        found[key] = sum(known) if known and not partly else None
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"] is not None]
    found["peak_bytes"] = max(peaks, default=None)
    if not last["type"]:
        found["detail"] = _added([row["detail"] for row in rows])
    return found


def _added(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parts of a row of time outside nodes."""
    found: dict[str, float] = {}
    for detail in details:
        for name, seconds in detail.items():
            found[name] = found.get(name, 0.0) + seconds
    return found


def _turn(step: Mapping[str, Any], job: int, turns: SeparateTurns) -> dict[str, Any]:
    """A turn, without its start, which counts from the start of its own job."""
    found = {name: value for name, value in step.items() if name != "start"} | {"job": job}
    return found | {"turn": job} if step["loop"] in turns.loops else found


def _recipe(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The recipe of the run: files that only some jobs used are those of the run too."""
    found = dict(recipes[0])
    for key, value in found.items():
        if isinstance(value, list) and key != "files":
            rows = {repr(row): row for row in _each(recipe.get(key, ()) for recipe in recipes)}
            found[key] = list(rows.values())
    return found


def _each(lists: Iterable[Iterable[Any]]) -> list[Any]:
    return [each for entries in lists for each in entries]
