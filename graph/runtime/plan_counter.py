"""The costs of a plan, counted while its nodes run on meta tensors for a few turns of each loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..contract.events import CallInfo, HolderInfo, LoopInfo, Observer
from .observers.profile import described


class Counter(Observer):
    """Shapes, operations, memory and sent bytes per call, and sizes of components."""

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
        self.sent: dict[str, list[int]] = {}
        """Bytes that each call sent. The name of a loop has the bytes that its turns sent outside of calls."""
        self.last = ""

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self.turns[loop.id] = turns
        self.loops.append(loop.id)

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        taken = self.take()
        self.peak = max(self.peak, taken["peak_bytes"])
        self.around[loop.id] = list(self.loops)
        self.sent.setdefault(loop.id, []).append(taken.get("sent_bytes", 0))
        self.last = ""

    def loop_finished(self, loop: LoopInfo) -> None:
        self.loops.pop()

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        self.held[holder.node, part] = self.held.get((holder.node, part), 0) + 1

    def part_released(self, holder: HolderInfo, part: str) -> None:
        self.held[holder.node, part] -= 1

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._between()

    def _between(self) -> None:
        """Count the costs since the last call for that call: its values were sent after it."""
        taken = self.take()
        self.peak = max(self.peak, taken["peak_bytes"])
        if self.last:
            self.sent[self.last][-1] += taken.get("sent_bytes", 0)

    def run_finished(self, status: str, error: BaseException | None) -> None:
        self._between()

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        taken = self.take()
        self.peak = max(self.peak, taken["peak_bytes"])
        row = self.rows.setdefault(call.id, {"flops": [], "peak_bytes": 0, "detail": {}, "outputs": []})
        self.around[call.id] = list(self.loops)
        row["flops"].append(taken["flops"])
        row.setdefault("eight_bit_flops", []).append(taken.get("eight_bit_flops", 0))
        self.sent.setdefault(call.id, []).append(taken.get("sent_bytes", 0))
        self.last = call.id
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
        return self._over_turns(id, self.rows[id]["flops"]) if id in self.rows else 0

    def eight_bit_flops(self, id: str) -> int:
        """The part of `flops` that a run may compute with numbers of 8 bits."""
        return self._over_turns(id, self.rows[id].get("eight_bit_flops", [])) if id in self.rows else 0

    def sent_bytes(self, id: str) -> int:
        """Bytes that a call sends over all iterations; for a loop, those that its turns send outside of calls."""
        return self._over_turns(id, self.sent.get(id, []))

    def sent_in(self, loop: str) -> int:
        """Bytes that all turns of a loop send."""
        return sum(self.sent_bytes(id) for id in self.sent if id == loop or loop in self.around[id])

    def _over_turns(self, id: str, counted: Sequence[int]) -> int:
        if not counted:
            return 0
        calls, shares = self.calls(id), self.shares.get(id)
        first = calls * sum(shares) / len(shares) if shares else 1
        return int(counted[0] * first + counted[-1] * (calls - first))
