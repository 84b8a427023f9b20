"""The `Gate` value: the description of a cache gate in five choices; holds no state. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...graph.contract.facts import Facts
from ...graph.contract.ports import Port

Signal = Literal["none", "auto", "time", "time_projection", "modulated", "front", "model"]
Rule = Literal["mask", "change", "polynomial", "magnitude"]
Policy = Literal["static", "dynamic"]
Preset = Literal["none", "slow", "medium", "fast", "ultra"]

SIGNALS: Mapping[str, str] = {
    "none": "nothing is compared",
    "time": "the embedding of the timestep",
    "time_projection": "the embedding of the timestep, projected for all blocks",
    "modulated": "the modulated input of the first block",
    "front": "the residual of the first blocks",
    "model": "the model's input and output",
}


@dataclass(frozen=True)
class Limits:
    """Steps that are computed without asking the rule.

    Attributes:
        warmup_steps: Of this many first steps, every `warmup_interval`-th is computed.
        warmup_share: The same as a share of all steps, in [0, 1], each of which is computed.
        max_consecutive: Longest run of reused steps, None for no limit.
        max_reused: Most reused steps in all, None for no limit.
        max_accumulated: When the measured changes have added up to this, everything is computed; None for no limit.
        last: The last step is computed. The first always is: there is nothing to reuse.
        always: Further steps that are computed, by index.
    """

    warmup_steps: int = 0
    warmup_interval: int = 1
    warmup_share: float = 0.0
    max_consecutive: int | None = None
    max_reused: int | None = None
    max_accumulated: float | None = None
    last: bool = False
    always: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mask:
    """Which steps may be reused: one of a preset scaled to the number of steps, bins, the digits, or every n-th.

    Attributes:
        digits: 1 (compute) and 0 (reuse), one per step.
        preset: Name of a preset (`masks.PRESETS`).
        compute_bins: Lengths of the runs of computed steps.
        reuse_bins: Lengths of the runs of reused steps between them.
        every: Compute each n-th step, from the first.
        policy: On a 0, `static` reuses; `dynamic` reuses if the rule agrees.
    """

    digits: str | None = None
    preset: Preset | None = None
    compute_bins: tuple[int, ...] = ()
    reuse_bins: tuple[int, ...] = ()
    every: int | None = None
    policy: Policy = "static"


@dataclass(frozen=True)
class Gate(Port):
    """Description of a cache gate.

    A choice that is None takes the method's own value for the model. `resolved_gate.resolve` finds it.

    Attributes:
        kind: The method: `none`, `dbcache`, `teacache`, ...; `library` hands the transformer to the cache-dit package.
        name: Path of the node that made it, as the record names it.
        signal: The tensor that is compared between steps.
        rule: When to reuse. `mask`: as the mask says. `change`: the signal's relative change is under the threshold.
            `polynomial`: a polynomial of it, added up, is. `magnitude`: so is the error that a table
            of ratios predicts.
        threshold: For the rules other than `mask`.
        mask: Which steps may be reused; None if any may.
        coefficients: Of the polynomial, highest order first.
        clamp: A polynomial below 0 counts as 0.
        ratios: The table of `magnitude`, per guidance branch; one entry per step.
        order: Order of the Taylor expansion of the reused residual; 0 takes the last residual unchanged.
        front: First blocks that are always computed.
        back: Last blocks that are always computed.
        stacks: A model with two lists of blocks decides for both `together`, or `separate`ly.
        limits: Steps that are always computed.
        table: A calibration table that coefficients or ratios come from, by path.
        options: Further options of a kind.
    """

    kind: str
    name: str = ""
    signal: Signal = "none"
    rule: Rule = "mask"
    threshold: float | None = None
    mask: Mask | None = None
    coefficients: tuple[float, ...] | None = None
    clamp: bool = False
    ratios: Mapping[str, tuple[float, ...]] | None = None
    order: int = 0
    front: int | None = 0
    back: int = 0
    stacks: Literal["together", "separate"] = "together"
    limits: Limits = field(default_factory=Limits)
    table: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.kind != "none"

    @property
    def off(self) -> bool:
        """A threshold of 0: the rule reuses nothing (a static mask beside it still does)."""
        return self.rule != "mask" and self.threshold is not None and self.threshold <= 0

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.kind}
        for name in ("signal", "rule", "threshold", "order", "front", "back", "table"):
            value = getattr(self, name)
            if value not in (None, 0, "none"):
                found[name] = value
        return {**found, **self.options}


@dataclass(frozen=True)
class GateFacts(Facts):
    """A gate before the run.

    Attributes:
        gates: The gate, or all gates that may be chosen; empty if a parameter of it is not known.
        chosen: The value is one of several gates, which a step of the loop decides.
    """

    gates: tuple[Gate, ...] = ()
    chosen: bool = False

    def either(self, other: Facts) -> Facts | None:
        """One of two gates."""
        if not isinstance(other, GateFacts):
            return None
        return GateFacts(self.gates + other.gates, chosen=True)
