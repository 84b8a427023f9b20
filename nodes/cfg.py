"""`cfg.split` and `cfg.merge`: classifier-free guidance, on the guiders of diffusers.

`cfg.split` chooses the branches that run at each step, and the rule that merges them. `cfg.merge` applies the rule.
A guider's momentum is part of the state of `cfg.merge`, so each run of a loop starts without momentum.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import UNKNOWN, NodeFacts, Unknown, require
from ..graph.contract.node import Reads, Run, State, node
from .cache.tuning.linear_guidance import nonlinear_guidance
from .families import by_name
from .support.quiet import QuietLogger
from .value_facts import BranchesFacts, ConditioningFacts
from .values import Branches, Conditioning, Predictions, Velocity

GUIDER_LOGGER = QuietLogger("diffusers.guiders.guider_utils")
"""Every new guider warns that guiders are experimental; sgd pins the version of diffusers for that reason."""


@dataclass(frozen=True)
class Guider:
    """A guider of diffusers.

    Attributes:
        module: Its module in `diffusers.guiders`. The package itself imports every guider and every hook.
        name: Its class.
        options: Its names for parameters of `cfg.split`.
        flat: Whether it needs flat tensors.
    """

    module: str
    name: str
    options: Mapping[str, str]
    flat: bool = False


GUIDERS = {
    "cfg": Guider("classifier_free_guidance", "ClassifierFreeGuidance", {"rescale": "guidance_rescale"}),
    "apg": Guider(
        "adaptive_projected_guidance",
        "AdaptiveProjectedGuidance",
        {
            "rescale": "guidance_rescale",
            "momentum": "adaptive_projected_guidance_momentum",
            "norm_threshold": "adaptive_projected_guidance_rescale",
            "eta": "eta",
        },
    ),
    "cfg_zero_star": Guider(
        "classifier_free_zero_star_guidance",
        "ClassifierFreeZeroStarGuidance",
        {"rescale": "guidance_rescale", "zero_init_steps": "zero_init_steps"},
    ),
    "tcfg": Guider(
        "tangential_classifier_free_guidance", "TangentialClassifierFreeGuidance", {"rescale": "guidance_rescale"}
    ),
    # This guider takes a norm over all dimensions but the batch; torch's matrix norm takes only two dimensions.
    "mag": Guider(
        "magnitude_aware_guidance",
        "MagnitudeAwareGuidance",
        {"rescale": "guidance_rescale", "alpha": "alpha"},
        flat=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class CfgSplitFacts(NodeFacts):
    """Facts of `cfg.split`."""

    conditioning: ConditioningFacts = ConditioningFacts()
    scale: float | None = None
    embedded: float | None = None
    start: float | None = None
    stop: float | None = None
    guider: str | None = None
    batched: bool | Literal["auto"] | None = None
    rescale: float | None = None
    momentum: float | None = None
    norm_threshold: float | None = None
    eta: float | None = None
    zero_init_steps: int | Unknown | None = UNKNOWN
    alpha: float | None = None

    @property
    def options(self) -> dict[str, float]:
        """The guider's options that the workflow sets, by their names in the workflow."""
        options = {
            "rescale": self.rescale,
            "momentum": self.momentum,
            "norm_threshold": self.norm_threshold,
            "eta": self.eta,
            "zero_init_steps": None if self.zero_init_steps is UNKNOWN else self.zero_init_steps,
            "alpha": self.alpha,
        }
        return {name: value for name, value in options.items() if value is not None}


def _unguided(facts: CfgSplitFacts) -> bool:
    """Whether scale, start and stop are known and switch guidance off."""
    family = by_name(facts.conditioning.family)
    scale, start, stop = facts.scale, facts.start, facts.stop
    neutral = family is not None and scale is not None and scale <= family.neutral_scale
    never = start is not None and stop is not None and start >= stop
    return neutral or never


def _reads(facts: CfgSplitFacts) -> Mapping[str, tuple[str, ...]]:
    """The prompts that are read: only the positive one if it is known that no step is guided."""
    return {"conditioning": ("positive",) if _unguided(facts) else ("positive", "negative")}


