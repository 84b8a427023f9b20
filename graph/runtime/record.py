"""The record of a run, written as `run.json`."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..compiler.plan import Plan
from ..contract.events import CallInfo, Observer
from ..contract.node import Run
from ..contract.output_files import replace_text
from ..contract.ports import Port
from .arguments import facts_of
from .observers.profile import Profile, Row, Turns

RECORD_VERSION = 1


@dataclass
class Clock:
    """Seconds by phase. Time outside the other phases counts as `run`, so that the phases sum to the whole."""

    started: float
    import_seconds: float = 0.0
    compile_seconds: float = 0.0


@dataclass
class Recorder(Observer):
    """Collects the record's entries, apart from profile and turns."""

    profile: Profile = field(default_factory=Profile)
    turns: Turns = field(default_factory=Turns)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        node = {"node": call.id} if call is not None else {}
        self.events.setdefault(kind, []).append({**node, **data})

    def warned(self, call: CallInfo | None, message: str) -> None:
        self.warnings.append(f"{call.id}: {message}" if call is not None else message)

    def record(
        self, plan: Plan, run: Run, clock: Clock, now: float, status: str, outputs: Mapping[str, Any], error: str | None
    ) -> dict[str, Any]:
        """The record. `clock.started` and `now` are times of one clock; `outputs` are the outputs of the workflow."""
        seconds = now - clock.started
        rows = self.profile.rows
        save = sum(row.seconds for row in rows.values() if row.effect)
        nodes = sum(row.seconds for row in rows.values() if not row.effect)
        load = self.profile.load_seconds
        run_seconds = seconds - clock.import_seconds - clock.compile_seconds - load - save
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
            "seconds": seconds,
            "phases": {
                "import": clock.import_seconds,
                "compile": clock.compile_seconds,
                "load": load,
                "run": run_seconds,
                "save": save,
            },
            "unaccounted_seconds": run_seconds - nodes,
            "peak_bytes": self.profile.peak_bytes,
            "nodes": node_rows(plan, rows, seconds),
            "edges": [{"from": source, "to": target} for source, target in plan.edges],
            "steps": self.turns.turns,
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


def environment(device: str, packages: Iterable[str]) -> dict[str, Any]:
    """The machine, and the versions of packages by name; None for one that is not installed."""
    found: dict[str, Any] = {"device": device, "python": platform.python_version(), "os": platform.platform()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        with suppress(Exception):  # torch may be half imported, or the GPU may fail
            found["device"] = torch.cuda.get_device_name()
    return found


def node_rows(plan: Plan, rows: Mapping[str, Row], seconds: float) -> list[dict[str, Any]]:
    """A row for every node, loop and composite of the file; loops and composites sum the rows inside them."""
    merged = {name: call.id for call in plan.calls() for name in call.names if name != call.id}
    found = []
    for name, type in plan.names.items():
        row = rows.get(name)
        inside = [r for id, r in rows.items() if id.startswith(f"{name}.")]
        members = [row] if row is not None else inside
        total = sum(r.seconds for r in members)
        device = [r.device_seconds for r in members if r.device_seconds is not None]
        peaks = [r.peak_bytes for r in members if r.peak_bytes is not None]
        detail = dict(row.detail) if row is not None else {}
        if name in merged:
            detail["same_as"] = merged[name]
        found.append(
            {
                "name": name,
                "type": type,
                "calls": row.calls if row is not None else sum(r.calls for r in inside),
                "seconds": total,
                "device_seconds": sum(device) if device else None,
                "share": total / seconds if seconds > 0 else 0.0,
                "peak_bytes": max(peaks) if peaks else None,
                "detail": detail,
                "outputs": row.outputs if row is not None else [],
            }
        )
    return found


def plain_output(value: Any, run: Run) -> Any:
    """A workflow output in the record: files as paths below the output folder, other values as their facts."""
    if isinstance(value, list | tuple):
        return [plain_output(v, run) for v in value]
    facts = facts_of(value)
    path = value if isinstance(value, Path) else facts.get("path")
    if path is not None:
        out = getattr(run, "out", None)
        root = out.resolve() if out is not None else None
        return str(Path(path).relative_to(root)) if root is not None and Path(path).is_relative_to(root) else str(path)
    return {"type": type(value).__name__, **facts} if isinstance(value, Port) else value


def clean(value: Any) -> Any:
    """The value as JSON: paths and numbers that are not finite become text."""
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(clean, value), key=repr)
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def write(record: Mapping[str, Any], path: Path, temporary: Path | None = None) -> None:
    """Write the record in one step, so that a reader never sees half of it.

    Args:
        record: The record.
        path: Its file.
        temporary: The file that is written first; see `replace_text`.

    Raises:
        OSError: If it cannot be written.
    """
    replace_text(path, json.dumps(record, indent=1) + "\n", temporary)
