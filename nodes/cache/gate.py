"""The value `Gate`: describes a cache gate by five choices. It holds no state. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...graph.contract.facts import Facts
from ...graph.contract.ports import Port
from .tuning.step_plan import StepPlan

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
    """Limits: steps that are computed whatever the rule says.

    Attributes:
        warmup_steps: Of this many first steps, every `warmup_interval`-th is computed.
        warmup_share: Share in [0, 1] of all steps; these first steps are all computed.
        max_consecutive: Largest number of reused steps in a row; None for no limit.
        max_reused: Largest number of reused steps; None for no limit.
        max_accumulated: When the sum of the measured changes reaches this number, all further steps are computed; None
            for no limit.
        last: Whether the last step is computed. The first step is always computed, since there is nothing to reuse yet.
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
    """The steps that may be reused. A mask is given by digits, by a preset, by bins, or by computing every n-th step.

    Attributes:
        digits: One digit for each step: 1 (compute) or 0 (reuse).
        preset: Name of a preset (`masks.PRESETS`), which is scaled to the number of steps.
        compute_bins: Lengths of the runs of computed steps.
        reuse_bins: Lengths of the runs of reused steps between the runs of computed steps.
        every: Compute each n-th step, from the first.
        policy: At a 0 of the mask, `static` always reuses, and `dynamic` reuses if the gate's rule agrees.
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

    If a choice is None, `resolved_gate.resolve` fills in the method's value for the model.

    Attributes:
        kind: The method: `none`, `dbcache`, `teacache`, ...; `library` hands the transformer to the cache-dit package.
        name: Path of the gate's node in the workflow; the record uses this name.
        signal: The tensor that is compared between steps.
        rule: When to reuse. `mask`: at the zeros of the mask. `change`: if the signal's relative change is below the
            threshold. `polynomial`: if the sum of a polynomial of that change is below the threshold. `magnitude`: if
            the error that a table of ratios predicts is not above the threshold.
        threshold: Threshold of the rule; None for the rule `mask`.
        mask: The steps that may be reused; None if all may be.
        coefficients: Coefficients of the polynomial, highest order first.
        clamp: Whether a negative value of the polynomial counts as 0.
        ratios: The table of the rule `magnitude`: one ratio for each step, by guidance branch.
        order: Order of the Taylor expansion of the reused residual; 0 takes the last residual unchanged.
        front: First blocks that are always computed.
        back: Last blocks that are always computed.
        stacks: For a model with two lists of blocks: `together` takes one decision for both, `separate` one for each.
        limits: Steps that are always computed.
        table: Path of the table with the coefficients, the ratios or the plan; None without a table.
        plan: The computed steps of a tuned gate, and the weights of the others.
        options: Further options of this kind of gate.
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
    plan: StepPlan | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.kind != "none"

    @property
    def off(self) -> bool:
        """Whether the threshold is 0, with which the rule reuses nothing. A static mask still reuses."""
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
    """Facts about a gate before the run.

    Attributes:
        gates: The gate, or all gates that may be chosen; empty if a parameter of a gate is not known.
        chosen: Whether each step of the loop chooses one of several gates.
    """

    gates: tuple[Gate, ...] = ()
    chosen: bool = False

    def either(self, other: Facts) -> Facts | None:
        """Facts of a value that is one of two gates."""
        if not isinstance(other, GateFacts):
            return None
        return GateFacts(self.gates + other.gates, chosen=True)