def _describe(facts: CfgSplitFacts) -> BranchesFacts:
    family, scale = by_name(facts.conditioning.family), facts.scale
    guided = family is not None and scale is not None and scale > family.neutral_scale
    nonlinear = nonlinear_guidance(facts.guider, facts.rescale, family.normalises) if family and guided else None
    running = 1 if _unguided(facts) else 2 if guided else None
    start, stop = facts.start, facts.stop
    window = (start, stop) if guided and start is not None and stop is not None else None
    prompts, batched = facts.conditioning.prompts, facts.batched is True
    return BranchesFacts(facts.conditioning.family, prompts, nonlinear, running, batched, window)


def _check(facts: CfgSplitFacts) -> Iterator[Diagnostic]:
    guider, start, stop = facts.guider, facts.start, facts.stop
    if guider in GUIDERS:
        for name in facts.options:
            if name not in GUIDERS[guider].options:
                owners = ", ".join(other for other, entry in GUIDERS.items() if name in entry.options)
                help = f"guiders with {name}: {owners}"
                yield Diagnostic("bad-value", f"guider {guider!r} has no parameter {name}", name, help=help)
    if start is not None and stop is not None and stop < start:
        yield Diagnostic("bad-value", f"guidance cannot stop at {stop}, before it starts at {start}", "stop")
    family = by_name(facts.conditioning.family)
    if guider == "cfg_zero_star" and facts.zero_init_steps not in (0, UNKNOWN):
        if facts.rescale:
            message = "a prediction of zeros cannot be rescaled: its deviation is 0"
            help = "set `zero_init_steps: 0`, or leave `rescale` out"
            yield Diagnostic("unsupported", message, "rescale", help=help)
        if family is not None and family.normalises:
            message = f"{family.name} rescales guided predictions, and a prediction of zeros has no norm"
            yield Diagnostic("unsupported", message, "guider", help="set `zero_init_steps: 0`")
    if facts.embedded is not None and family is not None and not family.embedded_guidance:
        message = f"models of {family.name} take no guidance scale as an input"
        yield Diagnostic("unsupported", message, "embedded")


@node("cfg.split", reads=_reads, describe=_describe, check=_check)
def split(
    conditioning: Annotated[Conditioning, Reads("positive", "negative")],
    *,
    scale: float,
    embedded: float | None = None,
    start: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    stop: Annotated[float, Field(ge=0, le=1)] = 1.0,
    guider: Literal["cfg", "apg", "cfg_zero_star", "tcfg", "mag"] = "cfg",
    batched: Literal["auto", True, False] = "auto",
    rescale: Annotated[float | None, Field(ge=0, le=1)] = None,
    momentum: float | None = None,
    norm_threshold: Annotated[float | None, Field(ge=0)] = None,
    eta: float | None = None,
    zero_init_steps: Annotated[int | None, Field(ge=0)] = None,
    alpha: float | None = None,
) -> Branches:
    """Choose the guidance branches that run at each step, and the rule that merges their predictions.

    Only the positive branch runs at steps without guidance (a neutral scale, or outside of `start` and `stop`), which
    halves their work. If no step is guided, and this is known before the run, the negative prompt is not encoded. An
    option that is not set has the guider's default in diffusers.

    Args:
        conditioning: Encoded prompts.
        scale: Guidance scale, as in the family's pipeline. Wan guides with scales above 1, Z-Image with scales above
            0; a scale at or below that number switches guidance off.
        embedded: Guidance scale as an input of the transformer, for families that take one.
        start: Fraction of the steps after which guidance starts, in [0, 1).
        stop: Fraction of the steps after which guidance stops, in [start, 1].
        guider: The rule that merges the predictions. `cfg`: classifier-free guidance (2207.12598). `apg`: adaptive
            projected guidance (2410.02416). `cfg_zero_star`: CFG-Zero* (2503.18886). `tcfg`: tangential damping
            (2503.18137). `mag`: magnitude-aware (2508.03442).
        batched: Evaluate both branches in one call: more memory, sometimes faster. `auto` does so where it was measured
            to be faster: Qwen-Image on a GPU with `model.optimize`, one image at a time. The details of
            `denoiser.predict` tell the choice and its reason.
        rescale: Share in [0, 1] of rescaling to the standard deviation of the positive prediction (2305.08891, 3.4).
        momentum: `apg` only. Weight of earlier differences, usually negative; without it there is no momentum.
        norm_threshold: `apg` only. Largest norm of the difference, 0 for no limit.
        eta: `apg` only. Weight of the part of the difference that is parallel to the positive prediction.
        zero_init_steps: `cfg_zero_star` only. Number of first steps that predict zero.
        alpha: `mag` only. Rate at which the scale falls with the relative size of the difference.

    Returns:
        The branches and the rule, without state.

    Raises:
        NodeError: If the guider does not have an option, or a value is out of its range.
    """
    facts = CfgSplitFacts(
        conditioning=ConditioningFacts(conditioning.family),
        embedded=embedded,
        start=start,
        stop=stop,
        guider=guider,
        rescale=rescale,
        momentum=momentum,
        norm_threshold=norm_threshold,
        eta=eta,
        zero_init_steps=zero_init_steps,
        alpha=alpha,
    )
    require(_check, facts)
    family = by_name(conditioning.family)
    if family is None:
        raise NodeError(f"there is no model family {conditioning.family!r}")
    options = {GUIDERS[guider].options[name]: value for name, value in facts.options.items()}
    return Branches(conditioning, scale, family.neutral_scale, guider, options, start, stop, batched, embedded)


