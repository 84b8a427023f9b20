"""The standard node library: what sgd knows about diffusion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..graph.node import NodeError, Passes, Reads, Run, Shares, State, node
from . import planning

if TYPE_CHECKING:
    from ..graph.calibration import Calibration

NODE_MODULES = (
    "models.load",
    "models.lora",
    "models.attention",
    "models.offload",
    "models.compile",
    "models.expert",
    "text",
    "latents",
    "schedule",
    "cfg",
    "denoiser",
    "vae",
    "video",
    "image",
    "image_condition",
    "metrics",
    "cache.simple",
    "cache.dbcache",
    "cache.teacache",
    "cache.custom",
    "cache.library",
)


@contextmanager
def runtime(run: Run) -> Iterator[None]:
    """What surrounds a run that uses these nodes: gradients are off; while planning, attention is one operation.

    The libraries that every model needs are imported here, so that no node is charged for them.
    """
    import diffusers.utils.torch_utils  # noqa: F401
    import transformers  # noqa: F401

    with planning.runtime(run):
        yield


def doctor() -> dict[str, dict[str, str]]:
    """Facts about this machine, for `sgd doctor`."""
    from .machine import doctor

    return doctor()


def report(record: Mapping[str, Any]) -> str:
    """What the table of a run says beside its nodes, for `sgd exec`: the decisions of cache gates."""
    from .cache.report import report

    return report(record)


def lighter(estimate: Mapping[str, Any]) -> list[str]:
    """What would make a plan fit the device that does not, for `sgd plan` and runs that failed for want of memory."""
    from .advice import advice_for

    return advice_for(estimate)


def starter(source: str) -> tuple[str, str]:
    """Name and text of a first workflow for a model, for `sgd init`."""
    from .initial import starter

    return starter(source)


def calibrate(order: int) -> Calibration:
    """What `sgd calibrate` measures: the tables of cache gates, with polynomials of this order."""
    from .cache.calibrate import Measurements

    return Measurements(order)


__all__ = [
    "NODE_MODULES",
    "NodeError",
    "Passes",
    "Reads",
    "Run",
    "Shares",
    "State",
    "calibrate",
    "doctor",
    "lighter",
    "node",
    "planning",
    "report",
    "runtime",
    "starter",
]
