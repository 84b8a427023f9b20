"""The scheduler of diffusers for a model and a solver: its class, its configuration, and solvers that do not work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..graph.contract.diagnostics import Diagnostic
from .support.lazy import lazy
from .support.quiet import quiet

if TYPE_CHECKING:
    import diffusers
else:
    diffusers = lazy("diffusers")

CLASSES = {
    "unipc": "UniPCMultistepScheduler",
    "euler": "FlowMatchEulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "deis": "DEISMultistepScheduler",
}

SIGMAS = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")
"""Schedulers of diffusers that take noise levels (`sigmas`), and stretch them to a last one (`shift_terminal`)."""

DEFAULTS = "_use_default_values"
"""Entry of a scheduler's configuration in diffusers: the names of entries that its file does not have."""


def configure(
    config: Mapping[str, Any], scheduler: str, shift: float | None, terminal: float | None = None
) -> tuple[str, dict[str, Any]]:
    """Class and configuration of the chosen scheduler, made from the repository's configuration."""
    own = config.get("_class_name", "")
    name = own if scheduler == "auto" else CLASSES[scheduler]
    made = {**config, "_class_name": name}
    if scheduler != "auto" and name != own:
        # `from_config` does not convert these entries: the shift has another name in multistep solvers, and flow
        # matching is an option of theirs, because they were first written for other noise schedules.
        inherited = shift_of(own, config)
        made |= _shifted(name, inherited)
        if not _is_flow_match(name):
            made |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        if scheduler == "deis":
            made |= {"algorithm_type": "deis", "solver_type": "logrho"}
    if shift is not None:
        made |= _shifted(name, shift) | {"use_dynamic_shifting": False}
    if terminal is not None:
        made["shift_terminal"] = terminal or None
    if DEFAULTS in config:  # `from_config` leaves out the entries that this names
        made[DEFAULTS] = [entry for entry in config[DEFAULTS] if made.get(entry) == config.get(entry)]
    return name, made


def _is_flow_match(name: str) -> bool:
    return name.startswith("FlowMatch")


def shift_of(name: str, config: Mapping[str, Any]) -> float:
    """The shift in the configuration of a scheduler; 1 without one."""
    found: float = config.get("shift" if _is_flow_match(name) else "flow_shift", 1.0)
    return found


def _shifted(name: str, shift: float) -> dict[str, Any]:
    return {"shift" if _is_flow_match(name) else "flow_shift": shift}


def unusable(name: str, config: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Report a scheduler that cannot work in a loop over steps."""
    reason = None
    if name.startswith("FlowMatchHeun"):
        reason = "evaluates the model twice per step, which a loop over steps cannot do"
    elif config.get("stochastic_sampling") or "LCM" in name or str(config.get("algorithm_type", "")).startswith("sde"):
        reason = "as configured adds fresh noise at every step, and no seed controls that noise"
    elif not _is_flow_match(name) and config.get("prediction_type") != "flow_prediction":
        reason = "as configured is not for flow matching"
    if reason is not None:
        help = f"choose one of {', '.join(CLASSES)}"
        yield Diagnostic("unsupported", f"{name} {reason}", "scheduler", help=help)


def unsupported_options(name: str, spacing: str | None, terminal: float | None) -> Iterator[Diagnostic]:
    """A problem for each parameter that a scheduler cannot follow."""
    if name in SIGMAS:
        return
    for parameter, given in (("spacing", spacing == "even"), ("terminal", bool(terminal))):
        if given:
            message = f"{name} makes its own noise levels, and has no `{parameter}`"
            yield Diagnostic("unsupported", message, parameter, help="choose scheduler: euler or unipc")


def build_scheduler(name: str, config: Mapping[str, Any], arguments: Mapping[str, Any], device: Any) -> Any:
    """The scheduler of diffusers with its noise levels. `arguments`: those of its `set_timesteps`."""
    with quiet():  # a solver warns about the entries of another solver's configuration that it ignores
        scheduler = getattr(diffusers, name).from_config(dict(config))
    scheduler.set_timesteps(**arguments, device=device)
    return scheduler
