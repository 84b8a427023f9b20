"""Check what a tuned gate needs of a loop: linear guidance, and Euler's step. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ...value_facts import BranchesFacts, ModelFacts, ScheduleFacts
from ...values import guided_steps
from ..loop_turn import Turn

EULER = "FlowMatchEulerDiscreteScheduler"
"""The scheduler whose step adds a multiple of the velocity: a velocity can hold a correction of earlier ones."""

HELP = "set `guider: cfg` without `rescale`, or choose another gate"

PARTLY_GUIDED = Diagnostic(
    "unsupported",
    "a tuned gate needs linear guidance: some steps are guided and others are not (`start`, `stop`)",
    "gate",
    help="leave `start` and `stop` of cfg.split out, or choose another gate",
)

SHARED_STEPS = Diagnostic(
    "unsupported",
    "a tuned gate is for models with one transformer, and here two share the steps",
    "gate",
    help="choose another gate",
)

_TUNING: ContextVar[bool] = ContextVar("is_tuning", default=False)


@contextmanager
def tuning() -> Iterator[None]:
    """Check every loop inside `with` as if its gate were a tuned one: `sgd tune` will write that gate."""
    token = _TUNING.set(True)
    try:
        yield
    finally:
        _TUNING.reset(token)


def is_tuning() -> bool:
    return _TUNING.get()


def nonlinear_guidance(guider: str | None, rescale: float | None, normalises: bool) -> str | None:
    """The reason why guidance is not linear; None if it is, or is not known.

    Args:
        guider: Name of the guider; None if it is not known.
        rescale: Its share of rescaling.
        normalises: Whether the family gives the guided velocity the norm of the positive one.
    """
    if guider not in (None, "cfg"):
        return f"the guider `{guider}` is not linear in the predictions"
    if rescale:
        return "`rescale` scales the guided velocity by its deviation"
    if normalises:
        return "guidance of this family scales the velocity by its norm"
    return None


def unsupported(reason: str) -> Diagnostic:
    """The problem of a tuned gate behind guidance that is not linear."""
    return Diagnostic("unsupported", f"a tuned gate needs linear guidance: {reason}", "gate", help=HELP)


def other_scheduler(name: str) -> Diagnostic:
    """The problem of a tuned gate with a scheduler that takes other steps than Euler's."""
    message = f"a tuned gate corrects earlier steps, which needs Euler's step, and the workflow uses {name}"
    return Diagnostic("unsupported", message, "gate", help="set `scheduler: euler` in schedule.make")


def known_problems(model: ModelFacts, step: ScheduleFacts, branches: BranchesFacts) -> Iterator[Diagnostic]:
    """The problems of a tuned gate in a loop that are known before the run."""
    if model.chosen:
        yield SHARED_STEPS
    if branches.nonlinear is not None:
        yield unsupported(branches.nonlinear)
    elif branches.window and step.steps and 0 < len(guided_steps(*branches.window, step.steps)) < step.steps:
        yield PARTLY_GUIDED
    if step.scheduler not in (None, EULER):
        yield other_scheduler(step.scheduler)


def require_tunable(turn: Turn) -> None:
    """Check that a tuned gate can work in a loop.

    Raises:
        NodeError: If guidance is not linear, some steps are guided and others are not, the scheduler's step is not
            Euler's, or several transformers share the steps.
    """
    branches, step = turn.branches, turn.step
    if len(turn.window) < step.count:
        raise NodeError(SHARED_STEPS)
    if step.scheduler and step.scheduler != EULER:
        raise NodeError(other_scheduler(step.scheduler))
    if not branches.guided:
        return
    rescale = branches.options.get("guidance_rescale")
    reason = nonlinear_guidance(branches.guider, rescale, turn.model.family.normalises)
    if reason is not None:
        raise NodeError(unsupported(reason))
    if len({branches.active_at(index, step.count) for index in turn.window}) > 1:
        raise NodeError(PARTLY_GUIDED)
