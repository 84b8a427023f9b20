"""The observer of `--profile off`: rows of the record without times and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...contract.events import CallInfo, PlanInfo
from ...contract.node import Run
from ..clock import OTHER
from .profile import Profile, Row, described

MEASURED = ("seconds", "device_seconds", "share", "peak_bytes")
WORK = ("flops", "bytes", "ceiling")


class Unmeasured(Profile):
    """Counts the calls of each node, and keeps their details and outputs. Takes no time and no memory of a node."""

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        pass

    def run_finished(self, status: str, error: BaseException | None) -> None:
        if status == "interrupted" and self._running is not None:
            row = self.rows.setdefault(self._running.id, Row(effect=self._running.type.effect))
            row.interrupted = True

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._running = call

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        self._running = None
        row = self.rows.setdefault(call.id, Row(effect=call.type.effect))
        if not row.calls:
            row.outputs = [described(port, value) for port, value in outputs.items()]
        row.calls += 1

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        row = self.rows.setdefault(call.id, Row(effect=call.type.effect))
        if self._running is call:
            row.calls += 1
            self._running = None


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run whose nodes were not measured: null where a number would stand."""
    for row in record["nodes"]:
        row.update(dict.fromkeys(WORK))
        if row["type"] or row["name"] == OTHER:  # other rows outside nodes are known, and cost nothing
            row.update({key: None for key in MEASURED if key in row})
    record["phases"]["save"] = None  # the time of nodes that write files; it counts as `run`
    record["unaccounted_seconds"] = record["peak_bytes"] = None
    if "overlapped_seconds" in record:
        record["overlapped_seconds"] = None
    return record