class GuiderState(State):
    """The guider of one run of a loop. Its momentum is kept if the scale changes within the loop."""

    def __init__(self) -> None:
        self.key: tuple[Any, ...] | None = None
        self.guider: Any = None
        self.restored: Any = None

    def use(self, branches: Branches) -> Any:
        options = dict(branches.options)
        key = (branches.guider, branches.scale, branches.neutral, branches.start, branches.stop, options)
        if key != self.key:
            average = self.average()
            self.key, self.guider = key, _make(branches)
            if average is not None and getattr(self.guider, "momentum_buffer", None) is not None:
                self.guider.momentum_buffer.running_average = average
        return self.guider

    def average(self) -> Any:
        """The momentum: a tensor, or 0 before the first step; None for a guider without momentum."""
        if self.guider is None:
            return self.restored
        return getattr(getattr(self.guider, "momentum_buffer", None), "running_average", None)

    def snapshot(self) -> Any:
        return self.average()

    def restore(self, snapshot: Any, run: Run) -> None:
        self.restored = snapshot


def _make(branches: Branches) -> Any:
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

    known = GUIDERS[branches.guider]
    module = importlib.import_module(f"diffusers.guiders.{known.module}")
    with GUIDER_LOGGER.held():
        guider = getattr(module, known.name)(
            guidance_scale=branches.scale,
            start=branches.start,
            stop=branches.stop,
            # Families with a neutral scale of 0 compute positive + scale * (positive - negative).
            use_original_formulation=branches.neutral == 0,
            **branches.options,
        )
    momentum = getattr(guider, "adaptive_projected_guidance_momentum", None)
    if momentum is not None:
        guider.momentum_buffer = MomentumBuffer(momentum)
    return guider


@node("cfg.merge")
def merge(predictions: Predictions, branches: Branches, state: GuiderState) -> Velocity:
    """Merge the predictions of the guidance branches into one.

    Args:
        predictions: The denoiser's predictions by branch.
        branches: The rule that merges them.

    Returns:
        One prediction of unchanged shape and dtype, normalised as in the family's pipeline (Qwen-Image: each token to
        the norm of the positive prediction). At a neutral scale, the positive prediction, unchanged.

    Raises:
        NodeError: If a branch that runs at this step is missing.
    """
    step = predictions.step
    missing = [name for name in branches.active(step) if name not in predictions.branches]
    if missing:
        help = "give denoiser.predict and cfg.merge the same `branches`"
        raise NodeError(f"the {missing[0]} branch was not predicted", help=help)
    if not branches.guided:
        return Velocity(predictions.branches["positive"])
    guider = state.use(branches)
    guider.set_state(step=step.index, num_inference_steps=step.count, timestep=step.value)
    chosen = [predictions.branches[name] for name in branches.active(step)]
    shape = chosen[0].shape
    if GUIDERS[branches.guider].flat:
        chosen = [prediction.flatten(1) for prediction in chosen]
    merged = guider.forward(*chosen).pred.reshape(shape)
    family = by_name(branches.conditioning.family)
    if family is not None and len(chosen) > 1:
        merged = family.normalise(merged, predictions.branches["positive"])
    return Velocity(merged)
