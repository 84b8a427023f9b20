"""Changes that make a plan fit a device, with the peak memory after each, from the numbers of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from ..support.device_memory import size

OFFLOADABLE = ("transformer", "transformer_2", "text_encoder", "text_encoder_2", "vae")

WORTH = 0.99
"""A change is reported only if the peak after it is at most this share of the peak before."""

Entry = Mapping[str, Any]
"""A component or a node of an estimate."""


@dataclass(frozen=True)
class Change:
    """A change to the workflow file that reduces memory.

    Attributes:
        text: Description of the change for the user.
        offloaded: Names of the components that the change offloads.
        halved: Whether the change halves the bytes of float32 weights.
        tiled: Whether the change lets the VAE work in tiles.
    """

    text: str
    offloaded: frozenset[str] = frozenset()
    halved: bool = False
    tiled: bool = False

    def and_(self, other: Change) -> Change:
        """The combination of this change and another one."""
        return Change(
            f"{self.text}{other.text}",
            self.offloaded | other.offloaded,
            self.halved or other.halved,
            self.tiled or other.tiled,
        )

    def saved(self, component: Entry) -> int:
        """Bytes of a component that the change removes from the device."""
        now = left = int(component.get("device_bytes", component["bytes"]))
        if component["part"] in self.offloaded:
            left = int(component.get("offload_bytes", now))
        if self.halved and component.get("dtype") == "float32":
            left //= 2
        return now - left

    def peak(self, rows: Sequence[Entry], components: Mapping[tuple[str, str], Entry]) -> int:
        """The highest peak memory of the nodes after the change, in bytes."""
        peaks = []
        for row in rows:
            held = {c["part"]: c for c in (components.get(tuple(key)) for key in row["components"]) if c is not None}
            tiled = row["detail"].get("tiled_peak_bytes") if self.tiled else None
            before = row["peak_bytes"] if tiled is None else min(tiled, row["peak_bytes"])
            peaks.append(before - sum(map(self.saved, held.values())))
        return max(peaks)


def advice_for(estimate: Mapping[str, Any]) -> list[str]:
    """Find changes to the workflow that reduce the peak memory, one line each.

    The change that saves most comes first. The list ends when the plan fits, or when no change helps.

    Args:
        estimate: The result of `sgd.graph.runtime.estimate.estimate` for a plan that does not fit.
    """
    rows = [row for row in estimate["nodes"] if row["calls"]]
    if not rows:
        return []
    memory, widest = estimate["memory_bytes"], max(rows, key=lambda row: row["peak_bytes"])
    lines = [f"{widest['name']} needs the most memory: {size(widest['peak_bytes'])}, and the device has {size(memory)}"]
    peak = widest["peak_bytes"]
    for number, (change, peak) in enumerate(best_changes(estimate)):
        verdict = "which fits" if peak <= memory else "which does not fit yet"
        lines.append(f"{'and ' if number else ''}{change.text}: at most {size(peak)}, {verdict}")
    if peak > memory:
        lines.append("a smaller size, fewer frames or a batch of one reduce all memory except that of the weights")
    return lines


def best_changes(estimate: Mapping[str, Any]) -> list[tuple[Change, int]]:
    """Changes until the plan fits or no change helps, each with the peak in bytes after it. The best comes first."""
    rows = [row for row in estimate["nodes"] if row["calls"]]
    components = {(c["holder"], c["part"]): c for c in estimate["components"]}
    left, made, found = list(_changes(estimate, rows)), Change(""), []
    peak = max((row["peak_bytes"] for row in rows), default=0)
    while left and peak > estimate["memory_bytes"]:
        best = min(left, key=lambda change: made.and_(change).peak(rows, components))
        after = made.and_(best).peak(rows, components)
        if after > WORTH * peak:
            break
        left.remove(best)
        found.append((best, after))
        made, peak = made.and_(best), after
    return found


def needed_changes(estimate: Mapping[str, Any]) -> list[Change]:
    """`best_changes` without those that later ones made needless. Narrower weights go first: they change results."""
    rows = [row for row in estimate["nodes"] if row["calls"]]
    components = {(c["holder"], c["part"]): c for c in estimate["components"]}
    kept = [change for change, _ in best_changes(estimate)]
    for change in sorted(kept, key=lambda change: (not change.halved, not change.tiled)):
        others = [other for other in kept if other is not change]
        if others and reduce(Change.and_, others).peak(rows, components) <= estimate["memory_bytes"]:
            kept = others
    return kept


def _changes(estimate: Mapping[str, Any], rows: Sequence[Entry]) -> Iterator[Change]:
    if estimate["device"] != "cpu":
        for part in sorted({c["part"] for c in estimate["components"] if "offload_bytes" in c}):
            if part in OFFLOADABLE:
                yield Change(f"`model.offload` of {part}", frozenset({part}))
    yield Change("weights in bfloat16 (`dtype` and `vae_dtype` of model.load)", halved=True)
    names = [row["name"] for row in rows if "tiled_peak_bytes" in row["detail"]]
    if names:
        yield Change(f"`tiling: on` of {' and '.join(names)}", tiled=True)
