"""Changes that make a plan fit a device, with the peak memory after each, from the numbers of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    components = {(c["holder"], c["part"]): c for c in estimate["components"]}
    memory, widest = estimate["memory_bytes"], max(rows, key=lambda row: row["peak_bytes"])
    lines = [f"{widest['name']} needs the most memory: {size(widest['peak_bytes'])}, and the device has {size(memory)}"]
    left, made, peak = list(_changes(estimate, rows)), Change(""), widest["peak_bytes"]
    while left and peak > memory:
        best = min(left, key=lambda change: made.and_(change).peak(rows, components))
        after = made.and_(best).peak(rows, components)
        if after > WORTH * peak:
            break
        left.remove(best)
        verdict = "which fits" if after <= memory else "which does not fit yet"
        lines.append(f"{'and ' if made.text else ''}{best.text}: at most {size(after)}, {verdict}")
        made, peak = made.and_(best), after
    if peak > memory:
        lines.append("a smaller size, fewer frames or a batch of one reduce all memory except that of the weights")
    return lines


def _changes(estimate: Mapping[str, Any], rows: Sequence[Entry]) -> Iterator[Change]:
    if estimate["device"] != "cpu":
        for part in sorted({c["part"] for c in estimate["components"] if "offload_bytes" in c}):
            if part in OFFLOADABLE:
                yield Change(f"`model.offload` of {part}", frozenset({part}))
    yield Change("weights in bfloat16 (`dtype` and `vae_dtype` of model.load)", halved=True)
    names = [row["name"] for row in rows if "tiled_peak_bytes" in row["detail"]]
    if names:
        yield Change(f"`tiling: on` of {' and '.join(names)}", tiled=True)
