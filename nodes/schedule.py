"""The node types `schedule.make` (noise levels), `schedule.step` (one denoising step) and `schedule.choose`.

The schedulers come from diffusers. A `Schedule` holds the class and the arguments of a scheduler. The scheduler
itself, with its history, is part of the state of `schedule.step`, so each run of a loop has its own history.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import UNKNOWN, Facts, NodeFacts, Unknown
from ..graph.contract.node import Passes, Reads, Run, State, node
from .models.model import Model
from .scheduler_choice import build_scheduler, configure, shift_of, unsupported_options, unusable
from .value_facts import LatentsFacts, ModelFacts, ScheduleFacts
from .values import Latents, Schedule, Step, Steps, Velocity

T = TypeVar("T")

MOST_STEPS = 100_000
"""The most steps of a schedule. Plans of so many take as long as plans of ten."""

NEEDS_SIZE = Diagnostic(
    "missing-parameter",
    "this model's noise levels depend on the image's width and height",
    "latents",
    help="connect `latents`, which have a width and a height, or set `shift`",
)


@dataclass(frozen=True, kw_only=True)
class ScheduleMakeFacts(NodeFacts):
    """Facts of `schedule.make`."""

    model: ModelFacts = ModelFacts()
    steps: int | None = None
    shift: float | Unknown | None = UNKNOWN
    scheduler: str | None = None
    spacing: str | None = None
    terminal: float | None = None
    latents: LatentsFacts | None = LatentsFacts()


def _describe(facts: ScheduleMakeFacts) -> ScheduleFacts:
    config, shift = facts.model.config("scheduler"), facts.shift
    if not config or facts.scheduler is None or shift is UNKNOWN:
        return ScheduleFacts(facts.steps)
    name, made = configure(config, facts.scheduler, shift)
    if made.get("use_dynamic_shifting"):
        return ScheduleFacts(facts.steps, name)
    return ScheduleFacts(facts.steps, name, shift_of(name, made))


def _check(facts: ScheduleMakeFacts) -> Iterator[Diagnostic]:
    config, shift = facts.model.config("scheduler"), facts.shift
    if not config or facts.scheduler is None:
        return
    name, made = configure(config, facts.scheduler, None if shift is UNKNOWN else shift, facts.terminal)
    yield from unusable(name, made)
    yield from unsupported_options(name, facts.spacing, facts.terminal)
    if made.get("use_dynamic_shifting") and facts.latents is None:
        yield NEEDS_SIZE


@node("schedule.make", describe=_describe, check=_check)
def make(
    model: Annotated[Model, Reads("scheduler")],
    *,
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 50,
    shift: Annotated[float | None, Field(gt=0)] = None,
    scheduler: Literal["auto", "unipc", "euler", "dpm++", "deis"] = "auto",
    spacing: Literal["auto", "even"] = "auto",
    terminal: Annotated[float | None, Field(ge=0, lt=1)] = None,
    latents: Annotated[Latents | None, Reads()] = None,
) -> Schedule:
    """Compute the noise levels of a run.

    Args:
        model: A loaded model; its scheduler's configuration is used.
        steps: Number of denoising steps, at most 100,000.
        shift: Shift of the noise levels towards noise, 1 for none (Wan: 3 for 480p, 5 for 720p). Without it, the
            repository's shift.
        scheduler: The solver. `auto` is the repository's solver; the others use its configuration, for flow
            matching. `unipc`, `dpm++` and `deis` are second-order multistep solvers, `euler` is first-order.
        spacing: The noise levels before the shift. `even` is 1, (n - 1) / n, … 1 / n for n steps, with which distilled
            models are trained; `auto` is what the model's pipeline in diffusers does, and differs for few steps.
        terminal: Noise level of the last step, to which the levels are stretched; 0 stretches nothing. Without it, the
            repository's (Qwen-Image: 0.02).
        latents: Needed only if the repository's shift depends on the size and there is no `shift`.

    Returns:
        One entry per step: index, sigma in [0, 1] and timestep as plain numbers, and the scheduler's own timestep
        (0-dimensional, int64 or float32, on the model's device).

    Raises:
        NodeError: If the scheduler is not deterministic or not for flow matching, its shift needs `latents`, it has no
            noise levels for this number of steps, or it cannot follow `spacing` or `terminal`.
    """
    own = model.component("scheduler")
    name, config = configure({**own.config, "_class_name": type(own).__name__}, scheduler, shift, terminal)
    for problem in (*unusable(name, config), *unsupported_options(name, spacing, terminal)):
        raise NodeError(problem)
    tokens = _tokens(model, latents) if config.get("use_dynamic_shifting") else None
    arguments = model.family.schedule_arguments(steps, config, tokens)
    if spacing == "even":
        import numpy

        levels = numpy.linspace(1.0, 1 / steps, steps)
        arguments = {name: value for name, value in arguments.items() if name == "mu"} | {"sigmas": levels}
    # Planning runs on meta tensors, but the noise levels themselves are always computed.
    device = "cpu" if model.device == "meta" else model.device
    instance = build_scheduler(name, config, arguments, device)
    sigmas, timesteps = instance.sigmas.tolist(), instance.timesteps.tolist()
    if not all(map(math.isfinite, sigmas)):  # `shift_terminal` divides by 0 for one step
        raise NodeError(f"{name} does not support {steps} step{'s' * (steps != 1)}", help="take more steps")
    training = instance.config.num_train_timesteps
    made = Steps(sigmas, instance.timesteps, training, tuple(map(float, timesteps)), name)
    return Schedule(made, name, config, arguments)


def _tokens(model: Model, latents: Latents | None) -> int:
    """Length of the transformer's sequence, for a shift that depends on it."""
    if latents is None:
        raise NodeError(NEEDS_SIZE)
    return model.family.tokens(latents.size, {part: model.config(part) for part in ("vae", "transformer")})


class SchedulerState(State):
    """The scheduler of one run of a loop, with its history."""

    def __init__(self) -> None:
        self.schedule: Schedule | None = None
        self.scheduler: Any = None
        self._new: dict[str, Any] = {}

    def make(self, schedule: Schedule, device: Any) -> None:
        """Make the scheduler of a schedule, without history."""
        self.schedule = schedule
        self.scheduler = build_scheduler(schedule.scheduler, schedule.config, schedule.arguments, device)
        self._new = dict(vars(self.scheduler))

    def snapshot(self) -> Any:
        if self.schedule is None:
            return None
        # Schedulers of diffusers replace the tensors of their history, and write into lists of them.
        history = {
            name: list(value) if isinstance(value, list) else value
            for name, value in vars(self.scheduler).items()
            if isinstance(value, list) or name not in self._new or self._new[name] is not value
        }
        return self.schedule, history

    def restore(self, snapshot: Any, run: Run) -> None:
        if snapshot is not None:
            schedule, history = snapshot
            self.make(schedule, schedule.steps.values.device)
            vars(self.scheduler).update(history)


@node("schedule.step")
def step(schedule: Schedule, step: Step, latents: Latents, velocity: Velocity, state: SchedulerState) -> Latents:
    """Take one step of the schedule: from this noise level to the next.

    Args:
        schedule: The schedule of the loop.
        step: The step to take.
        latents: Latents at the noise level of the step.
        velocity: The denoiser's guided prediction at this noise level.

    Returns:
        Latents at the next noise level, without noise after the last step; the shape does not change.

    Raises:
        NodeError: If the steps are out of order.
    """
    if state.schedule is not schedule:
        state.make(schedule, step.value.device)
        # With the index, a scheduler does not search for the timestep; a search would wait for the device.
        state.scheduler.set_begin_index(step.index)
    elif state.scheduler.step_index != step.index:
        raise NodeError(
            f"step {step.index} ran instead of step {state.scheduler.step_index}: the solver needs the steps in order",
            help="run the loop over `$schedule`, in order, with one `schedule.step`",
        )
    tensor = state.scheduler.step(velocity.tensor, step.value, latents.tensor, return_dict=False)[0]
    return Latents(tensor, latents.family, latents.size)


@dataclass(frozen=True, kw_only=True)
class ScheduleChooseFacts(NodeFacts):
    """Facts of `schedule.choose`."""

    step: ScheduleFacts = ScheduleFacts()
    boundary: float | None = None
    above: object = None
    below: object = None


def _describe_choice(facts: ScheduleChooseFacts) -> Any:
    above, below = facts.above, facts.below
    if isinstance(above, Facts) and isinstance(below, Facts):
        return above.either(below)
    return above if above == below else None


@node("schedule.choose", describe=_describe_choice)
def choose(
    step: Step,
    *,
    boundary: Annotated[float, Field(ge=0, le=1)],
    above: Annotated[T, Passes()],
    below: Annotated[T, Passes()],
) -> T:
    """Choose one of two values by noise level. The values may be models (Wan 2.2), gates or guidance scales.

    Args:
        step: The step of the loop.
        boundary: Share of the training timesteps, in [0, 1] (`boundary_ratio` of Wan 2.2's repositories).
        above: The value for timesteps at or above the boundary: the noisy steps.
        below: The value for all later steps.

    Returns:
        `above` or `below`.
    """
    over = [timestep >= boundary * step.train_timesteps for timestep in step.schedule]
    side = step.timestep >= boundary * step.train_timesteps
    chosen = above if side else below
    if not isinstance(chosen, Model) or not step.schedule:
        return chosen
    # Gates count the steps of their own component.
    return chosen.during([index for index, is_over in enumerate(over) if is_over == side])  # type: ignore[return-value]
